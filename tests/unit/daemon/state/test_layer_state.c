/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/heap.h"
#include "daemon/state/layer_state.h"
#include "daemon/state/layer_state_internal.h"
#include "tests/unit/daemon/state/measured.h"

#include <malloc.h>

#define HEADS   3
#define BUCKETS 24
#define STREAM  24 /* messages */

static const struct measured_options everything = {
    .batch = 2, .heads = HEADS, .size = 24, .sharpness = 3, .everything = true};

static void test_layer_state_add(struct layer_state *state, struct measured_message *message)
{
    assert_non_null(message);
    assert_int_equal(layer_state_add(state, &message->message, measure_result(message->measure)),
                     0);
    measured_message_free(&message);
}

/* With everything that a state may have. */
static struct layer_state *full_state(void)
{
    struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    assert_non_null(state);
    for (uint64_t i = 1; i <= 3; i++) {
        struct measured_options options = everything;
        options.seed = i;
        test_layer_state_add(state, measured_message_new(&options, i));
    }
    test_layer_state_add(state, measured_weights_new(HEADS, 4));
    tally_drop(&state->tally, ERR_SHAPE);
    state->tally.lost = 7;
    state->tally.source = 8;
    return state;
}

static void test_layer_state_pack(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(layer_state_pack(state, writer), 0);
}

static void summarise(const struct layer_state *state, struct mpk_writer *writer)
{
    const struct layer_id id = {.layer = 3};
    const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    const uint8_t run[RUN_BYTES] = {1, 2, 3};
    OWNED(summary_view_clear) struct summary_view view;
    assert_int_equal(summary_view_init(&view, state, id, "job", run, &window), 0);
    mpk_writer_init(writer);
    summary_encode(&view.result, writer);
    assert_true(mpk_writer_ok(writer));
}

static void assert_same_bytes(const struct mpk_writer *a, const struct mpk_writer *b)
{
    assert_int_equal(a->buffer.size, b->buffer.size);
    assert_memory_equal(a->buffer.data, b->buffer.data, a->buffer.size);
}

static bool same_number(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void assert_relative(double got, double want, double relative)
{
    if (!same_number(got, want) && !(fabs(got - want) <= relative * fabs(want) + 1e-300)) {
        fail_msg("got %.17g, want %.17g", got, want);
    }
}

/* Deviations are compared with the spread of the values as a whole: of values that are nearly the
 * same the std is rounding. */
static void layer_state_assert_same_moments(const struct moments *a, const struct moments *b)
{
    assert_int_equal(a->n, b->n);
    if (a->n == 0) {
        return;
    }
    double scale = fmax(fabs(b->min), fabs(b->max));
    assert_true(a->min == b->min && a->max == b->max);
    assert_true(fabs(a->mean - b->mean) <= 1e-12 * scale);
    if (a->n >= 2) {
        assert_true(fabs(moments_std(a) - moments_std(b)) <= 1e-12 * scale);
    }
}

static void assert_same_dist(const struct dist *a, const struct dist *b)
{
    layer_state_assert_same_moments(&a->moments, &b->moments);
    assert_int_equal(a->hist.halvings, b->hist.halvings);
    assert_int_equal(a->hist.used, b->hist.used);
    if (a->hist.used > 0) {
        assert_memory_equal(a->hist.buckets, b->hist.buckets,
                            a->hist.used * sizeof *a->hist.buckets);
    }
}

static struct dist dist_of(const struct layer_state *state, int metric, uint32_t head)
{
    struct dist dist;
    assert_int_equal(layer_state_dist(state, metric, head, &dist), 0);
    return dist;
}

static void assert_same_sets(const struct stat_set *a, const struct stat_set *b)
{
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        struct stat_record x = stat_find(a, slot), y = stat_find(b, slot);
        OWNED(dist_clear) struct dist dx = {0}, dy = {0};
        assert_relative(x.last, y.last, 0);
        assert_int_equal(stat_dist(&x, &dx), 0);
        assert_int_equal(stat_dist(&y, &dy), 0);
        if (slot < STAT_HISTS) {
            assert_same_dist(&dx, &dy);
        } else {
            layer_state_assert_same_moments(&x.moments, &y.moments);
        }
    }
}

static void assert_same_states(const struct layer_state *a, const struct layer_state *b)
{
    assert_memory_equal(&a->newest, &b->newest, sizeof a->newest);
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->messages, b->messages);
    assert_int_equal(layer_state_ranks(a), layer_state_ranks(b));
    assert_memory_equal(a->on, b->on, sizeof a->on);
    for (uint32_t h = 0; h < a->heads; h++) {
        assert_same_sets(&a->head[h].stats, &b->head[h].stats);
        assert_memory_equal(&a->head[h].newest, &b->head[h].newest, sizeof a->head[h].newest);
        assert_int_equal(a->head[h].invalid_rows, b->head[h].invalid_rows);
        assert_int_equal(a->head[h].pattern, b->head[h].pattern);
    }
    assert_same_sets(&a->across, &b->across);
}

/* A stream of messages of all temperatures; ranks and shapes of their own. */
static struct measured_message *stream[STREAM];

static int make_stream(void **unused)
{
    (void)unused;
    for (uint64_t i = 0; i < STREAM; i++) {
        struct measured_options options = everything;
        options.seed = i;
        options.sharpness = 0.2 + 0.5 * (double)(i * 7 % STREAM);
        options.everything = i % 3 == 0;
        options.without_spectra = i % 4 == 1;
        options.batch = 1 + (uint32_t)(i % 2);
        stream[i] = measured_message_new(&options, i + 1);
        if (!stream[i]) {
            return -1;
        }
        stream[i]->message.header.rank = (uint32_t)(100 + i % 11);
    }
    return 0;
}

static int free_stream(void **unused)
{
    (void)unused;
    for (int i = 0; i < STREAM; i++) {
        measured_message_free(&stream[i]);
    }
    return 0;
}

static int add_from_stream(struct layer_state *state, int i)
{
    return layer_state_add(state, &stream[i]->message, measure_result(stream[i]->measure));
}

static struct layer_state *whole_state(void)
{
    struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    assert_non_null(state);
    for (int i = 0; i < STREAM; i++) {
        assert_int_equal(add_from_stream(state, i), 0);
    }
    return state;
}

/* By the definition: every value of every message, through lists at full resolution. */
static struct dist brute_force(int metric, uint32_t head)
{
    struct dist dist = {0};
    for (int i = 0; i < STREAM; i++) {
        const struct measured *measured = measure_result(stream[i]->measure);
        if (!measured->value[metric]) {
            continue;
        }
        if (metric < METRIC_ROW_COUNT) {
            assert_int_equal(dist_merge(&dist, &measured->head[head].row[metric]), 0);
        } else {
            assert_int_equal(dist_add(&dist, measured->value[metric][head]), 0);
        }
    }
    dist_limit(&dist, BUCKETS);
    return dist;
}

TEST(a_state_is_what_its_values_are)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    unsigned seen = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            OWNED(dist_clear) struct dist got = dist_of(state, m, h), want = brute_force(m, h);
            struct moments moments = layer_state_moments(state, m, h);
            assert_same_dist(&got, &want);
            assert_memory_equal(&moments, &got.moments, sizeof moments);
            seen += want.moments.n > 0;
        }
    }
    assert_true(seen >= 28 * HEADS);
}

TEST(last_is_of_the_newest_message_that_has_it)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    const struct measured *newest = measure_result(stream[STREAM - 1]->measure);
    const struct measured *spectra = measure_result(stream[STREAM - 1]->measure);
    for (int i = STREAM - 1; !spectra->has_spectra; i--) {
        spectra = measure_result(stream[i]->measure);
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        const struct stat_set *set = &state->head[h].stats;
        for (uint32_t m = 0; m < METRIC_MATRIX_FIRST; m++) {
            bool in_turn = metric_info[m].group == METRIC_GROUP_SPECTRUM;
            const struct measured *of = in_turn ? spectra : newest;
            assert_relative(stat_find(set, m).last, of->value[m] ? of->value[m][h] : NAN, 0);
        }
        for (uint32_t i = 0; i < vector_info[VECTOR_SINGULAR_VALUES].width; i++) {
            assert_relative(stat_find(set, layer_vector_slot(VECTOR_SINGULAR_VALUES, i)).last,
                            spectra->vector[VECTOR_SINGULAR_VALUES]
                                           [h * vector_info[VECTOR_SINGULAR_VALUES].width + i],
                            0);
        }
    }
}

/* An older message that is late adds its values, and is not the newest. */
TEST(order_of_arrival_does_not_matter)
{
    struct layer_state *state = layer_state_new(HEADS, BUCKETS), *whole = whole_state();
    for (int i = STREAM - 1; i >= 0; i--) {
        assert_int_equal(add_from_stream(state, i), 0);
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_relative(stat_find(&state->head[h].stats, METRIC_ENTROPY).last,
                        stat_find(&whole->head[h].stats, METRIC_ENTROPY).last, 0);
        assert_int_equal(state->head[h].pattern, whole->head[h].pattern);
    }
    assert_int_equal(state->step, whole->step);
    layer_state_free(&state);
    layer_state_free(&whole);
}

#define PARTS 6

/* Deals the stream to parts, each in the order of arrival. */
static void deal(struct layer_state *part[PARTS], uint64_t *seed)
{
    for (int p = 0; p < PARTS; p++) {
        part[p] = layer_state_new(HEADS, BUCKETS);
    }
    for (int i = 0; i < STREAM; i++) {
        assert_int_equal(add_from_stream(part[(int)(PARTS * random_unit(seed))], i), 0);
    }
}

static void free_parts(struct layer_state *part[PARTS])
{
    for (int p = 0; p < PARTS; p++) {
        layer_state_free(&part[p]);
    }
}

TEST(parts_merged_one_by_one_are_the_whole)
{
    uint64_t seed = 11;
    struct layer_state *whole = whole_state(), *part[PARTS];
    for (int round = 0; round < 10; round++) {
        deal(part, &seed);
        struct layer_state *merged = layer_state_new(HEADS, BUCKETS);
        for (int p = 0; p < PARTS; p++) {
            assert_int_equal(layer_state_merge(merged, part[p]), 0);
        }
        for (uint32_t h = 0; h < HEADS; h++) {
            for (int m = 0; m < METRIC_COUNT; m++) {
                OWNED(dist_clear) struct dist a = dist_of(merged, m, h), b = dist_of(whole, m, h);
                assert_same_dist(&a, &b);
            }
        }
        layer_state_free(&merged);
        free_parts(part);
    }
    layer_state_free(&whole);
}

TEST(merging_all_at_once_is_merging_one_by_one)
{
    uint64_t seed = 12;
    struct layer_state *part[PARTS];
    for (int round = 0; round < 10; round++) {
        deal(part, &seed);
        struct layer_state *at_once = layer_state_new(HEADS, BUCKETS);
        struct layer_state *one_by_one = layer_state_new(HEADS, BUCKETS);
        assert_int_equal(
            layer_state_merge_all(at_once, (const struct layer_state *const *)part, PARTS), 0);
        for (int p = 0; p < PARTS; p++) {
            assert_int_equal(layer_state_merge(one_by_one, part[p]), 0);
        }
        assert_same_states(at_once, one_by_one);
        layer_state_free(&at_once);
        layer_state_free(&one_by_one);
        free_parts(part);
    }
}

/* (a + b) + c = a + (b + c), in the order of time. */
TEST(merging_is_associative)
{
    struct layer_state *part[PARTS], *left = layer_state_new(HEADS, BUCKETS),
                                     *right = layer_state_new(HEADS, BUCKETS);
    for (int p = 0; p < PARTS; p++) {
        part[p] = layer_state_new(HEADS, BUCKETS);
    }
    for (int i = 0; i < STREAM; i++) {
        assert_int_equal(add_from_stream(part[i * PARTS / STREAM], i), 0);
    }
    for (int p = 0; p < PARTS; p++) {
        assert_int_equal(layer_state_merge(left, part[p]), 0);
    }
    for (int p = PARTS - 2; p >= 0; p--) {
        assert_int_equal(layer_state_merge(part[p], part[p + 1]), 0);
    }
    assert_int_equal(layer_state_merge(right, part[0]), 0);
    assert_same_states(left, right);
    struct layer_state *whole = whole_state();
    assert_same_states(left, whole);
    layer_state_free(&whole);
    layer_state_free(&left);
    layer_state_free(&right);
    free_parts(part);
}

/* Slices of the heads, as tensor-parallel ranks send them. */
TEST(a_slice_adds_to_its_own_heads)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS + 2, BUCKETS);
    struct message message = stream[0]->message;
    message.header.head_offset = 2;
    message.header.heads_total = HEADS + 2;
    assert_int_equal(layer_state_add(state, &message, measure_result(stream[0]->measure)), 0);
    for (uint32_t h = 0; h < HEADS + 2; h++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, METRIC_ENTROPY, h);
        assert_int_equal(dist.moments.n > 0, h >= 2);
        assert_int_equal(position_exists(&state->head[h].newest), h >= 2);
    }
}

TEST(histograms_use_as_many_buckets_as_allowed)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    unsigned coarse = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, m, HEADS - 1);
        assert_true(dist.hist.used <= BUCKETS ||
                    (dist.hist.halvings == HIST_HALVINGS_MAX && dist.hist.used <= HIST_SPAN + 1));
        coarse += dist.hist.halvings > 0;
    }
    assert_true(coarse > 5);
}

TEST(summaries_state_the_error_of_the_coarsest_histogram)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    OWNED(summary_view_clear) struct summary_view view;
    const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    const uint8_t run[RUN_BYTES] = {0};
    double worst = 0;
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; h < HEADS; h++) {
            OWNED(dist_clear) struct dist dist = dist_of(state, m, h);
            worst = fmax(worst, dist_quantile_error(&dist));
        }
    }
    assert_int_equal(summary_view_init(&view, state, (struct layer_id){0}, "j", run, &window), 0);
    assert_true(view.result.quantile_error >= worst);
    for (uint32_t h = 0; h < HEADS; h++) {
        OWNED(dist_clear) struct dist dist = dist_of(state, METRIC_ENTROPY, h);
        const struct result_stat *stat = &view.result.stat[METRIC_ENTROPY][h];
        assert_relative(stat->p10, dist_quantile(&dist, 0.1), 0);
        assert_relative(stat->p50, dist_quantile(&dist, 0.5), 0);
        assert_relative(stat->p99, dist_quantile(&dist, 0.99), 0);
        assert_relative(stat->std, moments_std(&dist.moments), 0);
        assert_int_equal(stat->count, dist.moments.n);
    }
}

TEST(an_empty_state_has_no_numbers)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    OWNED(summary_view_clear) struct summary_view view;
    const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    const uint8_t run[RUN_BYTES] = {0};
    assert_int_equal(summary_view_init(&view, state, (struct layer_id){0}, "j", run, &window), 0);
    assert_true(isnan(view.result.quantile_error));
    assert_null(view.result.stat[METRIC_ENTROPY]);
    struct dist dist = dist_of(state, METRIC_ENTROPY, 0);
    assert_int_equal(dist.moments.n, 0);
}

/* Storing */

static struct layer_state *test_layer_state_unpack(const struct mpk_writer *packed)
{
    struct layer_state *state = NULL;
    assert_int_equal(layer_state_unpack(packed->buffer.data, packed->buffer.size, &state), 0);
    return state;
}

static void check_round_trip(struct layer_state *state)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed, again, summary, summary_again;
    test_layer_state_pack(state, &packed);
    OWNED(layer_state_free) struct layer_state *back = test_layer_state_unpack(&packed);
    test_layer_state_pack(back, &again);
    assert_same_bytes(&packed, &again);
    summarise(state, &summary);
    summarise(back, &summary_again);
    assert_same_bytes(&summary, &summary_again);
    layer_state_free(&state);
}

/* Heads 2 to 4 of 6, of which one is sound, one has half of its rows, one has none. */
static struct layer_state *spoiled_state(uint64_t arrival)
{
    const struct measured_options options = {
        .batch = 2, .heads = 3, .size = 8, .sharpness = 1, .invalid = 4, .seed = arrival};
    struct measured_message *spoiled = measured_message_new(&options, arrival);
    struct layer_state *state = layer_state_new(6, BUCKETS);
    assert_true(spoiled && state);
    spoiled->message.header.head_offset = 2;
    test_layer_state_add(state, spoiled);
    return state;
}

static void assert_invalid_shares(const struct layer_state *state, const double *shares)
{
    static const uint8_t run[RUN_BYTES];
    const struct result_window window = {WINDOW_STEP, 1, 1, 1, 1, false};
    OWNED(summary_view_clear) struct summary_view view;
    assert_int_equal(summary_view_init(&view, state, (struct layer_id){0}, "job", run, &window), 0);
    for (uint32_t h = 0; h < state->heads; h++) {
        double share = view.result.invalid_share[h];
        assert_true(share == shares[h] || (isnan(share) && isnan(shares[h])));
    }
}

TEST(each_head_has_its_share_of_the_invalid_rows)
{
    const double of_one[] = {NAN, NAN, 0, 0.5, 1, NAN};
    OWNED(layer_state_free) struct layer_state *state = spoiled_state(1), *later = spoiled_state(2);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    assert_int_equal(state->invalid_rows, 2 * (4 + 8));
    assert_invalid_shares(state, of_one);
    test_layer_state_pack(later, &packed);
    layer_state_free(&later);
    later = test_layer_state_unpack(&packed);
    assert_int_equal(layer_state_merge(state, later), 0);
    assert_int_equal(state->head[4].invalid_rows, 2 * 2 * 8);
    assert_invalid_shares(state, of_one); /* of twice as many */
}

TEST(unpacked_is_what_was_packed)
{
    check_round_trip(full_state());
    check_round_trip(whole_state());
    check_round_trip(layer_state_new(HEADS, BUCKETS));
}

TEST(unpacked_goes_on_as_if_nothing_had_been)
{
    struct layer_state *whole = whole_state(), *state = layer_state_new(HEADS, BUCKETS);
    for (int i = 0; i < STREAM; i++) {
        struct mpk_writer packed;
        test_layer_state_pack(state, &packed);
        layer_state_free(&state);
        state = test_layer_state_unpack(&packed);
        mpk_writer_clear(&packed);
        assert_int_equal(add_from_stream(state, i), 0);
    }
    OWNED(mpk_writer_clear) struct mpk_writer a, b;
    test_layer_state_pack(whole, &a);
    test_layer_state_pack(state, &b);
    assert_same_bytes(&a, &b);
    layer_state_free(&whole);
    layer_state_free(&state);
}

TEST(every_prefix_is_refused)
{
    struct layer_state *state = full_state(), *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    for (size_t size = 0; size < packed.buffer.size; size++) {
        /* A block of its own size, so that a sanitizer sees a read past the end. */
        char *prefix = malloc(size > 0 ? size : 1);
        memcpy(prefix, packed.buffer.data, size);
        assert_int_equal(layer_state_unpack(prefix, size, &back), ERR_STORE_FORMAT);
        free(prefix);
    }
    assert_null(back);
    layer_state_free(&state);
}

/* Uses a state that was accepted. */
static void layer_state_use(struct layer_state *state)
{
    struct mpk_writer writer;
    OWNED(layer_state_free) struct layer_state *other = layer_state_new(state->heads, BUCKETS);
    assert_non_null(other);
    test_layer_state_pack(state, &writer);
    mpk_writer_clear(&writer);
    summarise(state, &writer);
    mpk_writer_clear(&writer);
    assert_int_equal(layer_state_merge(other, state), 0);
    if (state->heads == HEADS) {
        assert_int_equal(add_from_stream(state, 0), 0);
    }
    layer_state_free(&state);
}

TEST(one_metric_of_a_packed_state_is_that_of_the_whole)
{
    OWNED(layer_state_free) struct layer_state *state = full_state();
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        OWNED(layer_state_free) struct layer_state *back = NULL;
        struct result_stat stat, expected;
        assert_int_equal(
            layer_state_unpack_metric(packed.buffer.data, packed.buffer.size, metric, &back), 0);
        for (uint32_t head = 0; head < state->heads; head++) {
            assert_int_equal(layer_state_stat(back, metric, head, &stat), 0);
            assert_int_equal(layer_state_stat(state, metric, head, &expected), 0);
            assert_memory_equal(&stat, &expected, sizeof stat);
        }
    }
}

TEST(statistics_of_moments_are_those_without_quantiles)
{
    OWNED(layer_state_free) struct layer_state *state = full_state(), *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    assert_int_equal(
        layer_state_unpack_metric(packed.buffer.data, packed.buffer.size, METRIC_COUNT, &back), 0);
    for (int metric = 0; metric < METRIC_MATRIX_FIRST; metric++) {
        for (uint32_t head = 0; head < state->heads; head++) {
            struct result_stat stat = layer_state_stat_of_moments(back, metric, head), expected;
            assert_int_equal(layer_state_stat(state, metric, head, &expected), 0);
            assert_true(isnan(stat.p10) && isnan(stat.p50) && isnan(stat.p90) && isnan(stat.p99));
            stat.p10 = expected.p10;
            stat.p50 = expected.p50;
            stat.p90 = expected.p90;
            stat.p99 = expected.p99;
            assert_memory_equal(&stat, &expected, sizeof stat);
        }
    }
}

TEST(changed_bytes_are_refused_or_harmless)
{
    uint64_t seed = 5;
    unsigned accepted = 0, refused = 0, read_metric = 0;
    OWNED(layer_state_free) struct layer_state *state = full_state();
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    char *bytes = malloc(packed.buffer.size);
    for (int round = 0; round < 4000; round++) {
        OWNED(layer_state_free) struct layer_state *back = NULL;
        memcpy(bytes, packed.buffer.data, packed.buffer.size);
        for (int flips = 1 + (int)(3 * random_unit(&seed)); flips > 0; flips--) {
            bytes[(size_t)((double)packed.buffer.size * random_unit(&seed))] ^=
                (char)(1 << (int)(8 * random_unit(&seed)));
        }
        int code = layer_state_unpack(bytes, packed.buffer.size, &back);
        assert_true(code == 0 || code == ERR_STORE_FORMAT);
        accepted += code == 0;
        refused += code != 0;
        if (code == 0) {
            layer_state_use(back);
        }
        back = NULL;
        int metric = round % METRIC_COUNT;
        if (layer_state_unpack_metric(bytes, packed.buffer.size, metric, &back) == 0) {
            struct result_stat stat;
            read_metric++;
            assert_int_equal(layer_state_stat(back, metric, 0, &stat), 0);
        }
    }
    assert_true(accepted > 100 && refused > 100);
    assert_true(read_metric > accepted); /* others' histograms may be damaged */
    free(bytes);
}

TEST(what_is_no_state_is_refused)
{
    struct layer_state *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 3);
    mpk_pair_u64(&writer, "v", 1);
    mpk_pair_u64(&writer, "buckets", 48);
    mpk_pair_u64(&writer, "heads", 1000000);
    assert_int_equal(layer_state_unpack(writer.buffer.data, writer.buffer.size, &back),
                     ERR_STORE_FORMAT);
    assert_int_equal(layer_state_unpack("\xc0", 1, &back), ERR_STORE_FORMAT);
    assert_int_equal(layer_state_unpack("\x80", 1, &back), ERR_STORE_FORMAT);
}

/* Makes a state of another version or other metrics: replaces a text of the same length. */
static void layer_state_replace(struct mpk_writer *packed, const char *from, const char *to)
{
    char *at = memmem(packed->buffer.data, packed->buffer.size, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(from));
}

TEST(metrics_are_found_by_name)
{
    OWNED(layer_state_free) struct layer_state *state = whole_state();
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    layer_state_replace(&packed,
                        "\xaa"
                        "confidence",
                        "\xaa"
                        "confidentX");
    layer_state_replace(&packed,
                        "\xa8"
                        "diagonal",
                        "\xa8"
                        "diagXnal");
    layer_state_replace(&packed,
                        "\xa8"
                        "locality",
                        "\xa8"
                        "diagonal");
    struct layer_state *back = test_layer_state_unpack(&packed);
    for (uint32_t h = 0; h < HEADS; h++) {
        struct dist was = dist_of(state, METRIC_LOCALITY, h),
                    is = dist_of(back, METRIC_DIAGONAL, h);
        assert_same_dist(&is, &was);
        dist_clear(&was);
        dist_clear(&is);
        assert_int_equal(layer_state_moments(back, METRIC_CONFIDENCE, h).n, 0);
        assert_int_equal(layer_state_moments(back, METRIC_LOCALITY, h).n, 0);
        struct dist other = dist_of(state, METRIC_TAIL_MASS, h),
                    same = dist_of(back, METRIC_TAIL_MASS, h);
        assert_same_dist(&same, &other);
        dist_clear(&other);
        dist_clear(&same);
    }
    assert_false(back->on[METRIC_CONFIDENCE]);
    assert_true(back->on[METRIC_DIAGONAL]);
    layer_state_free(&back);
    layer_state_replace(&packed, "\xa1v\x02", "\xa1v\x03");
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &back),
                     ERR_STORE_FORMAT);
}

/* Two metrics whose histograms nobody asks for, of more bytes than any histogram has. */
static void put_long_histograms(struct stat_set *set)
{
    enum { LONG = 65000 };
    static uint8_t bytes[sizeof(struct stat_mask) + 2 * (1 + 1 + 4 + 8 + 8 + 2 + LONG)];
    static const float one = 1, range[2] = {0, 2};
    static const double squares = 2;
    struct stat_mask mask = {{0}};
    stat_mask_set(&mask, METRIC_DIAGONAL);
    stat_mask_set(&mask, METRIC_LOCALITY);
    memcpy(bytes, &mask, sizeof mask);
    for (uint8_t *at = bytes + sizeof mask; at < bytes + sizeof bytes;) {
        *at++ =
            2 | 4 | 128; /* mean, minimum and maximum are f32; the histogram's size has 2 bytes */
        *at++ = 2;
        memcpy(at, &one, sizeof one);
        memcpy(at + 4, &squares, sizeof squares);
        memcpy(at + 12, range, sizeof range);
        at[20] = LONG & 255;
        at[21] = LONG >> 8;
        at += 22 + LONG;
    }
    assert_int_equal(stat_set_assign(set, bytes, sizeof bytes), 0);
}

TEST(long_histograms_are_refused_even_if_nobody_reads_them)
{
    struct layer_state *state = layer_state_new(1, BUCKETS), *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    assert_non_null(state);
    state->on[METRIC_DIAGONAL] = state->on[METRIC_LOCALITY] = true;
    put_long_histograms(&state->head[0].stats);
    test_layer_state_pack(state, &packed);
    /* Each is at the other's place, so they are moved. */
    layer_state_replace(&packed, "diagonal", "diagXnal");
    layer_state_replace(&packed, "locality", "diagonal");
    layer_state_replace(&packed, "diagXnal", "locality");
    assert_int_equal(
        layer_state_unpack_metric(packed.buffer.data, packed.buffer.size, METRIC_ENTROPY, &back),
        ERR_STORE_FORMAT);
    assert_null(back);
    layer_state_free(&state);
}

/* Sums of them would not be numbers; the newest of them is none. */
TEST(values_beyond_1e300_do_not_exist)
{
    OWNED(layer_state_free) struct layer_state *state = full_state();
    const struct measured *sound = measure_result(stream[0]->measure);
    struct measured measured = *sound;
    struct head_block blocks[HEADS];
    OWNED(dist_clear) struct dist large = {0};
    double values[HEADS] = {1e305, -1e305, INFINITY};
    uint64_t before = layer_state_moments(state, METRIC_ENTROPY, 0).n;
    uint64_t spectra = layer_state_moments(state, METRIC_SPECTRAL_NORM, 0).n;
    assert_int_equal(dist_add(&large, 1e305), 0);
    memcpy(blocks, sound->head, sizeof blocks);
    blocks[0].row[METRIC_ENTROPY] = large;
    measured.head = blocks;
    measured.value[METRIC_ENTROPY] = measured.value[METRIC_SPECTRAL_NORM] = values;
    measured.row_sum_error = 1e305;
    measured.sink_rate = 1e305;
    stream[0]->message.header.step += STREAM; /* the newest */
    assert_int_equal(layer_state_add(state, &stream[0]->message, &measured), 0);
    stream[0]->message.header.step -= STREAM;
    assert_int_equal(layer_state_moments(state, METRIC_ENTROPY, 0).n, before);
    for (uint32_t h = 0; h < HEADS; h++) {
        assert_int_equal(layer_state_moments(state, METRIC_SPECTRAL_NORM, h).n, spectra);
        assert_true(isnan(stat_find(&state->head[h].stats, METRIC_ENTROPY).last));
    }
    assert_true(state->row_sum_error < 1);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    OWNED(layer_state_free) struct layer_state *back = test_layer_state_unpack(&packed);
    assert_same_states(back, state);
}

/* A set with one number that has been the same, 1, and a newest value. */
static void put_last(struct stat_set *set, double last)
{
    uint8_t bytes[sizeof(struct stat_mask) + 1 + 1 + 4 + 8];
    static const float one = 1;
    struct stat_mask mask = {{0}};
    stat_mask_set(&mask, METRIC_ENTROPY);
    memcpy(bytes, &mask, sizeof mask);
    bytes[sizeof mask] = 1 | 2 | 3 << 3; /* all are the same; the mean is f32; the newest f64 */
    bytes[sizeof mask + 1] = 1;
    memcpy(bytes + sizeof mask + 2, &one, sizeof one);
    memcpy(bytes + sizeof mask + 6, &last, sizeof last);
    assert_int_equal(stat_set_assign(set, bytes, sizeof bytes), 0);
}

static int code_of(const struct layer_state *state)
{
    OWNED(layer_state_free) struct layer_state *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    int code = layer_state_unpack(packed.buffer.data, packed.buffer.size, &back);
    return code;
}

TEST(newest_values_and_errors_are_numbers)
{
    static const double numbers[] = {0.1, -1e300, 1e300}, none[] = {INFINITY, -INFINITY, 1.1e300};
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(1, BUCKETS);
    assert_non_null(state);
    state->on[METRIC_ENTROPY] = true;
    state->rows = 1;
    for (int i = 0; i < 3; i++) {
        put_last(&state->head[0].stats, numbers[i]);
        assert_int_equal(code_of(state), 0);
        put_last(&state->head[0].stats, none[i]);
        assert_int_equal(code_of(state), ERR_STORE_FORMAT);
    }
    put_last(&state->head[0].stats, 0.1);
    state->row_sum_error = 1e300;
    assert_int_equal(code_of(state), 0);
    state->row_sum_error = 1.1e300;
    assert_int_equal(code_of(state), ERR_STORE_FORMAT);
}

static int code_of_sent(const struct mpk_writer *sent, uint32_t heads)
{
    OWNED(layer_state_free) struct layer_state *back = NULL;
    int code = layer_state_unpack_sent(sent->buffer.data, sent->buffer.size, heads, &back);
    return code;
}

/* The same state, and `junk` pairs that this version does not know. */
static void put_junk(const struct layer_state *state, uint32_t junk, struct mpk_writer *writer)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    const uint8_t *bytes = (const uint8_t *)packed.buffer.data;
    assert_int_equal(bytes[0], 0xde); /* a map, whose number of pairs is in two bytes */
    mpk_writer_init(writer);
    mpk_put_map(writer, (uint32_t)(bytes[1] << 8 | bytes[2]) + junk);
    mpk_put_raw(writer, bytes + 3, packed.buffer.size - 3);
    for (uint32_t i = 0; i < junk; i++) {
        mpk_pair_u64(writer, "", 0);
    }
}

TEST(what_is_sent_has_no_more_values_than_a_state)
{
    struct layer_state *state = full_state(), *back = NULL;
    OWNED(mpk_writer_clear) struct mpk_writer sent;
    put_junk(state, 100000, &sent);
    assert_int_equal(layer_state_unpack(sent.buffer.data, sent.buffer.size, &back), 0);
    layer_state_free(&back);
    assert_int_equal(code_of_sent(&sent, HEADS), ERR_STORE_FORMAT);
    layer_state_free(&state);
}

/* Everything that each head can have, and all names; no head has what goes across heads. */
TEST(the_largest_state_may_be_sent)
{
    for (uint32_t heads = 1; heads <= 65536; heads *= 256) {
        OWNED(layer_state_free) struct layer_state *state = layer_state_new(heads, BUCKETS);
        OWNED(mpk_writer_clear) struct mpk_writer sent;
        assert_non_null(state);
        state->newest = (struct position){2, 2, 2, 1};
        state->invalid_rows = heads;
        memset(state->on, true, sizeof state->on);
        memset(state->has_vector, true, sizeof state->has_vector);
        memset(state->has_aggregate, true, sizeof state->has_aggregate);
        for (int i = 0; i < ERR_COUNT; i++) {
            state->tally.dropped[i] = 1;
        }
        for (uint32_t h = 0; h < heads; h++) {
            state->head[h].newest = (struct position){1, h, 1, 1};
            state->head[h].invalid_rows = 1;
            state->head[h].pattern = 0;
        }
        test_layer_state_pack(state, &sent);
        assert_int_equal(code_of_sent(&sent, heads), 0);
    }
}

/* Memory */

/* With what the heap keeps beside each block. */
static size_t layer_state_block(const void *memory)
{
    return memory ? malloc_usable_size((void *)memory) + 8 : 0;
}

static size_t blocks_of_detail(const struct detail *detail)
{
    if (!detail) {
        return 0;
    }
    return layer_state_block(detail) + layer_state_block(detail->pairs.pairs) +
           layer_state_block(detail->pairs.head_pairs) +
           layer_state_block(detail->pairs.head_count) +
           layer_state_block(detail->similarity.cosine) + layer_state_block(detail->similarity.js) +
           layer_state_block(detail->similarity.redundant);
}

static size_t blocks_of(const struct layer_state *state)
{
    size_t bytes = layer_state_block(state) + layer_state_block(state->head) +
                   layer_state_block(state->across.bytes) + layer_state_block(state->rank_bits) +
                   layer_state_block(state->rank_entropy.means) + blocks_of_detail(state->detail);
    for (uint32_t i = 0; i < state->rank_entropy.count; i++) {
        bytes += layer_state_block(state->rank_entropy.means[i].rows);
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        bytes += layer_state_block(state->head[h].stats.bytes);
    }
    return bytes;
}

TEST(bytes_are_what_the_heap_gave_out)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    for (int i = 0; i < STREAM; i++) {
        assert_int_equal(add_from_stream(state, i), 0);
        double said = (double)layer_state_bytes(state), used = (double)blocks_of(state);
        /* A sanitizer's heap gives exactly what was asked for. */
        if (fabs(said - used) > 0.02 * used + 16 * 12) {
            fail_msg("message %d: %g bytes, said to be %g", i, used, said);
        }
    }
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    test_layer_state_pack(state, &packed);
    OWNED(layer_state_free) struct layer_state *back = test_layer_state_unpack(&packed);
    assert_true(fabs((double)layer_state_bytes(back) - (double)blocks_of(back)) < 16 * 12);
}

/* Each allocation fails in turn; `act` gives a code, and leaves what can be freed. */
static void fail_each(int (*act)(void))
{
    for (unsigned nth = 1;; nth++) {
        heap_fail_at(nth);
        int code = act();
        bool failed = heap_has_failed();
        heap_fail_at(0);
        if (!failed) {
            assert_int_equal(code, 0);
            return;
        }
        assert_int_equal(code, ERR_MEMORY);
    }
}

static int build(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    int code = state ? 0 : ERR_MEMORY;
    for (int i = 0; i < 3 && !code; i++) {
        code = add_from_stream(state, i);
    }
    return code;
}

static struct layer_state *fixture[2];

static int merge_fixture(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    int code = state ? layer_state_merge_all(state, (const struct layer_state *const *)fixture, 2)
                     : ERR_MEMORY;
    return code;
}

static int merge_one_fixture(void)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(HEADS, BUCKETS);
    int code = state ? layer_state_merge(state, fixture[0]) : ERR_MEMORY;
    return code;
}

static int view_fixture(void)
{
    OWNED(summary_view_clear) struct summary_view view;
    const struct result_window window = {.unit = WINDOW_STEP, .length = 1, .every = 1};
    const uint8_t run[RUN_BYTES] = {0};
    int code = summary_view_init(&view, fixture[0], (struct layer_id){0}, "j", run, &window);
    return code;
}

static int store_fixture(void)
{
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    OWNED(layer_state_free) struct layer_state *back = NULL;
    mpk_writer_init(&packed);
    int code = layer_state_pack(fixture[0], &packed);
    if (!code) {
        code = layer_state_unpack(packed.buffer.data, packed.buffer.size, &back);
    }
    return code;
}

static int read_fixture(void)
{
    OWNED(dist_clear) struct dist dist = {0};
    int code = layer_state_dist(fixture[0], METRIC_ENTROPY, 0, &dist);
    return code;
}

TEST(out_of_memory_is_an_error_everywhere)
{
    fixture[0] = full_state();
    fixture[1] = whole_state();
    fail_each(build);
    fail_each(merge_fixture);
    fail_each(merge_one_fixture);
    fail_each(view_fixture);
    fail_each(store_fixture);
    fail_each(read_fixture);
    layer_state_free(&fixture[0]);
    layer_state_free(&fixture[1]);
}

int main(void)
{
    return unit_run(make_stream, free_stream);
}
