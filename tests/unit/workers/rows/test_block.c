/* SPDX-License-Identifier: MIT */
/* Analytic cases: maps whose numbers are known without computing them. */
#include "tests/unit/unit.h"
#include "workers/rows/block.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/map_of.h"

#define T 16

struct numbers {
    double value[METRIC_COUNT][4];
    uint64_t rows, invalid_rows;
    double row_sum_error;
    double aggregate[BLOCK_MAPS][MAP_STAT_COUNT];
};

static const struct block_plan everything = {
    .group =
        {[METRIC_GROUP_CORE] = true, [METRIC_GROUP_IMPORTANCE] = true, [METRIC_GROUP_PAIRS] = true},
    .maps = true,
    .top_pairs = 10,
    .local_window = 8};

static struct attention self_map(const float *weights, uint32_t heads, uint32_t length)
{
    struct attention a = map_of(weights, DTYPE_F32, heads, length, length);
    a.self = true;
    return a;
}

/* Rows begin to end. */
static void block_compute_rows(struct block *block, const struct attention *a,
                               const struct block_plan *plan, uint32_t begin, uint32_t end)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    assert_int_equal(block_init(block, a, plan), 0);
    assert_int_equal(block_compute_ref(block, a, begin, end, &scratch), 0);
}

static void test_block_compute(struct block *block, const struct attention *a)
{
    block_compute_rows(block, a, &everything, 0, a->queries);
}

static struct numbers block_read_out(const struct block *block)
{
    struct numbers n = {
        .rows = block->rows,
        .invalid_rows = block->invalid_rows,
        .row_sum_error = block->row_sum_error,
    };
    double *value[METRIC_COUNT];
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = n.value[m];
    }
    block_values(block, value);
    for (uint32_t map = 0; map < BLOCK_MAPS; map++) {
        block_map_stats(&block->map[map], n.aggregate[map]);
    }
    return n;
}

static struct numbers block_numbers_of(const struct attention *a)
{
    OWNED(block_clear) struct block block;
    test_block_compute(&block, a);
    struct numbers n = block_read_out(&block);
    return n;
}

/* How many rows of head 0 have the metric. */
static uint64_t rows_of(const struct attention *a, enum metric metric)
{
    OWNED(block_clear) struct block block;
    test_block_compute(&block, a);
    uint64_t n = block.head[0].row[metric].moments.n;
    return n;
}

TEST(uniform_causal_head_is_not_focused)
{
    float x[T * T] = {0};
    for (uint32_t i = 0; i < T; i++) {
        for (uint32_t j = 0; j <= i; j++) {
            x[i * T + j] = 1 / (float)(i + 1);
        }
    }
    struct attention a = self_map(x, 1, T);
    a.causal = true;
    struct numbers n = block_numbers_of(&a);
    assert_close(n.value[METRIC_ENTROPY_NORMALIZED][0], 1, 1e-6);
    assert_close(n.value[METRIC_ENTROPY_SANS_FIRST][0], 1, 1e-6);
    assert_close(n.value[METRIC_EFFECTIVE_KEYS][0], (T + 1) / 2.0, 1e-5);
    assert_close(n.value[METRIC_MEAN_DISTANCE_NORMALIZED][0], 0.5, 1e-6);
    double harmonic = 0, entropy = 0;
    for (uint32_t i = 0; i < T; i++) {
        harmonic += 1.0 / (i + 1);
        entropy += log(i + 1.0);
    }
    assert_close(n.value[METRIC_DIAGONAL][0], harmonic / T, 1e-6);
    assert_close(n.value[METRIC_FIRST_TOKEN][0], (harmonic - 1) / (T - 1), 1e-6);
    assert_close(n.value[METRIC_ENTROPY][0], entropy / T, 1e-6);
    assert_close(n.value[METRIC_MEAN][0], T / (T * (T + 1) / 2.0), 1e-7);
    assert_int_equal(n.rows, T);
    assert_int_equal(n.invalid_rows, 0);
}

TEST(identity_looks_at_itself)
{
    float x[T * T] = {0};
    for (uint32_t i = 0; i < T; i++) {
        x[i * T + i] = 1;
    }
    struct attention a = self_map(x, 1, T);
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_ENTROPY][0] == 0 && n.value[METRIC_ENTROPY_NORMALIZED][0] == 0);
    assert_true(n.value[METRIC_DIAGONAL][0] == 1 && n.value[METRIC_CONFIDENCE][0] == 1);
    assert_true(n.value[METRIC_MEAN_DISTANCE][0] == 0 && n.value[METRIC_FIRST_TOKEN][0] == 0);
    assert_true(n.value[METRIC_LOCALITY][0] == 0 && n.value[METRIC_LOCAL_MASS][0] == 1);
    assert_true(n.value[METRIC_EFFECTIVE_KEYS][0] == 1);
    assert_true(n.value[METRIC_MEAN_DISTANCE_NORMALIZED][0] == 0);
    assert_true(n.value[METRIC_MIN][0] == 0 && n.value[METRIC_MAX][0] == 1);
    assert_close(n.value[METRIC_VARIANCE][0], (1.0 / T) * (1 - 1.0 / T) * T * T / (T * T - 1),
                 1e-14);
    assert_true(n.row_sum_error == 0);
}

TEST(previous_token_head_is_half_local)
{
    float x[T * T] = {0};
    x[0] = 1;
    for (uint32_t i = 1; i < T; i++) {
        x[i * T + i - 1] = 1;
    }
    struct attention a = self_map(x, 1, T);
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_PREVIOUS_TOKEN][0] == 1 && n.value[METRIC_NEXT_TOKEN][0] == 0);
    assert_true(n.value[METRIC_LOCALITY][0] == 0.5); /* T-1 of 2(T-1) neighbours */
    assert_close(n.value[METRIC_MEAN_DISTANCE][0], (T - 1.0) / T, 1e-15);
    assert_close(n.value[METRIC_DIAGONAL][0], 1.0 / T, 1e-15);
    assert_close(n.value[METRIC_FIRST_TOKEN][0], 1.0 / (T - 1), 1e-15); /* row 1 */
}

TEST(first_token_skips_query_zero)
{
    float x[] = {1, 0, 0, 0, 1, 0, 1, 0, 0};
    struct attention a = self_map(x, 1, 3);
    assert_true(block_numbers_of(&a).value[METRIC_FIRST_TOKEN][0] == 0.5);
}

/* The definition over a full map, padding left out. */
TEST(locality_is_the_mean_of_the_two_side_diagonals)
{
    float x[T * T];
    uint64_t random = 3;
    int32_t length = T - 3;
    double sum = 0;
    for (int32_t i = 0; i < T; i++) {
        double row = 0;
        for (int32_t j = 0; j < T; j++) {
            x[i * T + j] = (float)random_unit(&random);
            row += j < length ? (double)x[i * T + j] : 0;
        }
        for (int32_t j = 0; j < T; j++) {
            x[i * T + j] /= (float)row;
            sum += i < length && j < length && abs(i - j) == 1 ? (double)x[i * T + j] : 0;
        }
    }
    struct attention a = self_map(x, 1, T);
    a.q_len = a.k_len = &length;
    assert_close(block_numbers_of(&a).value[METRIC_LOCALITY][0], sum / (2 * (length - 1)), 1e-14);
}

TEST(cross_attention_has_no_diagonal)
{
    float x[] = {1, 0, 0, 1, 1, 0};
    struct attention a = self_map(x, 1, 3);
    a.keys = 2;
    a.self = false;
    struct numbers n = block_numbers_of(&a);
    assert_nan(n.value[METRIC_DIAGONAL][0]);
    assert_nan(n.value[METRIC_LOCALITY][0]);
    assert_nan(n.value[METRIC_PREVIOUS_TOKEN][0]);
    assert_nan(n.value[METRIC_NEXT_TOKEN][0]);
    assert_close(n.value[METRIC_MEAN_DISTANCE][0], 2.0 / 3, 1e-15);
}

TEST(a_single_position)
{
    float x[] = {1, 1};
    struct attention a = self_map(x, 2, 1);
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_ENTROPY][1] == 0 && n.value[METRIC_CONFIDENCE][1] == 1);
    assert_true(n.value[METRIC_DIAGONAL][0] == 1 && n.value[METRIC_MEAN][0] == 1);
    assert_nan(n.value[METRIC_ENTROPY_NORMALIZED][0]);
    assert_nan(n.value[METRIC_FIRST_TOKEN][0]);
    assert_nan(n.value[METRIC_VARIANCE][0]);
    assert_nan(n.value[METRIC_LOCALITY][0]);
    assert_nan(n.value[METRIC_IMPORTANCE][0]);
    assert_nan(n.value[METRIC_PREVIOUS_TOKEN][0]);
    assert_nan(n.value[METRIC_NEXT_TOKEN][0]);
    assert_nan(n.value[METRIC_MEAN_DISTANCE_NORMALIZED][0]);
    assert_nan(n.value[METRIC_ENTROPY_SANS_FIRST][0]);
    assert_true(n.value[METRIC_LOCAL_MASS][0] == 1 && n.value[METRIC_TAIL_MASS][0] == 0);
    assert_true(n.aggregate[AGGREGATE_SUM][MAP_MEAN] == 2 &&
                n.aggregate[AGGREGATE_MEAN][MAP_MAX] == 1);
    assert_nan(n.aggregate[AGGREGATE_MAX][MAP_STD]);
}

TEST(unsound_rows_are_counted_and_left_out)
{
    /* sound; NaN; wrong sum; negative; sound */
    float x[] = {0, 1, 0,    0,     0, NAN, 1, 0, 0, 0, 0.5f, 0.49f, 0,
                 0, 0, 1.1f, -0.1f, 0, 0,   0, 0, 0, 0, 0,    1};
    struct attention a = self_map(x, 1, 5);
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.rows, 2);
    assert_int_equal(n.invalid_rows, 3);
    assert_true(n.value[METRIC_CONFIDENCE][0] == 1 && n.value[METRIC_MAX][0] == 1);
    assert_true(n.value[METRIC_DIAGONAL][0] == 0.5);
    assert_close(n.row_sum_error, 0.01, 1e-7);
}

TEST(all_rows_unsound_leaves_no_numbers)
{
    float x[] = {NAN, NAN, NAN, NAN};
    struct attention a = self_map(x, 1, 2);
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.rows, 0);
    assert_int_equal(n.invalid_rows, 2);
    assert_nan(n.row_sum_error);
    for (uint32_t m = 0; m <= METRIC_IMPORTANCE; m++) {
        assert_nan(n.value[m][0]);
    }
    for (uint32_t s = 0; s < MAP_STAT_COUNT; s++) {
        assert_nan(n.aggregate[AGGREGATE_MEAN][s]);
    }
}

/* A valid query that may attend to nothing is unsound, and no witness of a sum. */
TEST(no_valid_key_is_unsound)
{
    float x[] = {0, 0, 0, 0};
    int32_t none = 0;
    struct attention a = self_map(x, 1, 2);
    a.k_len = &none;
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.invalid_rows, 2);
    assert_nan(n.row_sum_error);
}

/* Rule 1: what the mask excludes is never looked at, NaN included. */
TEST(excluded_weights_do_not_exist)
{
    float x[] = {1, NAN, INFINITY, 0.5f, 0.5f, -7, NAN, NAN, NAN};
    int32_t two = 2;
    struct attention a = self_map(x, 1, 3);
    a.causal = true;
    a.q_len = a.k_len = &two;
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.rows, 2);
    assert_int_equal(n.invalid_rows, 0);
    assert_close(n.value[METRIC_ENTROPY][0], log(2) / 2, 1e-15);
    assert_close(n.value[METRIC_ENTROPY_NORMALIZED][0], 1, 1e-15); /* row 0 has one key: not in */
    assert_close(n.value[METRIC_MEAN][0], 2.0 / 3, 1e-15);
}

TEST(dropout_and_learned_sink_relax_the_sum)
{
    float x[] = {0.5f, 0.2f, 0.9f, 0.3f};
    struct attention a = self_map(x, 1, 2);
    assert_int_equal(block_numbers_of(&a).rows, 0);
    a.learned_sink = true;
    assert_int_equal(block_numbers_of(&a).rows, 1);
    a.dropout = true;
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.rows, 2);
    assert_close(n.row_sum_error, 0.3, 1e-7);
}

TEST(importance_sums_to_one_and_ranks_heads)
{
    float x[3][2][2] = {{{1, 0}, {0, 1}}, {{0.5f, 0.5f}, {0.5f, 0.5f}}, {{1, 0}, {0, 1}}};
    struct attention a = self_map(&x[0][0][0], 3, 2);
    struct numbers n = block_numbers_of(&a);
    double p = 1 / (1 + exp(-1)), q = 1 - p;
    double sharp = (1.0 / 3 - 2 * (p * log(p + 1e-8) + q * log(q + 1e-8))) / 2;
    double flat = -2 * log(0.5 + 1e-8) / 2;
    double sum = 2 * exp(sharp) + exp(flat);
    assert_close(n.value[METRIC_IMPORTANCE][0], exp(sharp) / sum, 1e-14);
    assert_close(n.value[METRIC_IMPORTANCE][1], exp(flat) / sum, 1e-14);
    assert_true(n.value[METRIC_IMPORTANCE][0] == n.value[METRIC_IMPORTANCE][2]);
}

/* V and E are averaged over samples before the softmax: sending a sample twice changes nothing. */
TEST(importance_averages_samples)
{
    float once[2][4] = {{1, 0, 0, 1}, {0.5f, 0.5f, 0.5f, 0.5f}}, twice[2][2][4];
    memcpy(twice[0], once, sizeof once);
    memcpy(twice[1], once, sizeof once);
    struct attention a = self_map(&once[0][0], 2, 2), b = self_map(&twice[0][0][0], 2, 2);
    b.batch = 2;
    assert_close(block_numbers_of(&b).value[METRIC_IMPORTANCE][0],
                 block_numbers_of(&a).value[METRIC_IMPORTANCE][0], 1e-15);
}

TEST(maps_run_over_heads)
{
    float x[2][4] = {{1, 0, 0, 1}, {0.5f, 0.5f, 0.5f, 0.5f}};
    struct attention a = self_map(&x[0][0], 2, 2);
    struct numbers n = block_numbers_of(&a);
    assert_true(n.aggregate[AGGREGATE_SUM][MAP_MAX] == 1.5 &&
                n.aggregate[AGGREGATE_SUM][MAP_MIN] == 0.5);
    assert_true(n.aggregate[AGGREGATE_MEAN][MAP_MEAN] == 0.5);
    assert_true(n.aggregate[AGGREGATE_MAX][MAP_MAX] == 1 &&
                n.aggregate[AGGREGATE_MAX][MAP_MIN] == 0.5);
    assert_close(n.aggregate[AGGREGATE_SUM][MAP_STD], sqrt(1.0 / 3), 1e-15);
}

/* As torch's max: one NaN among the heads, and the entry is NaN; then it is left out. */
TEST(nan_stays_in_the_max_map)
{
    for (uint32_t bad = 0; bad < 2; bad++) {
        float x[2][2] = {{0.25f, 0.75f}, {0.5f, 0.5f}};
        x[bad][1] = NAN;
        struct attention a = self_map(&x[0][0], 2, 1);
        a.keys = 2;
        struct numbers n = block_numbers_of(&a);
        assert_true(n.aggregate[AGGREGATE_MAX][MAP_MAX] == 0.5);
        assert_true(n.aggregate[AGGREGATE_MAX][MAP_MEAN] == 0.5);
    }
}

TEST(pairs_are_ordered_with_ties_by_position)
{
    float x[] = {0.25f, 0.5f, 0.25f, 0.5f, 0.25f, 0.25f, 0.125f, 0.75f, 0.125f};
    struct attention a = self_map(x, 1, 3);
    OWNED(block_clear) struct block block;
    test_block_compute(&block, &a);
    const uint32_t want[][2] = {{2, 1}, {0, 1}, {1, 0}, {0, 0}, {0, 2},
                                {1, 1}, {1, 2}, {2, 0}, {2, 2}};
    assert_int_equal(block.pair_count, 9);
    for (uint32_t i = 0; i < 9; i++) {
        assert_int_equal(block.pairs[i].query, want[i][0]);
        assert_int_equal(block.pairs[i].key, want[i][1]);
    }
}

TEST(pairs_average_the_samples_where_finite)
{
    float x[] = {0.5f, NAN, 0.25f, 0.25f, 0.75f, NAN};
    struct attention a = self_map(x, 1, 1);
    a.batch = 2;
    a.keys = 3;
    OWNED(block_clear) struct block block;
    test_block_compute(&block, &a);
    assert_int_equal(block.pair_count, 3);
    assert_int_equal(block.pairs[0].key, 1);
    assert_true(block.pairs[0].weight == 0.75);
    assert_int_equal(block.pairs[1].key, 0);
    assert_true(block.pairs[1].weight == 0.375);
    assert_true(block.pairs[2].weight == 0.25);
}

static void block_assert_same(const struct block *a, const struct block *b)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->invalid_rows, b->invalid_rows);
    assert_true(a->row_sum_error == b->row_sum_error);
    for (uint32_t h = 0; h < a->heads; h++) {
        for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
            const struct dist *x = &a->head[h].row[m], *y = &b->head[h].row[m];
            assert_int_equal(x->moments.n, y->moments.n);
            assert_int_equal(x->hist.used, y->hist.used);
            if (x->hist.used > 0) {
                assert_memory_equal(x->hist.buckets, y->hist.buckets,
                                    x->hist.used * sizeof *x->hist.buckets);
            }
            assert_close(x->moments.mean, y->moments.mean, 1e-13);
            assert_close(x->moments.m2, y->moments.m2, 1e-11);
        }
        assert_int_equal(a->head[h].neighbour_count, b->head[h].neighbour_count);
        assert_close(a->head[h].neighbour_sum, b->head[h].neighbour_sum, 1e-13);
    }
    assert_int_equal(a->pair_count, b->pair_count);
    for (uint32_t i = 0; i < a->pair_count; i++) {
        assert_int_equal(a->pairs[i].query, b->pairs[i].query);
        assert_int_equal(a->pairs[i].key, b->pairs[i].key);
        assert_true(a->pairs[i].weight == b->pairs[i].weight);
    }
}

/* Two samples, two heads, some unsound rows. */
static void block_fill_random(float *x, uint64_t random)
{
    for (uint32_t row = 0; row < 2 * 2 * T; row++) {
        double sum = 0;
        for (uint32_t j = 0; j < T; j++) {
            x[row * T + j] = (float)pow(random_unit(&random), 4);
            sum += (double)x[row * T + j];
        }
        double factor = random_unit(&random) < 0.1 ? 0.9 : 1;
        for (uint32_t j = 0; j < T; j++) {
            x[row * T + j] = (float)((double)x[row * T + j] / sum * factor);
        }
    }
}

static void add_range(struct block *into, const struct attention *a, uint32_t begin, uint32_t end)
{
    OWNED(block_clear) struct block part;
    block_compute_rows(&part, a, &everything, begin, end);
    assert_int_equal(block_merge(into, &part), 0);
}

TEST(any_cut_merges_to_the_whole)
{
    static float x[2 * 2 * T * T];
    for (uint64_t seed = 0; seed < 50; seed++) {
        block_fill_random(x, seed);
        struct attention a = self_map(x, 2, T);
        a.batch = 2;
        OWNED(block_clear) struct block whole, cut;
        test_block_compute(&whole, &a);
        assert_int_equal(block_init(&cut, &a, &everything), 0);
        uint64_t random = seed + 1000;
        for (uint32_t begin = 0; begin < T;) {
            uint32_t end = begin + (uint32_t)(random_unit(&random) * 6); /* empty ones too */
            end = end < T ? end : T;
            add_range(&cut, &a, begin, end);
            begin = end;
        }
        block_assert_same(&whole, &cut);
    }
}

/* Rows are given as the key that has all the weight. */
static void fill_one_hot(float *x, const uint32_t *key, uint32_t length)
{
    memset(x, 0, (size_t)length * length * sizeof *x);
    for (uint32_t i = 0; i < length; i++) {
        x[i * length + key[i]] = 1;
    }
}

TEST(next_token_head)
{
    float x[T * T];
    uint32_t key[T];
    for (uint32_t i = 0; i < T; i++) {
        key[i] = i + 1 < T ? i + 1 : 0;
    }
    fill_one_hot(x, key, T);
    struct attention a = self_map(x, 1, T);
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_NEXT_TOKEN][0] == 1 && n.value[METRIC_PREVIOUS_TOKEN][0] == 0);
    assert_true(n.value[METRIC_LOCALITY][0] == 0.5);
    assert_true(n.value[METRIC_EFFECTIVE_KEYS][0] == 1 && n.value[METRIC_TAIL_MASS][0] == 0);
}

/* The second half of a text repeats the first: all weight on the token after the first occurrence.
 */
TEST(induction_head_on_repeated_random_tokens)
{
    float x[T * T];
    uint32_t key[T] = {0};
    int32_t tokens[T];
    for (uint32_t i = 0; i < T / 2; i++) {
        tokens[i] = tokens[T / 2 + i] = (int32_t)(i * 2654435761u);
        key[T / 2 + i] = i + 1;
    }
    fill_one_hot(x, key, T);
    struct attention a = self_map(x, 1, T);
    a.tokens = tokens;
    a.causal = true;
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_INDUCTION][0] == 1 && n.value[METRIC_DUPLICATE_TOKEN][0] == 0);
    assert_int_equal(rows_of(&a, METRIC_INDUCTION), T / 2);
    a.tokens = NULL;
    n = block_numbers_of(&a);
    assert_nan(n.value[METRIC_INDUCTION][0]);
    assert_nan(n.value[METRIC_DUPLICATE_TOKEN][0]);
}

/* All earlier occurrences count, and only those within the length. */
TEST(token_metrics_sum_over_occurrences)
{
    float x[5 * 5] = {1, 0, 0, 0, 0, 0.5f, 0.5f, 0,      0,    0,     0.25f,  0.5f, 0.25f,
                      0, 0, 0, 0, 0, 1,    0,    0.125f, 0.5f, 0.25f, 0.125f, 0};
    const int32_t tokens[] = {7, 8, 7, 9, 7};
    struct attention a = self_map(x, 1, 5);
    a.tokens = tokens;
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_DUPLICATE_TOKEN][0] == (0.25 + (0.125 + 0.25)) / 2);
    assert_true(n.value[METRIC_INDUCTION][0] == (0.5 + (0.5 + 0.125)) / 2);
    const int32_t length = 4, full = 5;
    a.q_len = &full;
    a.k_len = &length; /* query 4 has no key of its own: it has no token */
    assert_int_equal(rows_of(&a, METRIC_DUPLICATE_TOKEN), 1);
    a.self = false;
    assert_int_equal(rows_of(&a, METRIC_DUPLICATE_TOKEN), 0);
}

/* Half of every row is on key 0, the rest spread evenly: without the sink it is not focused. */
TEST(sink_fakes_focus)
{
    float x[T * T] = {0};
    for (uint32_t i = 0; i < T; i++) {
        x[i * T] = i > 0 ? 0.5f : 1;
        for (uint32_t j = 1; j <= i; j++) {
            x[i * T + j] = 0.5f / (float)i;
        }
    }
    struct attention a = self_map(x, 1, T);
    a.causal = true;
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_FIRST_TOKEN][0] == 0.5);
    assert_close(n.value[METRIC_ENTROPY_SANS_FIRST][0], 1, 1e-7);
    assert_true(n.value[METRIC_ENTROPY_NORMALIZED][0] < 0.95);
    assert_int_equal(rows_of(&a, METRIC_ENTROPY_SANS_FIRST), T - 2);
}

/* Key 0 is outside the window: nothing is removed. */
TEST(sans_first_without_the_first_key)
{
    float x[5 * 5] = {1, 0, 0, 0,    0,     0.5f,  0.5f, 0, 0, 0, 1, 0, 0,
                      0, 0, 0, 0.5f, 0.25f, 0.25f, 0,    0, 0, 1, 0, 0};
    struct attention a = self_map(x, 1, 5);
    a.causal = true;
    a.window = 3;
    /* row 2: only key 0 has weight, so nothing is left; row 3: H = 1.5 ln 2; row 4: 0 */
    assert_int_equal(rows_of(&a, METRIC_ENTROPY_SANS_FIRST), 2);
    assert_close(block_numbers_of(&a).value[METRIC_ENTROPY_SANS_FIRST][0], 0.75 * log(2) / log(3),
                 1e-15);
}

TEST(uniform_rows_in_closed_form)
{
    float x[T * T];
    for (uint32_t i = 0; i < T * T; i++) {
        x[i] = 1.0f / T;
    }
    struct attention a = self_map(x, 1, T);
    struct numbers n = block_numbers_of(&a);
    double local = 0, distance = 0;
    for (int i = 0; i < T; i++) {
        double sum = 0, largest = i > T - 1 - i ? i : T - 1 - i;
        for (int j = 0; j < T; j++) {
            local += abs(i - j) <= 8 ? 1 : 0;
            sum += abs(i - j);
        }
        distance += sum / T / largest;
    }
    assert_close(n.value[METRIC_EFFECTIVE_KEYS][0], T, 1e-12);
    assert_true(n.value[METRIC_TAIL_MASS][0] == 0.5); /* 8 of 16 keys */
    assert_close(n.value[METRIC_LOCAL_MASS][0], local / T / T, 1e-15);
    assert_close(n.value[METRIC_MEAN_DISTANCE_NORMALIZED][0], distance / T, 1e-15);
    assert_true(n.value[METRIC_PREVIOUS_TOKEN][0] == 1.0 / T &&
                n.value[METRIC_NEXT_TOKEN][0] == 1.0 / T);
}

TEST(tail_is_what_the_eight_largest_leave)
{
    float x[] = {0,        0.25f,   0.0625f, 0.0625f,  0.125f, 0.0625f,
                 0.03125f, 0.0625f, 0.25f,   0.03125f, 0.0625f};
    struct attention a = self_map(x, 1, 1);
    a.keys = 11;
    assert_true(block_numbers_of(&a).value[METRIC_TAIL_MASS][0] == 0.0625);
}

TEST(learned_sink_takes_the_deficit)
{
    float x[] = {0.25f, 0.25f, 0.5f, 0.375f};
    struct attention a = self_map(x, 1, 2);
    a.learned_sink = true;
    struct numbers n = block_numbers_of(&a);
    assert_true(n.value[METRIC_SINK_DEFICIT][0] == (0.5 + 0.125) / 2);
    assert_true(n.value[METRIC_TAIL_MASS][0] == 0);
    a.learned_sink = false;
    a.dropout = true;
    assert_nan(block_numbers_of(&a).value[METRIC_SINK_DEFICIT][0]);
    a.dropout = false;
    x[1] = 0.75f;
    assert_nan(block_numbers_of(&a).value[METRIC_SINK_DEFICIT][0]);
}

/* 98 % of a row that is uniform over 12 keys; the numbers of keys are those without the sink. */
TEST(a_sink_does_not_focus_the_head_beside_it)
{
    float x[12];
    for (uint32_t j = 0; j < 12; j++) {
        x[j] = 0.02f / 12;
    }
    struct attention a = self_map(x, 1, 1);
    a.keys = 12;
    a.q_offset = 11;
    a.causal = a.learned_sink = true;
    struct numbers n = block_numbers_of(&a);
    assert_close(n.value[METRIC_SINK_DEFICIT][0], 0.98, 1e-7);
    assert_close(n.value[METRIC_ENTROPY_NORMALIZED][0], 1, 1e-14);
    assert_close(n.value[METRIC_EFFECTIVE_KEYS][0], 12, 1e-12);
    assert_close(n.value[METRIC_CONFIDENCE][0], 1.0 / 12, 1e-15);
    assert_close(n.value[METRIC_FIRST_TOKEN][0], 1.0 / 12, 1e-15);
    assert_close(n.value[METRIC_MEAN_DISTANCE][0], 5.5, 1e-13);
    assert_close(n.value[METRIC_LOCAL_MASS][0], 9.0 / 12, 1e-14);
    assert_close(n.value[METRIC_TAIL_MASS][0], 4.0 / 12, 1e-14);
    assert_close(n.value[METRIC_MEAN][0], 0.02 / 12, 1e-9); /* as sent */
}

TEST(a_row_that_a_sink_took_whole_has_its_deficit_alone)
{
    float x[] = {0, 0, 0.25f, 0.25f};
    struct attention a = self_map(x, 1, 2);
    a.learned_sink = true;
    struct numbers n = block_numbers_of(&a);
    assert_int_equal(n.rows, 2);
    assert_int_equal(rows_of(&a, METRIC_SINK_DEFICIT), 2);
    assert_int_equal(rows_of(&a, METRIC_ENTROPY), 1);
    assert_int_equal(rows_of(&a, METRIC_DIAGONAL), 1);
    assert_true(n.value[METRIC_SINK_DEFICIT][0] == 0.75);
    assert_close(n.value[METRIC_ENTROPY][0], log(2), 1e-15);
}

/* Two texts, all of whose weight is on their first token: by documents, and by their first keys. */
TEST(the_first_token_is_that_of_the_own_text)
{
    float x[T * T] = {0};
    int32_t documents[T];
    uint32_t first[T];
    for (uint32_t i = 0; i < T; i++) {
        documents[i] = i < 6;
        first[i] = i < 6 ? 0 : 6;
        x[i * T + first[i]] = 1;
    }
    struct attention a = self_map(x, 1, T);
    a.causal = true;
    a.documents = documents;
    assert_close(block_numbers_of(&a).value[METRIC_FIRST_TOKEN][0], 5.0 / (T - 1), 1e-15);
    a.first = first;
    assert_true(block_numbers_of(&a).value[METRIC_FIRST_TOKEN][0] == 1);
    assert_int_equal(rows_of(&a, METRIC_FIRST_TOKEN), T - 2);
    assert_int_equal(rows_of(&a, METRIC_ENTROPY_SANS_FIRST), 0); /* nothing is left */
}

/* The lower rows of a causal map, sent as a slice, have the numbers that they have in the map. */
TEST(a_slice_of_queries_is_placed_by_its_offset)
{
    static float x[2 * 2 * T * T];
    int32_t tokens[T];
    block_fill_random(x, 5);
    for (uint32_t j = 0; j < T; j++) {
        tokens[j] = (int32_t)(j % 3);
    }
    struct attention a = self_map(x, 1, T);
    a.causal = a.dropout = true;
    a.tokens = tokens;
    struct attention slice = a;
    slice.weights = x + 5 * T;
    slice.queries = T - 5;
    slice.q_offset = 5;
    OWNED(block_clear) struct block want, got;
    block_compute_rows(&want, &a, &everything, 5, T);
    test_block_compute(&got, &slice);
    want.pair_count = got.pair_count = 0; /* places in the tensor */
    block_assert_same(&want, &got);
}

/* The rows of a map, sent as samples that together have each of them once, have its numbers, the
 * last row's next token included. */
TEST(samples_of_all_rows_have_the_numbers_of_the_map)
{
    enum { STRIDE = 3 };
    static float x[2 * 2 * T * T], part[T * T];
    int32_t tokens[T];
    block_fill_random(x, 7);
    for (uint32_t j = 0; j < T; j++) {
        tokens[j] = (int32_t)(j % 5);
    }
    struct attention a = self_map(x, 1, T);
    a.causal = a.dropout = true;
    a.tokens = tokens;
    OWNED(block_clear) struct block want, got;
    test_block_compute(&want, &a);
    assert_int_equal(block_init(&got, &a, &everything), 0);
    for (uint32_t phase = 0; phase < STRIDE; phase++) {
        struct attention sample = a;
        OWNED(block_clear) struct block one;
        sample.weights = part;
        sample.q_offset = phase;
        sample.q_stride = STRIDE;
        sample.queries = 0;
        for (uint32_t i = phase; i < T; i += STRIDE) {
            memcpy(part + sample.queries++ * T, x + i * T, T * sizeof *x);
        }
        test_block_compute(&one, &sample);
        assert_int_equal(block_merge(&got, &one), 0);
    }
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        const struct moments *all = &want.head[0].row[m].moments,
                             *sum = &got.head[0].row[m].moments;
        assert_int_equal(sum->n, all->n);
        assert_true(all->n == 0 || fabs(sum->mean - all->mean) < 1e-12);
    }
    assert_int_equal(want.head[0].row[METRIC_NEXT_TOKEN].moments.n, T - 1);
}

/* Packed texts have the numbers of the texts apart. */
TEST(documents_are_apart)
{
    static float x[2 * 2 * T * T];
    const int32_t documents[] = {4, 4, 4, 4, 4, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9};
    block_fill_random(x, 6);
    struct attention packed = self_map(x, 1, T), first = self_map(x, 1, T);
    const int32_t length = 5;
    packed.documents = documents;
    packed.dropout = first.dropout = true;
    first.q_len = first.k_len = &length;
    OWNED(block_clear) struct block got, want;
    block_compute_rows(&got, &packed, &everything, 0, 5);
    test_block_compute(&want, &first);
    /* the text alone ends at its last token, so that token has no next one */
    const enum metric same[] = {METRIC_ENTROPY, METRIC_MEAN_DISTANCE_NORMALIZED, METRIC_DIAGONAL,
                                METRIC_PREVIOUS_TOKEN, METRIC_ENTROPY_SANS_FIRST};
    for (size_t m = 0; m < sizeof same / sizeof same[0]; m++) {
        const struct dist *one = &got.head[0].row[same[m]], *other = &want.head[0].row[same[m]];
        assert_int_equal(one->moments.n, other->moments.n);
        assert_true(one->moments.mean == other->moments.mean);
    }
    assert_int_equal(got.head[0].row[METRIC_NEXT_TOKEN].moments.n, 5);
    assert_int_equal(want.head[0].row[METRIC_NEXT_TOKEN].moments.n, 4);
}

/* The numbers that only the tier of queries and keys fills: read out and merged. */
TEST(logit_statistics_are_read_out_and_merged)
{
    float x[] = {1};
    struct attention a = self_map(x, 1, 1);
    OWNED(block_clear) struct block one, two;
    assert_int_equal(block_init(&one, &a, &everything), 0);
    assert_int_equal(block_init(&two, &a, &everything), 0);
    moments_add(&one.head[0].logits, 2);
    moments_add(&two.head[0].logits, -5);
    moments_add(&two.head[0].logits, 0);
    moments_add(&one.head[0].cosine, 0.25);
    moments_add(&two.head[0].cosine, 0.75);
    moments_add(&one.head[0].q_norm, 3);
    moments_add(&two.head[0].q_norm, 5);
    moments_add(&two.head[0].k_norm, 7);
    moments_add(&two.head[0].output_norm, 11);
    moments_add(&two.head[0].norm_weighted_entropy, 13);
    moments_add(&one.head[0].write_norm, 17);
    moments_add(&two.head[0].write_norm, 21);
    moments_add(&two.head[0].residual_share, 0.5);
    one.head[0].gradient = 2;
    two.head[0].gradient = 3;
    assert_int_equal(dist_add(&two.head[0].row[METRIC_MAX_LOGIT], 2), 0);
    assert_int_equal(block_merge(&one, &two), 0);
    struct numbers n = block_read_out(&one);
    assert_true(n.value[METRIC_MAX_LOGIT][0] == 2 && n.value[METRIC_MAX_ABS_LOGIT][0] == 5);
    assert_close(n.value[METRIC_MEAN_LOGIT][0], -1, 1e-15);
    assert_close(n.value[METRIC_STD_LOGIT][0], sqrt(13), 1e-14);
    assert_true(n.value[METRIC_QK_COSINE][0] == 0.5 && n.value[METRIC_QK_COSINE_MAX][0] == 0.75);
    assert_true(n.value[METRIC_Q_NORM][0] == 4 && n.value[METRIC_K_NORM][0] == 7);
    assert_true(n.value[METRIC_OUTPUT_NORM][0] == 11);
    assert_true(n.value[METRIC_NORM_WEIGHTED_ENTROPY][0] == 13);
    assert_true(n.value[METRIC_WRITE_NORM][0] == 19);
    assert_true(n.value[METRIC_RESIDUAL_SHARE][0] == 0.5);
    assert_true(one.head[0].gradient == 5);
    assert_nan(n.value[METRIC_ENTROPY][0]);
}

TEST(maps_and_pairs_are_switched_apart)
{
    float x[] = {0.25f, 0.75f, 0.5f, 0.5f};
    struct attention a = self_map(x, 1, 2);
    for (uint32_t on = 0; on < 4; on++) {
        struct block_plan plan = {.maps = (on & 1) != 0, .top_pairs = 1};
        plan.group[METRIC_GROUP_PAIRS] = (on & 2) != 0;
        OWNED(block_clear) struct block block;
        block_compute_rows(&block, &a, &plan, 0, 2);
        for (uint32_t map = 0; map < BLOCK_MAPS; map++) {
            double stat[MAP_STAT_COUNT];
            block_map_stats(&block.map[map], stat);
            assert_true((on & 1) != 0 ? stat[MAP_MAX] == 0.75 : isnan(stat[MAP_MAX]));
        }
        assert_int_equal(block.pair_count, on >> 1);
    }
}

TEST(groups_that_are_off_stay_off)
{
    float x[] = {1, 0, 0, 1};
    struct attention a = self_map(x, 1, 2);
    struct block_plan nothing = {.group = {false}};
    OWNED(block_clear) struct block block;
    block_compute_rows(&block, &a, &nothing, 0, 2);
    double entropy = 77, *value[METRIC_COUNT] = {[METRIC_ENTROPY] = &entropy};
    block_values(&block, value);
    assert_true(entropy == 77);
    assert_null(block.importance);
    assert_null(block.pairs);
    assert_int_equal(block.rows, 2); /* rows are always counted */
}

/* The n-th allocation fails, for every n there is: an error, no crash, no leak. */
static int block_run_once(const struct attention *a)
{
    struct block block, part;
    struct scratch scratch = {0};
    int rc = block_init(&block, a, &everything);
    if (rc < 0) {
        return rc;
    }
    rc = block_init(&part, a, &everything);
    if (rc == 0) {
        rc = block_compute_ref(&part, a, 0, T, &scratch);
        rc = rc < 0 ? rc : block_merge(&block, &part);
        block_clear(&part);
    }
    block_clear(&block);
    scratch_clear(&scratch);
    return rc;
}

TEST(block_every_allocation_may_fail)
{
    static float x[2 * 2 * T * T];
    static const int32_t tokens[2 * T];
    block_fill_random(x, 1);
    struct attention a = self_map(x, 2, T);
    a.batch = 2;
    a.tokens = tokens;
    unsigned nth = 1;
    for (;; nth++) {
        heap_fail_at(nth);
        int rc = block_run_once(&a);
        if (!heap_has_failed()) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, ERR_MEMORY);
    }
    heap_fail_at(0);
    assert_in_range(nth, 20, 1000);
}

TEST(scratch_grows_and_is_aligned)
{
    struct scratch scratch = {0};
    for (size_t bytes = 0; bytes < 1000; bytes += 37) {
        unsigned char *memory = scratch_take(&scratch, bytes);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        memset(memory, 1, bytes);
    }
    void *before = scratch.memory;
    assert_ptr_equal(scratch_take(&scratch, 10), before);
    assert_null(scratch_take(&scratch, SIZE_MAX));
    assert_ptr_equal(scratch.memory, before);
    scratch_clear(&scratch);
    scratch_clear(&scratch);
    assert_null(scratch.memory);
}
