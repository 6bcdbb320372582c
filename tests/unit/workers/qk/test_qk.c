/* SPDX-License-Identifier: MIT */
/* Tier `qk`: known cases, the same numbers as the attention tier's, blocks, memory. */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/across/across.h"
#include "workers/qk/qk.h"

#define BATCH   2
#define HEADS   4
#define KV      2
#define QUERIES 150
#define KEYS    150
#define DIM     12
#define WRITTEN 7

static const struct block_plan core = {.group = {[METRIC_GROUP_CORE] = true}, .local_window = 3};

/* A message with random vectors, and what a test makes of it. */
struct message {
    float q[BATCH * HEADS * QUERIES * DIM], k[BATCH * KV * KEYS * DIM], v[BATCH * KV * KEYS * DIM];
    int32_t documents[BATCH * KEYS], tokens[BATCH * KEYS], length[BATCH];
    uint8_t mask[BATCH * QUERIES * KEYS];
    float dout[BATCH * HEADS * QUERIES * DIM], wo_r[HEADS * WRITTEN * DIM], x_norm[BATCH * QUERIES];
    double weights[BATCH * HEADS * QUERIES * KEYS], grad[BATCH * HEADS * QUERIES * KEYS];
    struct attention a;
};

static struct message *new_message(void)
{
    struct message *m = calloc(1, sizeof *m);
    uint64_t seed = 7;
    assert_non_null(m);
    for (size_t i = 0; i < sizeof m->q / sizeof m->q[0]; i++) {
        m->q[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t i = 0; i < sizeof m->k / sizeof m->k[0]; i++) {
        m->k[i] = (float)(4 * random_unit(&seed) - 2);
        m->v[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t i = 0; i < sizeof m->dout / sizeof m->dout[0]; i++) {
        m->dout[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t i = 0; i < sizeof m->wo_r / sizeof m->wo_r[0]; i++) {
        m->wo_r[i] = (float)(4 * random_unit(&seed) - 2);
    }
    for (size_t i = 0; i < BATCH * QUERIES; i++) {
        m->x_norm[i] = (float)(1 + random_unit(&seed));
    }
    for (size_t j = 0; j < BATCH * KEYS; j++) {
        m->documents[j] = (int32_t)(j % KEYS / 40);
        m->tokens[j] = (int32_t)(9 * random_unit(&seed));
    }
    for (size_t i = 0; i < sizeof m->mask; i++) {
        m->mask[i] = random_unit(&seed) < 0.5;
    }
    m->length[0] = KEYS;
    m->length[1] = 67;
    m->a = (struct attention){
        .batch = BATCH,
        .heads = HEADS,
        .queries = QUERIES,
        .keys = KEYS,
        .self = true,
        .qk = {
            .q = m->q, .k = m->k, .kv_heads = KV, .head_dim = DIM, .value_dim = DIM, .scale = 0.3}};
    return m;
}

static int qk_set_up(void **state)
{
    *state = new_message();
    return 0;
}

static int qk_tear_down(void **state)
{
    free(*state);
    return 0;
}

#define QK_TEST(name) TEST_OF(name, struct message *m, qk_set_up, qk_tear_down)

/* With all that the output is judged by. */
static void add_output(struct message *m)
{
    m->a.qk.v = m->v;
    m->a.qk.dout = m->dout;
    m->a.qk.wo_r = m->wo_r;
    m->a.qk.x_norm = m->x_norm;
    m->a.qk.written_dim = WRITTEN;
}

/* Masks of every kind: how many, and the n-th set. */
#define MASK_KINDS 8
static void set_mask(struct message *m, unsigned kind)
{
    struct attention *a = &m->a;
    a->causal = kind == 1 || kind == 3 || kind == 6 || kind == 7;
    a->window = kind == 2 || kind == 3 ? 20 : 0;
    a->q_len = a->k_len = kind == 4 || kind == 6 ? m->length : NULL;
    a->mask = kind == 5 ? m->mask : NULL;
    a->documents = kind == 6 ? m->documents : NULL;
    a->q_offset = kind == 7 ? 31 : 0;
    a->tokens = m->tokens;
}

static struct block test_qk_compute(const struct attention *a, uint32_t begin, uint32_t end,
                                    enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block block;
    assert_int_equal(block_init(&block, a, &core), 0);
    assert_int_equal(qk_compute(&block, a, begin, end, isa, &scratch), 0);
    return block;
}

struct numbers {
    double value[METRIC_COUNT][HEADS];
};

static struct numbers qk_read_out(const struct block *block)
{
    struct numbers n;
    double *value[METRIC_COUNT];
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = n.value[m];
    }
    memset(&n, 0, sizeof n);
    block_values(block, value);
    return n;
}

static double qk_dot(const float *x, const float *y)
{
    double sum = 0;
    for (uint32_t c = 0; c < DIM; c++) {
        sum += (double)x[c] * (double)y[c];
    }
    return sum;
}

/* The message's weights, as a trainer would have sent them. */
static void qk_fill_row(struct message *m, uint32_t b, uint32_t h, uint32_t i)
{
    uint32_t key[KEYS], n = attention_valid_keys(&m->a, b, i, key);
    double *row = m->weights + (((size_t)b * HEADS + h) * QUERIES + i) * KEYS, sum = 0;
    const float *q = m->q + (((size_t)b * HEADS + h) * QUERIES + i) * DIM;
    const float *k = m->k + ((size_t)b * KV + h / (HEADS / KV)) * KEYS * DIM;
    memset(row, 0, KEYS * sizeof *row);
    for (uint32_t c = 0; c < n; c++) {
        row[key[c]] = exp(m->a.qk.scale * qk_dot(q, k + (size_t)key[c] * DIM));
        sum += row[key[c]];
    }
    for (uint32_t c = 0; c < n; c++) {
        row[key[c]] /= sum;
    }
}

static struct attention as_weights(struct message *m)
{
    for (uint32_t b = 0; b < BATCH; b++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            for (uint32_t i = 0; i < QUERIES; i++) {
                qk_fill_row(m, b, h, i);
            }
        }
    }
    struct attention a = m->a;
    a.weights = m->weights;
    a.dtype = DTYPE_F64;
    return a;
}

/* Every core metric of the attention tier, of every head. */
static void qk_assert_same_numbers(const struct block *got, const struct block *want,
                                   double tolerance)
{
    struct numbers g = qk_read_out(got), w = qk_read_out(want);
    assert_int_equal(got->rows, want->rows);
    assert_int_equal(got->invalid_rows, want->invalid_rows);
    for (uint32_t m = 0; m <= METRIC_LOCALITY; m++) {
        for (uint32_t h = 0; m != METRIC_MAX_LOGIT && h < HEADS; h++) {
            assert_close_or_nan(g.value[m][h], w.value[m][h], tolerance * fmax(1, w.value[m][h]));
        }
    }
}

QK_TEST(it_says_what_the_attention_tier_says_for_every_mask)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    for (unsigned kind = 0; kind < MASK_KINDS; kind++) {
        set_mask(m, kind);
        struct attention a = as_weights(m);
        OWNED(block_clear) struct block want;
        assert_int_equal(block_init(&want, &a, &core), 0);
        assert_int_equal(block_compute_ref(&want, &a, 0, QUERIES, &scratch), 0);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (isa_available((enum isa)isa)) {
                struct block got = test_qk_compute(&m->a, 0, QUERIES, (enum isa)isa);
                qk_assert_same_numbers(&got, &want, isa == ISA_SCALAR ? 1e-12 : 2e-5);
                block_clear(&got);
            }
        }
    }
}

static struct block compute_gradient(const struct attention *a, bool with_core, enum isa isa)
{
    struct block_plan plan = {.group = {[METRIC_GROUP_CORE] = with_core}, .gradient = true};
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block block;
    assert_int_equal(block_init(&block, a, &plan), 0);
    assert_int_equal(qk_compute(&block, a, 0, QUERIES, isa, &scratch), 0);
    return block;
}

/* dL/dA = dO V^T, as a trainer would have sent it. */
static void fill_grad(struct message *m)
{
    for (size_t row = 0; row < BATCH * HEADS * QUERIES; row++) {
        size_t head = row / QUERIES, kv = head / HEADS * KV + head % HEADS / (HEADS / KV);
        for (size_t j = 0; j < KEYS; j++) {
            m->grad[row * KEYS + j] = qk_dot(m->dout + row * DIM, m->v + (kv * KEYS + j) * DIM);
        }
    }
}

/* Core metrics on and off, in turn. */
QK_TEST(its_gradient_score_is_that_of_the_attention_tier)
{
    struct scratch scratch = {0};
    add_output(m);
    m->v[33 * DIM] = NAN; /* sample 0, value head 0: no product with it is finite */
    m->v[40 * DIM + 1] = INFINITY;
    m->dout[(HEADS + 3) * QUERIES * DIM] = NAN; /* sample 1, head 3, row 0 */
    fill_grad(m);
    for (unsigned kind = 0; kind < MASK_KINDS; kind++) {
        set_mask(m, kind);
        struct attention a = as_weights(m);
        double want[HEADS] = {0};
        a.grad = m->grad;
        a.grad_dtype = DTYPE_F64;
        assert_int_equal(across_gradient(want, &a, 0, QUERIES, ISA_SCALAR, &scratch), 0);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available((enum isa)isa)) {
                continue;
            }
            struct block got = compute_gradient(&m->a, kind % 2 == 0, (enum isa)isa);
            for (uint32_t h = 0; h < HEADS; h++) {
                assert_true(want[h] > 1);
                assert_close(got.head[h].gradient / want[h], 1, isa == ISA_SCALAR ? 1e-12 : 2e-5);
            }
            block_clear(&got);
        }
    }
    scratch_clear(&scratch);
}

/* A row that sees itself only writes R_h v_i. */
QK_TEST(a_row_of_one_key_writes_its_value)
{
    add_output(m);
    m->a.causal = true;
    m->a.window = 1;
    m->x_norm[0] = 0; /* sample 0, row 0: nothing to divide by */
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) {
            continue;
        }
        struct block block = test_qk_compute(&m->a, 0, QUERIES, (enum isa)isa);
        for (uint32_t h = 0; h < HEADS; h++) {
            double sum = 0, share = 0;
            for (uint32_t b = 0; b < BATCH; b++) {
                for (uint32_t i = 0; i < QUERIES; i++) {
                    double square = 0;
                    for (uint32_t r = 0; r < WRITTEN; r++) {
                        double x =
                            qk_dot(m->wo_r + ((size_t)h * WRITTEN + r) * DIM,
                                   m->v + (((size_t)b * KV + h / (HEADS / KV)) * KEYS + i) * DIM);
                        square += x * x;
                    }
                    sum += sqrt(square);
                    share += b + i > 0 ? sqrt(square) / (double)m->x_norm[b * QUERIES + i] : 0;
                }
            }
            const struct head_block *got = &block.head[h];
            double tolerance = isa == ISA_SCALAR ? 1e-12 : 1e-6;
            assert_int_equal(got->write_norm.n, BATCH * QUERIES);
            assert_int_equal(got->residual_share.n, BATCH * QUERIES - 1);
            assert_close(got->write_norm.mean * BATCH * QUERIES / sum, 1, tolerance);
            assert_close(got->residual_share.mean * (BATCH * QUERIES - 1) / share, 1, tolerance);
        }
        block_clear(&block);
    }
}

QK_TEST(qk_blocks_merge_to_the_whole)
{
    m->a.qk.v = m->v;
    set_mask(m, 1);
    OWNED(block_clear) struct block whole = test_qk_compute(&m->a, 0, QUERIES, isa_best());
    OWNED(block_clear) struct block merged = test_qk_compute(&m->a, 0, 1, isa_best());
    static const uint32_t cut[] = {1, 64, 65, 65, 149, QUERIES};
    for (size_t c = 0; c + 1 < sizeof cut / sizeof cut[0]; c++) {
        struct block part = test_qk_compute(&m->a, cut[c], cut[c + 1], isa_best());
        assert_int_equal(block_merge(&merged, &part), 0);
        block_clear(&part);
    }
    qk_assert_same_numbers(&merged, &whole, 1e-6);
    for (uint32_t h = 0; h < HEADS; h++) {
        const struct head_block *g = &merged.head[h], *w = &whole.head[h];
        assert_int_equal(g->q_norm.n, BATCH * QUERIES);
        assert_int_equal(g->k_norm.n, BATCH * KEYS); /* once, not once per block */
        assert_int_equal(g->logits.n, w->logits.n);
        assert_int_equal(g->cosine.n, w->cosine.n);
        assert_close(g->output_norm.mean, w->output_norm.mean, 1e-6);
        assert_close(g->norm_weighted_entropy.mean, w->norm_weighted_entropy.mean, 1e-5);
    }
}

QK_TEST(a_row_with_a_nan_counts_as_invalid)
{
    set_mask(m, 1);
    m->k[100 * DIM + 5] = NAN; /* sample 0, key head 0, key 100: rows 100.. of two heads */
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            struct block block = test_qk_compute(&m->a, 0, QUERIES, (enum isa)isa);
            assert_int_equal(block.invalid_rows, 2 * (QUERIES - 100));
            assert_int_equal(block.rows, BATCH * HEADS * QUERIES - 2 * (QUERIES - 100));
            assert_int_equal(block.head[0].row[METRIC_ENTROPY].moments.n, 2 * QUERIES - 50);
            assert_int_equal(block.head[3].row[METRIC_ENTROPY].moments.n, 2 * QUERIES);
            block_clear(&block);
        }
    }
}

QK_TEST(no_sound_row_gives_no_numbers)
{
    m->length[0] = m->length[1] = 0;
    m->a.k_len = m->length;
    OWNED(block_clear) struct block block = test_qk_compute(&m->a, 0, QUERIES, isa_best());
    struct numbers n = qk_read_out(&block);
    assert_int_equal(block.rows, 0);
    assert_int_equal(block.invalid_rows, BATCH * HEADS * QUERIES);
    assert_nan(block.row_sum_error);
    assert_nan(n.value[METRIC_ENTROPY][0]);
    assert_nan(n.value[METRIC_MAX_LOGIT][0]);
    assert_nan(n.value[METRIC_K_NORM][0]);
}

QK_TEST(vectors_at_the_edge_of_f32_have_numbers)
{
    for (size_t i = 0; i < sizeof m->q / sizeof m->q[0]; i++) {
        m->q[i] = copysignf(3e38f, m->q[i]);
    }
    for (size_t i = 0; i < sizeof m->k / sizeof m->k[0]; i++) {
        m->k[i] = copysignf(3e38f, m->k[i]);
    }
    OWNED(block_clear) struct block block = test_qk_compute(&m->a, 0, QUERIES, isa_best());
    struct numbers n = qk_read_out(&block);
    assert_int_equal(block.rows, BATCH * HEADS * QUERIES);
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_true(isfinite(n.value[METRIC_MAX_ABS_LOGIT][h]));
        assert_true(n.value[METRIC_MAX_ABS_LOGIT][h] > 1e76);
        assert_true(n.value[METRIC_ENTROPY][h] >= 0);
        assert_close(n.value[METRIC_Q_NORM][h] / (sqrt(DIM) * 3e38), 1, 1e-6);
    }
}

TEST(memory_grows_with_the_keys_only)
{
    const uint32_t keys = 16384, dim = 64;
    float *zeros = calloc((size_t)keys * dim, sizeof *zeros);
    assert_non_null(zeros);
    struct attention a = {.batch = 1,
                          .heads = 1,
                          .queries = keys,
                          .keys = keys,
                          .self = true,
                          .causal = true,
                          .qk = {.q = zeros,
                                 .k = zeros,
                                 .v = zeros,
                                 .kv_heads = 1,
                                 .head_dim = dim,
                                 .value_dim = dim,
                                 .scale = 1}};
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(block_clear) struct block block;
    assert_int_equal(block_init(&block, &a, &core), 0);
    assert_int_equal(qk_compute(&block, &a, keys - 64, keys, isa_best(), &scratch), 0);
    assert_true(scratch.bytes < 4 << 20);
    assert_true(scratch.bytes >= qk_scratch(&a, 64, false));
    assert_true(qk_scratch(&a, 64, false) > 3 << 19);
    assert_close(block.head[0].row[METRIC_ENTROPY_NORMALIZED].moments.mean, 1, 1e-6);
    free(zeros);
}

QK_TEST(qk_out_of_memory_is_reported)
{
    m->a.qk.v = m->v;
    for (unsigned nth = 1;; nth++) {
        struct scratch scratch = {0};
        struct block block;
        assert_int_equal(block_init(&block, &m->a, &core), 0);
        heap_fail_at(nth);
        int rc = qk_compute(&block, &m->a, 0, QUERIES, isa_best(), &scratch);
        int failed = heap_has_failed();
        heap_fail_at(0);
        assert_int_equal(rc, failed ? ERR_MEMORY : 0);
        block_clear(&block);
        scratch_clear(&scratch);
        if (!failed) {
            assert_true(nth > 10);
            break;
        }
    }
}

QK_TEST(weights_out_of_memory)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum spectrum;
    float weight;
    heap_fail_at(1);
    assert_int_equal(qk_weights(&m->a, 0, QUERIES, &weight, isa_best(), &scratch), ERR_MEMORY);
    heap_fail_at(1);
    assert_int_equal(qk_spectrum(&m->a, 0, 0, isa_best(), &scratch, &spectrum), ERR_MEMORY);
    heap_fail_at(2);
    assert_int_equal(qk_spectrum(&m->a, 0, 0, isa_best(), &scratch, &spectrum), ERR_MEMORY);
    heap_fail_at(0);
}

/* Q = K = identity, scale s: S = s I. */
QK_TEST(the_spectrum_of_a_scaled_identity)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct spectrum s;
    memset(m->q, 0, sizeof m->q);
    memset(m->k, 0, sizeof m->k);
    for (uint32_t c = 0; c < DIM; c++) {
        m->q[c * DIM + c] = m->k[c * DIM + c] = 2;
    }
    assert_int_equal(qk_spectrum(&m->a, 0, 0, isa_best(), &scratch, &s), 0);
    assert_close(s.spectral_norm, 4 * 0.3, 1e-12);
    assert_close(s.rank, DIM, 0);
    assert_close(s.condition_number, 0, 1e-12);
    assert_close(s.nuclear_norm, DIM * 4 * 0.3, 1e-11);
    assert_nan(s.eigenvalue_2);
}

int main(void)
{
    spectrum_global_init();
    return unit_run(NULL, NULL);
}
