/* SPDX-License-Identifier: MIT */
/* Sums over rows become the numbers of the rows themselves. */
#include "tests/unit/workers/rows/sums_fixture.h"

#include "proto/err.h"
#include "workers/qk/qk.h"

static int sums_set_up(void **state)
{
    *state = drawn_new();
    return 0;
}

static int sums_tear_down(void **state)
{
    free(*state);
    return 0;
}

#define SUMS_TEST(name) TEST_OF(name, struct drawn *d, sums_set_up, sums_tear_down)

static const struct block_plan all_groups = {
    .group = {[METRIC_GROUP_CORE] = true, [METRIC_GROUP_IMPORTANCE] = true}, .local_window = 3};

static struct block sums_compute(const struct drawn *d, uint32_t begin, uint32_t end, enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block_plan plan = all_groups;
    struct block block;
    plan.group[METRIC_GROUP_IMPORTANCE] = row_sums_weigh(&d->rows);
    assert_int_equal(block_init(&block, &d->a, &plan), 0);
    assert_int_equal(row_sums_compute(&block, &d->rows, begin, end, isa, &scratch), 0);
    return block;
}

static int sums_code(const struct drawn *d, enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(block_clear) struct block block;
    assert_int_equal(block_init(&block, &d->a, &all_groups), 0);
    return row_sums_compute(&block, &d->rows, 0, d->rows.rows, isa, &scratch);
}

/* The numbers of queries and keys by the reference, with the importance of the weights. */
static struct block sums_want(struct drawn *d)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block_plan plan = all_groups;
    struct block block;
    assert_int_equal(block_init(&block, &d->a, &plan), 0);
    block.plan.group[METRIC_GROUP_IMPORTANCE] = false;
    assert_int_equal(qk_compute_ref(&block, &d->a, 0, d->a.queries, &scratch), 0);
    struct attention a = d->a;
    OWNED(block_clear) struct block of_weights;
    drawn_fill_weights(d, false);
    a.weights = d->weights;
    a.dtype = DTYPE_F64;
    plan.group[METRIC_GROUP_CORE] = false;
    assert_int_equal(block_init(&of_weights, &a, &plan), 0);
    assert_int_equal(block_compute_ref(&of_weights, &a, 0, a.queries, &scratch), 0);
    memcpy(block.importance, of_weights.importance,
           SUMS_BATCH * SUMS_HEADS * sizeof *block.importance);
    block.plan.group[METRIC_GROUP_IMPORTANCE] = true;
    return block;
}

/* The numbers of a map by the reference. */
static struct block sums_want_of(const struct attention *a)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block block;
    assert_int_equal(block_init(&block, a, &all_groups), 0);
    assert_int_equal(block_compute_ref(&block, a, 0, a->queries, &scratch), 0);
    return block;
}

struct numbers {
    double value[METRIC_COUNT][SUMS_HEADS];
};

static struct numbers sums_read_out(const struct block *block)
{
    struct numbers n = {0};
    double *value[METRIC_COUNT];
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = n.value[m];
    }
    block_values(block, value);
    return n;
}

/* By KERNELS.md: of a faster path. */
static double sums_tolerance(int m, double value)
{
    double t = fmax(1, fabs(value));
    switch (m) {
    case METRIC_ENTROPY:
    case METRIC_ENTROPY_NORMALIZED:
    case METRIC_ENTROPY_SANS_FIRST:
    case METRIC_EFFECTIVE_KEYS:
        return 1e-4 * t;
    case METRIC_STD:
        return 1e-3;
    default:
        return 1e-5 * t;
    }
}

/* `loose`: times the tolerance. */
static void sums_assert_same(const struct drawn *d, const struct block *got,
                             const struct block *want, double loose)
{
    struct numbers g = sums_read_out(got), w = sums_read_out(want);
    assert_int_equal(got->rows, want->rows);
    assert_int_equal(got->invalid_rows, want->invalid_rows);
    assert_close_or_nan(got->row_sum_error, want->row_sum_error, 1e-6 * loose);
    for (int m = 0; m < METRIC_IMPORTANCE_GRADIENT; m++) {
        bool has = row_sums_have(&d->rows, (enum metric)m);
        has = has && (m != METRIC_IMPORTANCE || row_sums_weigh(&d->rows));
        for (uint32_t h = 0; has && h < SUMS_HEADS; h++) {
            double tolerance = loose * sums_tolerance(m, w.value[m][h]);
            if (isnan(w.value[m][h]) ? !isnan(g.value[m][h])
                                     : !(fabs(g.value[m][h] - w.value[m][h]) <= tolerance)) {
                fail_msg("%s of head %u: got %.9g, want %.9g", metric_info[m].name, h,
                         g.value[m][h], w.value[m][h]);
            }
            if (m < METRIC_ROW_COUNT) {
                assert_int_equal(got->head[h].row[m].moments.n, want->head[h].row[m].moments.n);
            }
        }
    }
}

static void sums_assert_all(const struct drawn *d, const struct block *want, double loose)
{
    OWNED(block_clear) struct block reference = sums_compute(d, 0, d->rows.rows, ISA_SCALAR);
    sums_assert_same(d, &reference, want, loose);
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            OWNED(block_clear) struct block got = sums_compute(d, 0, d->rows.rows, (enum isa)isa);
            sums_assert_same(d, &got, want, loose);
            sums_assert_same(d, &got, &reference, 1);
        }
    }
}

SUMS_TEST(they_say_what_queries_and_keys_say_for_every_mask)
{
    for (unsigned kind = 0; kind < DRAWN_MASKS; kind++) {
        for (enum apart apart = 0; apart < APART_COUNT; apart++) {
            drawn_set_mask(d, kind);
            if (apart == APART_ALONE && d->a.mask) {
                continue; /* whether a query before all its keys is after its document's first */
            }
            drawn_send(d, apart);
            OWNED(block_clear) struct block want = sums_want(d);
            sums_assert_all(d, &want, 1);
        }
    }
}

/* A head may say otherwise than places do. */
SUMS_TEST(whether_the_first_key_is_visible_is_said_by_head)
{
    drawn_set_mask(d, 5);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block want = sums_want(d);
    for (uint32_t at = 0; at < SUMS_BATCH * SUMS_QUERIES; at++) {
        int32_t *place = d->places + ROW_PLACE_WITH_FIRST * SUMS_BATCH * SUMS_QUERIES + at;
        *place = !*place;
    }
    sums_assert_all(d, &want, 1);
}

SUMS_TEST(cross_attention_has_no_neighbours)
{
    d->a.self = false;
    d->a.queries = 33;
    drawn_set_mask(d, 4);
    d->a.q_len = NULL;
    d->a.tokens = NULL;
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block want = sums_want(d);
    sums_assert_all(d, &want, 1);
    OWNED(block_clear) struct block got = sums_compute(d, 0, 33, isa_best());
    assert_int_equal(got.head[0].row[METRIC_PREVIOUS_TOKEN].moments.n, 0);
    assert_int_equal(got.head[0].row[METRIC_INDUCTION].moments.n, 0);
}

SUMS_TEST(one_row_of_one_key_is_certain)
{
    d->a.queries = 1;
    drawn_set_mask(d, 8);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block want = sums_want(d);
    sums_assert_all(d, &want, 1);
    OWNED(block_clear) struct block got = sums_compute(d, 0, 1, isa_best());
    assert_close(got.head[0].row[METRIC_CONFIDENCE].moments.mean, 1, 0);
    assert_close(got.head[0].row[METRIC_ENTROPY].moments.mean, 0, 0);
}

SUMS_TEST(a_softcap_is_in_the_logits)
{
    d->a.qk.softcap = 2;
    drawn_set_mask(d, 1);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block want = sums_want(d);
    sums_assert_all(d, &want, 1);
}

/* f32 has logits of 10,000 to 5e-4, and so the weights. */
SUMS_TEST(huge_logits_are_as_exact_as_they_are_sent)
{
    d->a.qk.scale = 2000;
    drawn_set_mask(d, 1);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block want = sums_want(d);
    sums_assert_all(d, &want, 200);
}

SUMS_TEST(rows_with_nan_or_infinity_are_not_sound)
{
    drawn_set_mask(d, 1);
    d->q[5 * SUMS_DIM] = NAN;
    d->q[(SUMS_QUERIES + 7) * SUMS_DIM] = INFINITY;
    d->k[3 * SUMS_DIM] = -INFINITY;
    for (enum apart apart = 0; apart < APART_COUNT; apart++) {
        drawn_send(d, apart);
        OWNED(block_clear) struct block got = sums_compute(d, 0, SUMS_QUERIES, isa_best());
        OWNED(block_clear) struct block want = sums_want(d);
        assert_true(got.invalid_rows > 0);
        /* The importance of a map with NaN is that of the rows without. */
        d->rows.queries = SUMS_QUERIES + 1;
        sums_assert_all(d, &want, 1);
    }
}

SUMS_TEST(parts_of_the_rows_merge_to_the_same)
{
    drawn_set_mask(d, 6);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block all = sums_compute(d, 0, SUMS_QUERIES, isa_best());
    OWNED(block_clear) struct block into = sums_compute(d, 0, 13, isa_best());
    OWNED(block_clear) struct block second = sums_compute(d, 13, 50, isa_best());
    OWNED(block_clear) struct block third = sums_compute(d, 50, SUMS_QUERIES, isa_best());
    assert_int_equal(block_merge(&into, &second), 0);
    assert_int_equal(block_merge(&into, &third), 0);
    sums_assert_same(d, &into, &all, 1e-3);
}

SUMS_TEST(logits_cosines_and_lengths_that_are_not_finite_are_left_out_on_all_paths)
{
    static const enum row_sum sums[] = {
        ROW_SUM_LOGITS,     ROW_SUM_LOGIT_SQUARES, ROW_SUM_SHIFT,       ROW_SUM_COSINES,
        ROW_SUM_COSINE_MAX, ROW_SUM_SMALLEST,      ROW_SUM_QUERY_LENGTH};
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    drawn_set_mask(d, 0);
    drawn_send(d, APART_BY_PLACE);
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        drawn_sum(d, sums[i])[7 + 11 * i] = odd[i % 3];
        drawn_sum(d, sums[i])[SUMS_ROWS - 1 - i] = odd[(i + 1) % 3];
    }
    for (uint32_t i = 0; i < 3; i++) {
        d->key_lengths[i * SUMS_KEYS + 69 - i] = odd[i];
    }
    OWNED(block_clear) struct block want = sums_compute(d, 0, d->rows.rows, ISA_SCALAR);
    for (uint32_t h = 0; h < SUMS_HEADS; h++) {
        assert_true(isfinite(want.head[h].logits.m2) && isfinite(want.head[h].cosine.mean));
        assert_true(isfinite(want.head[h].q_norm.mean) && isfinite(want.head[h].k_norm.mean));
    }
    sums_assert_all(d, &want, 1);
}

/* A sink takes its share of the entries, and none of what a head does among its keys. */
SUMS_TEST(a_sink_is_in_the_entries_and_in_its_deficit)
{
    for (unsigned kind = 0; kind < 8; kind++) {
        drawn_set_mask(d, kind);
        drawn_send(d, APART_BY_PLACE);
        d->rows.sinks = d->sinks;
        d->rows.column[ROW_SUM_LOGITS] = d->rows.column[ROW_SUM_COSINES] = 0;
        d->rows.column[ROW_SUM_QUERY_LENGTH] = 0;
        d->rows.key_lengths = NULL;
        drawn_fill_weights(d, true);
        struct attention a = d->a;
        a.weights = d->weights;
        a.dtype = DTYPE_F64;
        a.learned_sink = true;
        OWNED(block_clear) struct block want = sums_want_of(&a);
        for (uint32_t h = 0; h < SUMS_HEADS; h++) { /* a map does not tell it */
            want.row_sum_error = 0;
            OWNED(block_clear) struct block of_qk = sums_want(d);
            dist_clear(&want.head[h].row[METRIC_MAX_LOGIT]);
            assert_int_equal(dist_merge(&want.head[h].row[METRIC_MAX_LOGIT],
                                        &of_qk.head[h].row[METRIC_MAX_LOGIT]),
                             0);
            want.head[h].row[METRIC_MAX_LOGIT].moments =
                of_qk.head[h].row[METRIC_MAX_LOGIT].moments;
        }
        sums_assert_all(d, &want, 1);
    }
}

SUMS_TEST(a_sink_that_takes_everything_leaves_the_row_its_numbers)
{
    drawn_set_mask(d, 1);
    drawn_send(d, APART_BY_PLACE);
    d->rows.sinks = d->sinks;
    for (uint32_t h = 0; h < SUMS_HEADS; h++) {
        d->sinks[h] = 1e30F;
    }
    OWNED(block_clear) struct block got = sums_compute(d, 0, SUMS_QUERIES, isa_best());
    OWNED(block_clear) struct block want = sums_want(d);
    assert_close(got.head[1].row[METRIC_SINK_DEFICIT].moments.min, 1, 0);
    assert_close(got.head[1].row[METRIC_ENTROPY].moments.mean,
                 want.head[1].row[METRIC_ENTROPY].moments.mean, 1e-4);
    assert_close(got.head[1].entries.max, 0, 0);
}

/* The model's own weights are NaN then. */
SUMS_TEST(of_a_sink_without_a_number_no_row_is_sound)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    drawn_set_mask(d, 1);
    drawn_send(d, APART_BY_PLACE);
    OWNED(block_clear) struct block without = sums_compute(d, 0, SUMS_QUERIES, ISA_SCALAR);
    uint64_t of_head = without.rows / SUMS_HEADS;
    assert_true(of_head > 0 && without.invalid_rows == 0);
    d->rows.sinks = d->sinks;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        d->sinks[1] = odd[i];
        OWNED(block_clear) struct block want = sums_compute(d, 0, SUMS_QUERIES, ISA_SCALAR);
        uint64_t lost = odd[i] < 0 ? 0 : of_head;
        assert_int_equal(want.invalid_rows, lost);
        assert_int_equal(want.rows, without.rows - lost);
        assert_int_equal(want.head[1].row[METRIC_ENTROPY].moments.n, of_head - lost);
        sums_assert_all(d, &want, 1);
    }
}

enum weights_kind { AS_SENT, AFTER_DROPOUT, BESIDE_SINK, SPOILT, WEIGHTS_KINDS };

/* Weights that somebody sends. */
static struct attention sums_weights(struct drawn *d, enum weights_kind kind)
{
    uint64_t seed = 3;
    struct attention a = d->a;
    drawn_fill_weights(d, kind == BESIDE_SINK);
    a.weights = d->weights;
    a.dtype = DTYPE_F64;
    a.dropout = kind == AFTER_DROPOUT;
    a.learned_sink = kind == BESIDE_SINK;
    for (size_t i = 0; i < SUMS_ROWS * SUMS_KEYS && kind == AFTER_DROPOUT; i++) {
        d->weights[i] *= random_unit(&seed) < 0.2 ? 0 : 1.25;
    }
    for (size_t i = 0; i < SUMS_ROWS && kind == BESIDE_SINK; i += 5) {
        memset(d->weights + i * SUMS_KEYS, 0, SUMS_KEYS * sizeof *d->weights);
    }
    static const double odd[] = {NAN, INFINITY, -0.5, 0.5, -0.5e-6, 1e-20};
    for (size_t i = 0; i < SUMS_ROWS && kind == SPOILT; i += 3) {
        d->weights[i * SUMS_KEYS + i % 3] += odd[i % 6];
    }
    return a;
}

SUMS_TEST(explicit_weights_say_what_their_map_says)
{
    for (enum weights_kind kind = 0; kind < WEIGHTS_KINDS; kind++) {
        for (unsigned mask = 0; mask < 8; mask++) {
            drawn_set_mask(d, mask);
            struct attention a = sums_weights(d, kind);
            drawn_send_weights(d, &a);
            if (kind == SPOILT) { /* sums that are off are beyond what its polynomials are for */
                d->rows.queries++;
            }
            OWNED(block_clear) struct block want = sums_want_of(&a);
            if (kind == SPOILT) { /* a row that is NaN has no sum here */
                OWNED(block_clear) struct block got = sums_compute(d, 0, SUMS_QUERIES, isa_best());
                assert_true(got.row_sum_error <= want.row_sum_error + 1e-6);
                want.row_sum_error = got.row_sum_error;
            }
            sums_assert_all(d, &want, 1);
        }
    }
}

SUMS_TEST(what_was_not_sent_is_missing_and_nothing_else)
{
    static const struct {
        enum row_sum sum;
        enum metric metric;
    } needs[] = {{ROW_SUM_LOCAL, METRIC_LOCAL_MASS},
                 {ROW_SUM_TOP, METRIC_TAIL_MASS},
                 {ROW_SUM_EIGHTH, METRIC_TAIL_MASS},
                 {ROW_SUM_PREVIOUS, METRIC_LOCALITY},
                 {ROW_SUM_PREVIOUS, METRIC_PREVIOUS_TOKEN},
                 {ROW_SUM_OWN, METRIC_DIAGONAL},
                 {ROW_SUM_NEXT, METRIC_NEXT_TOKEN},
                 {ROW_SUM_INDUCTION, METRIC_INDUCTION},
                 {ROW_SUM_DUPLICATE, METRIC_DUPLICATE_TOKEN},
                 {ROW_SUM_SQUARE, METRIC_STD},
                 {ROW_SUM_SMALLEST, METRIC_MIN},
                 {ROW_SUM_FINITE, METRIC_MEAN_LOGIT},
                 {ROW_SUM_COSINES, METRIC_QK_COSINE},
                 {ROW_SUM_COSINE_MAX, METRIC_QK_COSINE_MAX},
                 {ROW_SUM_QUERY_LENGTH, METRIC_Q_NORM}};
    drawn_set_mask(d, 1);
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        drawn_send(d, APART_BY_PLACE);
        assert_true(row_sums_have(&d->rows, needs[i].metric));
        d->rows.column[needs[i].sum] = 0;
        assert_false(row_sums_have(&d->rows, needs[i].metric));
        OWNED(block_clear) struct block want = sums_want(d);
        sums_assert_all(d, &want, 1);
        OWNED(block_clear) struct block got = sums_compute(d, 0, SUMS_QUERIES, isa_best());
        if (needs[i].metric < METRIC_ROW_COUNT) {
            assert_int_equal(got.head[0].row[needs[i].metric].moments.n, 0);
        }
    }
}

SUMS_TEST(importance_needs_all_rows_and_all_powers)
{
    drawn_send(d, APART_BY_PLACE);
    assert_true(row_sums_weigh(&d->rows));
    d->rows.column[ROW_SUM_POWER_5] = 0;
    assert_false(row_sums_weigh(&d->rows));
    d->rows.column[ROW_SUM_POWER_5] = ROW_SUM_POWER_5 + 1;
    d->rows.queries++;
    assert_false(row_sums_weigh(&d->rows));
}

/* Any row but padding. */
SUMS_TEST(numbers_that_cannot_be_are_refused)
{
    static const struct {
        enum row_sum sum;
        float value;
    } odd[] = {{ROW_SUM_TOTAL, -1},        {ROW_SUM_TOTAL, NAN},      {ROW_SUM_TOTAL, 0},
               {ROW_SUM_TOTAL, 71},        {ROW_SUM_TOTAL, INFINITY}, {ROW_SUM_WEIGHTED, 1},
               {ROW_SUM_WEIGHTED, NAN},    {ROW_SUM_WEIGHTED, -1e9F}, {ROW_SUM_DISTANCE, -1},
               {ROW_SUM_DISTANCE, 1e9F},   {ROW_SUM_DISTANCE, NAN},   {ROW_SUM_APART, 70},
               {ROW_SUM_APART, 0.5F},      {ROW_SUM_APART, NAN},      {ROW_SUM_APART, -72},
               {ROW_SUM_SEEN, 71},         {ROW_SUM_SEEN, 1.5F},      {ROW_SUM_SEEN, NAN},
               {ROW_SUM_WITH_FIRST, 2},    {ROW_SUM_WITH_FIRST, -1},  {ROW_SUM_WITH_FIRST, NAN},
               {ROW_SUM_FARTHEST, -1},     {ROW_SUM_FARTHEST, 3e9F},  {ROW_SUM_FARTHEST, 0.5F},
               {ROW_SUM_FINITE, 71},       {ROW_SUM_FINITE, 0.1F},    {ROW_SUM_FINITE, NAN},
               {ROW_SUM_COSINE_COUNT, -1}, {ROW_SUM_SQUARE, NAN},     {ROW_SUM_SQUARE, 100},
               {ROW_SUM_POWER_7, -1},      {ROW_SUM_TOP, 9},          {ROW_SUM_EIGHTH, 2},
               {ROW_SUM_EIGHTH, NAN},      {ROW_SUM_LOCAL, 100},      {ROW_SUM_PREVIOUS, NAN},
               {ROW_SUM_OWN, 1e6F},        {ROW_SUM_NEXT, INFINITY},  {ROW_SUM_DUPLICATE, -1},
               {ROW_SUM_INDUCTION, 100}};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        drawn_set_mask(d, 4);
        drawn_send(d, APART_BY_COLUMN);
        drawn_sum(d, odd[i].sum)[SUMS_HEADS * SUMS_QUERIES + 33] = odd[i].value; /* padding */
        assert_int_equal(sums_code(d, isa_best()), 0);
        drawn_sum(d, odd[i].sum)[33] = odd[i].value;
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (isa_available((enum isa)isa) && sums_code(d, (enum isa)isa) != ERR_ROWS) {
                fail_msg("%s = %g is taken", row_sum_name(odd[i].sum), (double)odd[i].value);
            }
        }
    }
}

/* Without another key the sums over them are not looked at, whatever they say. */
SUMS_TEST(sums_over_no_key_are_not_looked_at)
{
    static const float odd[] = {NAN, INFINITY, 80, -1};
    static const enum row_sum rest[] = {ROW_SUM_TOTAL,    ROW_SUM_WEIGHTED, ROW_SUM_DISTANCE,
                                        ROW_SUM_LOCAL,    ROW_SUM_TOP,      ROW_SUM_EIGHTH,
                                        ROW_SUM_PREVIOUS, ROW_SUM_OWN,      ROW_SUM_NEXT,
                                        ROW_SUM_SQUARE,   ROW_SUM_DUPLICATE};
    drawn_send(d, APART_BY_PLACE);
    drawn_sum(d, ROW_SUM_LARGEST)[33] = -INFINITY;
    drawn_sum(d, ROW_SUM_FIRST)[33] = 0;
    OWNED(block_clear) struct block want = sums_compute(d, 0, d->rows.rows, ISA_SCALAR);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        for (size_t k = 0; k < sizeof rest / sizeof rest[0]; k++) {
            drawn_sum(d, rest[k])[33] = odd[i];
        }
        sums_assert_all(d, &want, 1);
    }
}

SUMS_TEST(places_that_cannot_be_are_refused)
{
    static const int32_t odd[][2] = {{ROW_PLACE_POSITION, -1},   {ROW_PLACE_POSITIONS, -1},
                                     {ROW_PLACE_FIRST, -1},      {ROW_PLACE_FIRST, 70},
                                     {ROW_PLACE_WITH_FIRST, 2},  {ROW_PLACE_SEEN, 71},
                                     {ROW_PLACE_SEEN, -1},       {ROW_PLACE_FARTHEST, INT32_MIN},
                                     {ROW_PLACE_VALID, 2},       {ROW_PLACE_OCCURRENCE, 8},
                                     {ROW_PLACE_VALID, -1},      {ROW_PLACE_WITH_FIRST, INT32_MIN},
                                     {ROW_PLACE_OCCURRENCE, -1}, {ROW_PLACE_FIRST, INT32_MIN}};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        drawn_send(d, APART_BY_PLACE);
        d->rows.column[ROW_SUM_SEEN] = d->rows.column[ROW_SUM_FARTHEST] = 0;
        d->places[(size_t)odd[i][0] * SUMS_BATCH * SUMS_QUERIES + 20] = odd[i][1];
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (isa_available((enum isa)isa)) {
                assert_int_equal(sums_code(d, (enum isa)isa), ERR_ROWS);
            }
        }
    }
}

/* Whatever bytes come, there is a verdict; of sums that are taken both paths say the same. */
SUMS_TEST(any_bytes_have_a_verdict_that_is_the_same_on_all_paths)
{
    uint64_t seed = 5;
    for (int turn = 0; turn < 400; turn++) {
        drawn_set_mask(d, (unsigned)turn % 8);
        if (turn % 50 == 0) {
            drawn_send(d, APART_BY_COLUMN);
        }
        uint32_t bits = (uint32_t)(random_unit(&seed) * 0x1p32);
        size_t at = (size_t)(random_unit(&seed) * SUMS_ROWS * ROW_SUM_COUNT);
        float before = d->sums[at];
        memcpy(&d->sums[at], &bits, sizeof bits);
        int want = sums_code(d, ISA_SCALAR), got = sums_code(d, isa_best());
        assert_int_equal(got, want);
        if (want != 0) {
            d->sums[at] = before;
        }
    }
}

int main(void)
{
    return unit_run(NULL, NULL);
}
