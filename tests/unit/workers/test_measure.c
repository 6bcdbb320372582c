/* SPDX-License-Identifier: MIT */
/* A message cut into jobs gives the same numbers as in one piece, whatever is on or off. */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/measure.h"

#define B 2
#define H 3
#define T 24
#define D 8

static float weights_data[B * H * T * T], grad_data[B * H * T * T];
static float q_data[B * H * T * D], k_data[B * H * T * D];

static void measure_fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(2 * random_unit(&seed) - 1);
    }
}

static void make_rows(void)
{
    measure_fill(weights_data, B * H * T * T, 1);
    measure_fill(grad_data, B * H * T * T, 2);
    measure_fill(q_data, B * H * T * D, 3);
    measure_fill(k_data, B * H * T * D, 4);
    for (size_t row = 0; row < B * H * T; row++) {
        float sum = 0;
        for (size_t j = 0; j < T; j++) {
            weights_data[row * T + j] = expf(4 * weights_data[row * T + j]);
            sum += weights_data[row * T + j];
        }
        for (size_t j = 0; j < T; j++) {
            weights_data[row * T + j] /= sum;
        }
    }
}

static struct attention by_weights(void)
{
    return (struct attention){.weights = weights_data,
                              .dtype = DTYPE_F32,
                              .grad = grad_data,
                              .grad_dtype = DTYPE_F32,
                              .batch = B,
                              .heads = H,
                              .queries = T,
                              .keys = T,
                              .self = true};
}

static struct attention by_qk(void)
{
    struct attention a = by_weights();
    a.weights = a.grad = NULL;
    a.causal = true;
    a.qk = (struct qk){.q = q_data,
                       .k = k_data,
                       .q_dtype = DTYPE_F32,
                       .k_dtype = DTYPE_F32,
                       .kv_heads = H,
                       .head_dim = D,
                       .scale = 1};
    return a;
}

/* The weights that these queries and keys give; until the next ones. */
static const float *map_of(const struct attention *qk)
{
    static float map[B * H * T * T];
    OWNED(scratch_clear) struct scratch scratch = {0};
    assert_int_equal(qk_weights(qk, 0, T, map, isa_best(), &scratch), 0);
    return map;
}

static const double head_weights[H] = {1, 0, 0.5};

static struct measure_plan everything(uint64_t block_entries)
{
    struct measure_plan plan = {.whole = true,
                                .head_pairs = true,
                                .top_pairs = 5,
                                .local_window = 3,
                                .redundant_js = 0.7,
                                .head_weights = head_weights,
                                .head_weight_count = H,
                                .spectrum_max_size = T,
                                .spectrum_effort = SPECTRUM_FULL,
                                .block_entries = block_entries,
                                .isa = isa_best()};
    for (uint32_t g = 0; g < METRIC_GROUP_COUNT; g++) {
        plan.group[g] = true;
    }
    return plan;
}

/* Runs the jobs last to first: their order must not matter. */
static int test_measure_run(const struct attention *a, const struct measure_plan *plan,
                            struct measure **ret_measure)
{
    struct scratch scratch = {0};
    int rc = measure_new(a, plan, ret_measure);
    if (rc != 0) {
        return rc;
    }
    for (uint32_t i = measure_jobs(*ret_measure); i > 0; i--) {
        measure_run(*ret_measure, i - 1, &scratch);
    }
    rc = measure_finish(*ret_measure, &scratch);
    if (rc != 0) {
        measure_free(ret_measure);
    }
    scratch_clear(&scratch);
    return rc;
}

static struct measure *must_run(const struct attention *a, const struct measure_plan *plan)
{
    struct measure *m;
    assert_int_equal(test_measure_run(a, plan, &m), 0);
    return m;
}

static void measure_assert_same(double got, double want)
{
    assert_close_or_nan(got, want, 1e-6 * fmax(1, fabs(want))); /* f32 sums of a few rows */
}

static void measure_assert_same_numbers(const struct measured *a, const struct measured *b)
{
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        assert_int_equal(a->value[m] != NULL, b->value[m] != NULL);
        for (uint32_t h = 0; a->value[m] && h < H; h++) {
            measure_assert_same(a->value[m][h], b->value[m][h]);
        }
    }
    for (uint32_t i = 0; i < AGGREGATE_COUNT; i++) {
        for (uint32_t s = 0; s < MAP_STAT_COUNT; s++) {
            measure_assert_same(a->aggregate[i][s], b->aggregate[i][s]);
        }
    }
    for (uint32_t i = 0; i < H * H; i++) {
        measure_assert_same(a->head_js[i], b->head_js[i]);
        measure_assert_same(a->head_similarity[i], b->head_similarity[i]);
    }
}

TEST(jobs_of_any_size_give_the_same_numbers)
{
    struct attention a = by_weights();
    struct measure_plan one = everything(1 << 30), many = everything(1);
    OWNED(measure_free) struct measure *whole = must_run(&a, &one), *cut = must_run(&a, &many);
    assert_int_equal(measure_jobs(whole), 1 + H);
    assert_true(measure_jobs(cut) > 2 + H);
    measure_assert_same_numbers(measure_result(whole), measure_result(cut));
    const struct measured *w = measure_result(whole), *c = measure_result(cut);
    assert_int_equal(w->rows, B * H * T);
    assert_memory_equal(w->pairs, c->pairs, w->pair_count * sizeof *w->pairs);
    for (uint32_t h = 0; h < H; h++) {
        const struct hist *x = &w->head[h].row[METRIC_ENTROPY].hist;
        const struct hist *y = &c->head[h].row[METRIC_ENTROPY].hist;
        assert_int_equal(x->used, y->used);
        assert_memory_equal(x->buckets, y->buckets, x->used * sizeof *x->buckets);
        assert_int_equal(w->head_pair_count[h], 5);
        assert_memory_equal(&w->head_pairs[h * 5], &c->head_pairs[h * 5], 5 * sizeof *w->pairs);
    }
}

/* Two texts in each sample, by their numbers or by a mask; jobs of one row each share what the
 * first of them has found. */
TEST(rows_of_all_jobs_begin_at_their_own_text)
{
    static uint8_t mask[B * T * T];
    static int32_t documents[B * T];
    for (uint32_t at = 0; at < B * T * T; at++) {
        uint32_t i = at / T % T, j = at % T;
        mask[at] = j <= i && (i < T / 3) == (j < T / 3);
        documents[at / T] = i < T / 3;
    }
    for (int by_map = 0; by_map < 2; by_map++) {
        struct attention one = by_map ? by_weights() : by_qk(), other = one;
        one.self = other.self = one.causal = other.causal = true;
        one.dropout = other.dropout = true; /* whatever its rows sum to */
        one.mask = mask;
        other.documents = documents;
        struct measure_plan plan = everything(1);
        OWNED(measure_free) struct measure *m = must_run(&one, &plan), *d = must_run(&other, &plan);
        for (uint32_t h = 0; h < H; h++) {
            const struct moments *x = &measure_result(m)->head[h].row[METRIC_FIRST_TOKEN].moments;
            const struct moments *y = &measure_result(d)->head[h].row[METRIC_FIRST_TOKEN].moments;
            assert_int_equal(x->n, B * (T - 2));
            assert_true(x->min > 0); /* each row sees its own */
            assert_int_equal(y->n, x->n);
            assert_close(y->mean, x->mean, 1e-6);
        }
    }
}

TEST(a_row_that_a_sink_took_whole_is_no_invalid_one)
{
    static float x[2 * 3];
    x[3] = x[4] = 0.25f;
    struct attention a = {.weights = x,
                          .dtype = DTYPE_F32,
                          .batch = 1,
                          .heads = 1,
                          .queries = 2,
                          .keys = 3,
                          .learned_sink = true};
    struct measure_plan plan = everything(1);
    plan.head_weight_count = 0;
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    assert_int_equal(measure_result(m)->rows, 2);
    assert_int_equal(measure_result(m)->invalid_rows, 0);
    assert_true(measure_result(m)->value[METRIC_SINK_DEFICIT][0] == 0.75);
    x[0] = NAN;
    OWNED(measure_free) struct measure *with_nan = must_run(&a, &plan);
    assert_int_equal(measured_invalid_rows(measure_result(with_nan), 0), 1);
}

/* With blocks of one row and without the map, and as one block with it. */
TEST(the_gradient_score_of_qk_is_that_of_its_map)
{
    static float slope[B * H * T * T];
    struct attention qk = by_qk(), a = by_weights();
    qk.qk.v = k_data;
    qk.qk.dout = q_data;
    qk.qk.value_dim = D;
    for (size_t row = 0; row < B * H * T; row++) {
        for (size_t j = 0; j < T; j++) {
            slope[row * T + j] = 0;
            for (size_t c = 0; c < D; c++) {
                slope[row * T + j] += q_data[row * D + c] * k_data[(row / T * T + j) * D + c];
            }
        }
    }
    a.weights = map_of(&qk);
    a.grad = slope;
    a.causal = true;
    for (uint32_t size = 0; size <= T; size += T) {
        struct measure_plan plan = everything(size == 0 ? 1 : 1 << 20);
        plan.qk_maps_max_size = size;
        struct measure *of_qk = must_run(&qk, &plan), *of_map = must_run(&a, &plan);
        for (uint32_t h = 0; h < H; h++) {
            assert_close(measure_result(of_qk)->value[METRIC_IMPORTANCE_GRADIENT][h],
                         measure_result(of_map)->value[METRIC_IMPORTANCE_GRADIENT][h], 1e-5);
        }
        assert_null(measure_result(of_qk)->value[METRIC_WRITE_NORM]);
        measure_free(&of_qk);
        measure_free(&of_map);
    }
}

/* In blocks of one row, and without the numbers that nothing was sent for. */
TEST(values_have_the_same_numbers_beside_weights)
{
    static const enum metric of_values[] = {METRIC_OUTPUT_NORM, METRIC_NORM_WEIGHTED_ENTROPY,
                                            METRIC_WRITE_NORM, METRIC_RESIDUAL_SHARE};
    static float x_norm[B * T];
    struct attention qk = by_qk(), a = by_weights();
    for (size_t i = 0; i < B * T; i++) {
        x_norm[i] = 2;
    }
    a.weights = map_of(&qk);
    a.causal = true;
    a.qk.kv_heads = qk.qk.kv_heads;
    a.qk.value_dim = qk.qk.value_dim = D;
    a.qk.written_dim = qk.qk.written_dim = 2;
    for (uint32_t sent = 0; sent <= 3; sent++) { /* of v, wo_r, x_norm */
        a.qk.v = qk.qk.v = sent > 0 ? k_data : NULL;
        a.qk.wo_r = qk.qk.wo_r = sent > 1 ? q_data : NULL;
        a.qk.x_norm = qk.qk.x_norm = sent > 2 ? x_norm : NULL;
        struct measure_plan plan = everything(1);
        struct measure *of_map = must_run(&a, &plan), *of_qk = must_run(&qk, &plan);
        for (uint32_t k = 0; k < 4; k++) {
            const double *found = measure_result(of_map)->value[of_values[k]];
            assert_true((found != NULL) == (sent > (k > 1 ? k - 1 : 0)));
            for (uint32_t h = 0; found && h < H; h++) {
                assert_close(found[h], measure_result(of_qk)->value[of_values[k]][h], 1e-5);
            }
        }
        measure_free(&of_map);
        measure_free(&of_qk);
    }
}

TEST(what_goes_across_heads_needs_all_heads)
{
    struct attention a = by_weights();
    struct measure_plan plan = everything(1 << 20);
    plan.whole = false;
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    const struct measured *r = measure_result(m);
    assert_non_null(r->value[METRIC_ENTROPY]);
    assert_non_null(r->value[METRIC_SPECTRAL_NORM]);
    assert_null(r->value[METRIC_IMPORTANCE]);
    assert_null(r->value[METRIC_IMPORTANCE_GRADIENT]);
    assert_null(r->pairs);
    assert_null(r->head_pairs);
    assert_null(r->head_similarity);
    assert_nan(r->sink_rate);
    for (uint32_t i = 0; i < AGGREGATE_COUNT; i++) {
        assert_false(r->has_aggregate[i]);
    }
}

TEST(the_gradient_score_needs_all_heads_and_rows)
{
    struct attention a = by_qk();
    struct measure_plan plan = everything(1 << 20);
    a.qk.v = a.qk.dout = q_data;
    a.qk.value_dim = D;
    plan.whole = false;
    OWNED(measure_free) struct measure *slice = must_run(&a, &plan);
    plan.whole = true;
    a.q_stride = 2;
    OWNED(measure_free) struct measure *sample = must_run(&a, &plan);
    assert_non_null(measure_result(slice)->value[METRIC_OUTPUT_NORM]);
    assert_null(measure_result(slice)->value[METRIC_IMPORTANCE_GRADIENT]);
    assert_null(measure_result(sample)->value[METRIC_IMPORTANCE_GRADIENT]);
}

/* Sums over rows and numbers of a map would be other ones. */
TEST(a_sample_of_rows_has_no_numbers_of_the_map)
{
    struct attention of[] = {by_weights(), by_qk()};
    for (int tier = 0; tier < 2; tier++) {
        struct attention a = of[tier];
        a.q_stride = 2;
        struct measure_plan plan = everything(100);
        plan.pooled_map = true;
        plan.head_maps_size = plan.qk_maps_max_size = T;
        struct measure *m = must_run(&a, &plan);
        const struct measured *r = measure_result(m);
        for (int i = 0; i < METRIC_MAX_LOGIT; i++) {
            assert_non_null(r->value[i]);
        }
        for (int i = METRIC_IMPORTANCE; i < METRIC_COUNT; i++) {
            assert_null(r->value[i]);
        }
        assert_true(r->sink_rate >= 0);
        assert_non_null(r->pattern);
        assert_true(!r->pairs && !r->head_pairs && !r->head_similarity && !r->map);
        assert_null(measure_take_head_maps(m));
        assert_int_equal(r->spectra + r->spectra_skipped, 0);
        for (uint32_t i = 0; i < AGGREGATE_COUNT; i++) {
            assert_false(r->has_aggregate[i]);
        }
        measure_free(&m);
        struct attention whole = of[tier];
        assert_true(measure_cost(&a, &plan) < measure_cost(&whole, &plan));
    }
}

TEST(groups_that_are_off_leave_nothing)
{
    struct attention a = by_weights();
    struct measure_plan plan = everything(1 << 20);
    memset(plan.group, 0, sizeof plan.group);
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    const struct measured *r = measure_result(m);
    assert_int_equal(measure_jobs(m), 1);
    assert_int_equal(r->rows, B * H * T);
    for (uint32_t i = 0; i < METRIC_COUNT; i++) {
        assert_null(r->value[i]);
    }
    for (uint32_t i = 0; i < VECTOR_COUNT; i++) {
        assert_null(r->vector[i]);
    }
    assert_null(r->pattern);
    assert_nan(r->sink_rate);
}

TEST(queries_and_keys_have_no_map_unless_asked)
{
    struct attention a = by_qk();
    struct measure_plan plan = everything(1 << 20);
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    const struct measured *r = measure_result(m);
    assert_non_null(r->value[METRIC_MAX_LOGIT]);
    assert_non_null(r->value[METRIC_QK_SPECTRAL_NORM]);
    assert_null(r->value[METRIC_SPECTRAL_NORM]);
    assert_null(r->value[METRIC_IMPORTANCE]);
    assert_null(r->head_similarity);
}

TEST(maps_of_queries_and_keys_are_those_of_their_weights)
{
    struct attention a = by_qk();
    struct measure_plan plan = everything(1 << 20);
    plan.qk_maps_max_size = T;
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    const float *map = map_of(&a);
    struct attention of_map = a;
    of_map.weights = map;
    OWNED(measure_free) struct measure *n = must_run(&of_map, &plan);
    const struct measured *r = measure_result(m), *want = measure_result(n);
    for (uint32_t i = 0; i < METRIC_COUNT; i++) {
        for (uint32_t h = 0; want->value[i] && h < H; h++) {
            assert_non_null(r->value[i]);
            double expected = want->value[i][h];
            assert_close_or_nan(r->value[i][h], expected, 1e-4 * fmax(1, fabs(expected)));
        }
    }
    assert_true(r->has_aggregate[AGGREGATE_IMPORTANCE]);
    assert_non_null(r->value[METRIC_MAX_LOGIT]);
    assert_non_null(r->pairs);
}

/* The mean over heads and samples of the weights in a cell of cells x cells. */
static double cell_mean(const float *weights, uint32_t cells, uint32_t row, uint32_t column)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < B * H * T; i++) {
        for (uint32_t j = 0; j < T; j++) {
            if (i % T >= row * T / cells && i % T < (row + 1) * T / cells &&
                j >= column * T / cells && j < (column + 1) * T / cells) {
                sum += (double)weights[i * T + j];
                n++;
            }
        }
    }
    return sum / n;
}

static void assert_map_of_weights(const struct layer_map *map, const float *weights, int ulps)
{
    assert_non_null(map);
    assert_int_equal(map->queries, T);
    assert_int_equal(map->keys, T);
    assert_int_equal(map->rows, T);
    assert_int_equal(map->columns, T);
    for (uint32_t r = 0; r < T; r++) {
        for (uint32_t c = 0; c < T; c++) {
            int want = map_pool_half(cell_mean(weights, T, r, c));
            assert_in_range(map->values[r * T + c] + ulps - want, 0, 2 * ulps);
        }
    }
}

TEST(the_pooled_map_is_the_mean_over_heads_and_samples)
{
    struct attention a = by_weights();
    for (uint64_t entries = 1; entries <= 1 << 20; entries <<= 20) {
        struct measure_plan plan = everything(entries);
        OWNED(measure_free) struct measure *m = must_run(&a, &plan);
        assert_null(measure_result(m)->map);
        measure_free(&m);
        plan.pooled_map = true;
        m = must_run(&a, &plan);
        assert_map_of_weights(measure_result(m)->map, weights_data, 1);
        measure_free(&m);
        plan.whole = false; /* of some heads there is no mean over all */
        m = must_run(&a, &plan);
        assert_null(measure_result(m)->map);
    }
}

TEST(the_pooled_map_needs_no_other_group)
{
    struct attention a = by_weights();
    for (int scalar = 0; scalar < 2; scalar++) {
        struct measure_plan plan = everything(100);
        memset(plan.group, 0, sizeof plan.group);
        plan.pooled_map = true;
        plan.isa = scalar ? ISA_SCALAR : isa_best();
        OWNED(measure_free) struct measure *m = must_run(&a, &plan);
        assert_map_of_weights(measure_result(m)->map, weights_data, scalar ? 0 : 1);
    }
}

TEST(queries_and_keys_have_a_pooled_map_where_maps_are_made)
{
    struct attention a = by_qk();
    struct measure_plan plan = everything(1 << 20);
    plan.pooled_map = true;
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    assert_null(measure_result(m)->map);
    measure_free(&m);
    plan.qk_maps_max_size = T;
    m = must_run(&a, &plan);
    const float *map = map_of(&a);
    assert_map_of_weights(measure_result(m)->map, map, 1);
}

/* Whose they are then; a second time there are none. */
static void assert_head_maps(const struct attention *a, const struct measure_plan *plan,
                             const float *weights)
{
    struct measure *m = must_run(a, plan);
    OWNED(head_maps_free) struct head_maps *maps = measure_take_head_maps(m);
    assert_non_null(maps);
    assert_null(measure_take_head_maps(m));
    measure_free(&m);
    assert_int_equal(maps->sample, 1);
    for (uint32_t i = 0; i < H * T * T; i++) {
        assert_close((double)maps->values[i], (double)weights[H * T * T + i], 1e-6);
    }
}

TEST(the_maps_of_heads_are_made_when_asked_for)
{
    struct attention a = by_weights(), qk = by_qk();
    struct measure_plan plan = everything(1024);
    plan.head_maps_sample = 1;
    struct measure *m = must_run(&a, &plan);
    assert_null(measure_take_head_maps(m));
    measure_free(&m);
    uint64_t cost = measure_cost(&a, &plan);
    plan.head_maps_size = 128;
    assert_true(measure_cost(&a, &plan) >= cost + head_maps_bytes(H, T, T, 128));
    assert_head_maps(&a, &plan, weights_data);
    m = must_run(&qk, &plan);
    assert_null(measure_take_head_maps(m));
    measure_free(&m);
    plan.qk_maps_max_size = T;
    const float *map = map_of(&qk);
    assert_head_maps(&qk, &plan, map);
}

static bool always(void *data)
{
    (void)data;
    return true;
}

TEST(spectra_give_way_when_others_wait)
{
    struct attention a = by_weights();
    struct measure_plan plan = everything(1 << 20);
    plan.should_yield = always;
    plan.spectrum_budget_ns = 1000000000;
    plan.spectrum_first = 2;
    OWNED(measure_free) struct measure *m = must_run(&a, &plan);
    const struct measured *r = measure_result(m);
    assert_nan(r->value[METRIC_SPECTRAL_NORM][0]);
    assert_int_equal(r->spectrum_next, 2);
    assert_true(r->value[METRIC_ENTROPY][0] > 0);
    measure_free(&m);
    plan.spectrum_budget_ns = 0; /* no budget: nothing to give way with */
    m = must_run(&a, &plan);
    assert_true(measure_result(m)->value[METRIC_SPECTRAL_NORM][0] > 0);
}

TEST(a_budget_goes_round)
{
    struct attention a = by_weights();
    struct measure_plan plan = everything(1 << 20);
    plan.spectrum_budget_ns = 1; /* used up by one turn */
    bool seen[H] = {false};
    for (uint32_t message = 0; message < H; message++) {
        OWNED(measure_free) struct measure *m = must_run(&a, &plan);
        const struct measured *r = measure_result(m);
        uint32_t first = plan.spectrum_first;
        assert_true(r->value[METRIC_SPECTRAL_NORM][first] > 0);
        assert_nan(r->value[METRIC_SPECTRAL_NORM][(first + 1) % H]);
        seen[first] = true;
        plan.spectrum_first = r->spectrum_next;
    }
    for (uint32_t h = 0; h < H; h++) {
        assert_true(seen[h]);
    }
}

TEST(weights_are_one_job)
{
    struct weights w = {.heads = H, .kv_heads = H, .head_dim = D};
    w.matrix[PROJECTION_Q] =
        (struct projection_matrix){.data = q_data, .dtype = DTYPE_F32, .out = H * D, .in = T};
    struct measure_plan plan = everything(1);
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(measure_free) struct measure *m;
    assert_int_equal(measure_new_weights(&w, &plan, &m), 0);
    assert_int_equal(measure_jobs(m), 1);
    measure_run(m, 0, &scratch);
    assert_int_equal(measure_finish(m, &scratch), 0);
    const struct measured *r = measure_result(m);
    assert_true(r->weights->projection[PROJECTION_Q].present);
    assert_false(r->weights->projection[PROJECTION_K].present);
    assert_true(r->weights->projection[PROJECTION_Q].whole.spectral_norm > 0);
}

/* The n-th allocation fails, for every n there is: an error, no crash, no leak. */
static void fail_everywhere(const struct attention *a, const struct measure_plan *plan)
{
    for (unsigned nth = 1;; nth++) {
        struct measure *m = NULL;
        heap_fail_at(nth);
        int rc = test_measure_run(a, plan, &m);
        bool failed = heap_has_failed();
        heap_fail_at(0);
        if (!failed) {
            assert_int_equal(rc, 0);
            measure_free(&m);
            return;
        }
        assert_int_equal(rc, ERR_MEMORY);
    }
}

TEST(measure_every_allocation_may_fail)
{
    struct attention a = by_weights(), qk = by_qk();
    struct measure_plan plan = everything(1024);
    plan.pooled_map = true;
    plan.head_maps_size = 8;
    fail_everywhere(&a, &plan);
    plan.qk_maps_max_size = T;
    fail_everywhere(&qk, &plan);
}

TEST(cost_saturates)
{
    struct attention a = by_weights();
    a.batch = a.heads = a.queries = a.keys = INT32_MAX;
    struct measure_plan plan = everything(1);
    assert_true(measure_cost(&a, &plan) >= UINT64_C(1) << 60);
    a = by_weights();
    assert_true(measure_cost(&a, &plan) < 64 << 20);
    assert_int_equal(measure_scratch(&a, &plan), 0); /* threads keep as much anyway */
    plan.threads = 8;                                /* scratch of each */
    a.keys = 1 << 23;
    assert_true(measure_scratch(&a, &plan) > UINT64_C(8) * 68 * (1 << 23));
    a = by_qk(); /* R_h as it is multiplied */
    a.qk.v = a.qk.wo_r = q_data;
    a.qk.value_dim = a.qk.written_dim = 1 << 12;
    assert_true(measure_scratch(&a, &plan) > UINT64_C(4) << 24);
}

int main(void)
{
    make_rows();
    return unit_run(NULL, NULL);
}
