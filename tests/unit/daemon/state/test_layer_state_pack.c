/* SPDX-License-Identifier: MIT */
/* States in bytes: all of them come back, and no bytes do harm. */
#include "tests/unit/daemon/state/layer_state_fixture.h"

static void check_round_trip(struct layer_state *given)
{
    OWNED(layer_state_free) struct layer_state *state = given;
    OWNED(mpk_writer_clear) struct mpk_writer packed, again, summary, summary_again;
    test_layer_state_pack(state, &packed);
    OWNED(layer_state_free) struct layer_state *back = test_layer_state_unpack(&packed);
    test_layer_state_pack(back, &again);
    assert_same_bytes(&packed, &again);
    summarise(state, &summary);
    summarise(back, &summary_again);
    assert_same_bytes(&summary, &summary_again);
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
    OWNED(summary_view_clear) struct summary_view view;
    assert_int_equal(view_state(state, &view), 0);
    for (uint32_t h = 0; h < state->heads; h++) {
        assert_relative(view.result.invalid_share[h], shares[h], 0);
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
    OWNED(layer_state_free) struct layer_state *at_once = layer_state_new(6, BUCKETS);
    const struct layer_state *both[] = {state, later};
    assert_int_equal(layer_state_merge_all(at_once, both, 2), 0);
    assert_int_equal(layer_state_merge(state, later), 0);
    for (int i = 0; i < 2; i++) { /* of twice as many */
        const struct layer_state *merged = i == 0 ? state : at_once;
        assert_int_equal(merged->invalid_rows, 2 * 2 * (4 + 8));
        assert_int_equal(merged->head[4].invalid_rows, 2 * 2 * 8);
        assert_invalid_shares(merged, of_one);
    }
}

TEST(unpacked_is_what_was_packed)
{
    check_round_trip(full_state());
    check_round_trip(whole_state());
    check_round_trip(empty_state());
}

TEST(unpacked_goes_on_as_if_nothing_had_been)
{
    OWNED(layer_state_free) struct layer_state *whole = whole_state(), *state = empty_state();
    for (int i = 0; i < STREAM; i++) {
        struct mpk_writer packed;
        test_layer_state_pack(state, &packed);
        layer_state_free(&state);
        state = test_layer_state_unpack(&packed);
        mpk_writer_clear(&packed);
        take_from_stream(state, i);
    }
    OWNED(mpk_writer_clear) struct mpk_writer a, b;
    test_layer_state_pack(whole, &a);
    test_layer_state_pack(state, &b);
    assert_same_bytes(&a, &b);
}

TEST(every_prefix_is_refused)
{
    OWNED(layer_state_free) struct layer_state *state = full_state(), *back = NULL;
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
        take_from_stream(state, 0);
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
    static const char *const renamed[][2] = {
        /* with the byte before that says how long it is */
        {"\252confidence", "\252confidentX"},
        {"\250diagonal", "\250diagXnal"},
        {"\250locality", "\250diagonal"},
    };
    for (size_t i = 0; i < sizeof renamed / sizeof renamed[0]; i++) {
        layer_state_replace(&packed, renamed[i][0], renamed[i][1]);
    }
    OWNED(layer_state_free)
    struct layer_state *back = test_layer_state_unpack(&packed), *none = NULL;
    for (uint32_t h = 0; h < HEADS; h++) {
        OWNED(dist_clear)
        struct dist was = dist_of(state, METRIC_LOCALITY, h),
                    is = dist_of(back, METRIC_DIAGONAL, h),
                    other = dist_of(state, METRIC_TAIL_MASS, h),
                    same = dist_of(back, METRIC_TAIL_MASS, h);
        assert_same_dist(&is, &was);
        assert_same_dist(&same, &other);
        assert_int_equal(layer_state_moments(back, METRIC_CONFIDENCE, h).n, 0);
        assert_int_equal(layer_state_moments(back, METRIC_LOCALITY, h).n, 0);
    }
    assert_false(back->on[METRIC_CONFIDENCE]);
    assert_true(back->on[METRIC_DIAGONAL]);
    layer_state_replace(&packed, "\xa1v\x02", "\xa1v\x03");
    assert_int_equal(layer_state_unpack(packed.buffer.data, packed.buffer.size, &none),
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
    return layer_state_unpack(packed.buffer.data, packed.buffer.size, &back);
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

/* Everything that each head can have, and all names; no head has what goes across heads. */
TEST(the_largest_state_is_read)
{
    for (uint32_t heads = 1; heads <= 65536; heads *= 256) {
        OWNED(layer_state_free) struct layer_state *state = layer_state_new(heads, BUCKETS);
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
        assert_int_equal(code_of(state), 0);
    }
}

int main(void)
{
    return unit_run(make_stream, free_stream);
}
