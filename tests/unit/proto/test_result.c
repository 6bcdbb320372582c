/* SPDX-License-Identifier: MIT */
/* The structs here and tests/golden/make.py say the same; the encoders must agree to the byte. */
#include "support.h"

#include "result.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define NONE ((double)NAN)

static const uint8_t run[RUN_BYTES] = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
                                       0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
static const struct result_common common = {"gpt-small", run, 3, 1200, 1700000000000000000};
static const struct result_layer layer = {
    {STACK_DECODER, 5, SITE_SELF}, {2, 2, 8, 8}, true, 30, 2, 0.125};
static const struct pair pairs[] = {{7, 0, 0.5}, {3, 2, 0.25}};

static struct result_stat stat_of(double base, uint64_t count)
{
    return (struct result_stat){base,       base / 2,    base - 1, base + 1, base,
                                base + 0.5, base + 0.75, NONE,     count};
}

static void expect_golden(struct mpk_writer *writer, const char *name)
{
    struct bytes got = bytes_written(writer), golden;
    char path[512];

    snprintf(path, sizeof(path), "%s/%s.msgpack", GOLDEN_DIR, name);
    golden = bytes_file(path);
    assert_int_equal(got.len, golden.len);
    assert_memory_equal(got.data, golden.data, golden.len);
    bytes_free(&got);
    bytes_free(&golden);
}

static struct live_result live_bare(void)
{
    struct live_result live = {.common = common, .layer = layer, .heads = 2};

    live.layer.row_sum_error = NONE;
    return live;
}

static void test_live_has_the_golden_bytes(void **state)
{
    static const double entropy[] = {0.5, 1.5}, importance[] = {0.5, 0.5}, norm[] = {1.0, 1.25};
    double diagonal[] = {NONE, 0.25}, condition[] = {NONE, 2.0}, singular[2][SINGULAR_VALUES_MAX];
    struct live_result live = {
        .common = common, .layer = layer, .rank = 1, .heads = 2, .has_aggregate = true};
    struct mpk_writer writer;

    (void)state;
    for (unsigned i = 0; i < SINGULAR_VALUES_MAX; i++)
        singular[0][i] = i < 3 ? 1.0 / (1u << i) : NONE, singular[1][i] = NONE;
    live.value[METRIC_ENTROPY] = entropy;
    live.value[METRIC_DIAGONAL] = diagonal;
    live.value[METRIC_IMPORTANCE] = importance;
    live.value[METRIC_SPECTRAL_NORM] = norm;
    live.value[METRIC_CONDITION_NUMBER] = condition;
    live.singular_values = singular[0];
    live.pairs = pairs;
    live.pair_count = 2;
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        live.aggregate[a][MAP_MEAN] = a + 0.5;
        live.aggregate[a][MAP_MAX] = a + 1.0;
        live.aggregate[a][MAP_MIN] = a;
        live.aggregate[a][MAP_STD] = a + 0.25;
    }
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    expect_golden(&writer, "live");
}

static void test_what_was_not_computed_is_left_out(void **state)
{
    struct live_result live = live_bare();
    struct mpk_writer writer;

    (void)state;
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    expect_golden(&writer, "live_bare");
}

static void test_summary_has_the_golden_bytes(void **state)
{
    const struct result_stat entropy[] = {stat_of(2, 30), stat_of(3, 28)},
                             mean[] = {stat_of(4, 300), stat_of(5, 300)},
                             rank[] = {stat_of(8, 3), stat_of(7, 3)};
    static const struct reason_count dropped[] = {{"late", 3}, {"size_mismatch", 70000}};
    struct result_stat singular[2][SINGULAR_VALUES_MAX] = {{stat_of(2, 3), stat_of(1, 3)},
                                                           {stat_of(3, 3)}};
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct summary_result summary = {.common = common,
                                     .layer = layer,
                                     .window = {WINDOW_EPOCH, 2, 3, 2, 1, false},
                                     .ranks = 1,
                                     .messages = 300,
                                     .lost = 4,
                                     .dropped = dropped,
                                     .dropped_count = 2,
                                     .heads = 2,
                                     .singular_values = singular[0],
                                     .pairs = pairs,
                                     .pair_count = 2};
    struct mpk_writer writer;

    (void)state;
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++)
            aggregate[a][s] = stat_of(a + s / 4.0, 300);
    }
    summary.aggregate = (const struct result_stat(*)[MAP_STAT_COUNT])aggregate;
    summary.stat[METRIC_ENTROPY] = entropy;
    summary.stat[METRIC_MEAN] = mean;
    summary.stat[METRIC_RANK] = rank;
    mpk_writer_init(&writer);
    summary_encode(&summary, &writer);
    expect_golden(&writer, "summary");
}

static void test_job_has_the_golden_bytes(void **state)
{
    static const struct layer_info layers[] = {{{STACK_ENCODER, 0, SITE_SELF}, 8},
                                               {{STACK_DECODER, 11, SITE_CROSS}, 16}};
    static const struct reason_count dropped[] = {{"late", 10}};
    struct job_result job = {.common = common,
                             .state = JOB_ACTIVE,
                             .world = 2,
                             .ranks = 1,
                             .layers = layers,
                             .layer_count = 2,
                             .received = 1000,
                             .processed = 990,
                             .lost = 5,
                             .dropped = dropped,
                             .dropped_count = 1};
    struct mpk_writer writer;

    (void)state;
    mpk_writer_init(&writer);
    job_encode(&job, &writer);
    expect_golden(&writer, "job");
}

static void test_snapshot_is_flipped_in_place(void **state)
{
    struct live_result live = live_bare();
    struct mpk_writer writer;
    struct mpk_doc doc;
    struct bytes bytes;
    bool snapshot = false;

    (void)state;
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    bytes = bytes_written(&writer);
    result_set_snapshot(bytes.data, bytes.len, true);
    assert_int_equal(mpk_parse(bytes.data, bytes.len, &mpk_result_limits, &doc), 0);
    assert_int_equal(mpk_get_bool(mpk_find(doc.root, "snapshot"), &snapshot), 0);
    assert_true(snapshot);
    mpk_doc_clear(&doc);
    result_set_snapshot(bytes.data, bytes.len, false);
    assert_int_equal(bytes.data[bytes.len - 1], 0xc2);
    bytes_free(&bytes);
}

static void test_names_of_units_and_states(void **state)
{
    char hex[2 * RUN_BYTES + 1];

    (void)state;
    assert_string_equal(window_unit_name(WINDOW_EPOCH), "epoch");
    assert_string_equal(window_unit_name(WINDOW_STEP), "step");
    assert_string_equal(window_unit_name(WINDOW_SECOND), "second");
    assert_string_equal(job_state_name(JOB_ACTIVE), "active");
    assert_string_equal(job_state_name(JOB_IDLE), "idle");
    assert_string_equal(job_state_name(JOB_ENDED), "ended");
    run_hex(run, hex);
    assert_string_equal(hex, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live_has_the_golden_bytes),
        cmocka_unit_test(test_what_was_not_computed_is_left_out),
        cmocka_unit_test(test_summary_has_the_golden_bytes),
        cmocka_unit_test(test_job_has_the_golden_bytes),
        cmocka_unit_test(test_snapshot_is_flipped_in_place),
        cmocka_unit_test(test_names_of_units_and_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
