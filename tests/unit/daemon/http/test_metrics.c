/* SPDX-License-Identifier: MIT */
/* Results on /metrics: which layers are there, and their numbers. */
#include "tests/unit/fleet_example.h"
#include "tests/unit/unit.h"

#include "daemon/http/metrics/metrics.h"
#include "daemon/http/metrics/text.h"
#include "proto/result.h"

#define HEADS 4

static struct config config;
static struct stats stats;
static struct metrics *metrics;
static char *page;

static int metrics_setup(void **state)
{
    (void)state;
    config_defaults(&config);
    config.window_unit = CONFIG_UNIT_EPOCH;
    metrics = metrics_new(&config, &stats);
    return metrics ? 0 : -1;
}

static int metrics_teardown(void **state)
{
    (void)state;
    metrics_free(&metrics);
    free(page);
    page = NULL;
    return 0;
}

#define METRICS_TEST(name) TEST_WITH(name, metrics_setup, metrics_teardown)

/* Runs are told by their first byte. */
static struct result_common metrics_common_of(const char *job, uint8_t run)
{
    static uint8_t id[RUN_BYTES];
    id[0] = run;
    return (struct result_common){.job = job, .run = id, .time_ns = 1700000000500000000u};
}

static void test_metrics_put(const char *kind, const char *job, uint32_t layer,
                             const struct mpk_writer *writer, uint64_t now_ns)
{
    size_t size = writer->buffer.size;
    struct published *published = malloc(sizeof *published + size);
    assert_non_null(published);
    snprintf(published->topic, sizeof published->topic, "%s/%s/decoder/%u/self/", kind, job, layer);
    published->size = size;
    memcpy(published->map, writer->buffer.data, size);
    metrics_put(metrics, published, now_ns);
    free(published);
}

static const char *put_module; /* of the layers that are put; NULL = not known */

/* `heads` of the message's `total`, from `offset` on: the others are nil. */
static void metrics_put_live(const char *job, uint8_t run, uint32_t layer,
                             const double entropy[HEADS], uint32_t heads, uint64_t now_ns)
{
    struct live_result live = {.common = metrics_common_of(job, run),
                               .layer = {.id = {STACK_DECODER, layer, SITE_SELF},
                                         .shape = {1, heads, 8, 8},
                                         .rows = 32,
                                         .invalid_rows = 2,
                                         .row_sum_error = 0.25,
                                         .tier = MESSAGE_ATTENTION,
                                         .module = put_module},
                               .numbers = {.heads = HEADS, .sink_rate = 0.5}};
    double first[HEADS] = {0.1, 0.2, 0.3, 0.8};
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    live.numbers.value[METRIC_ENTROPY_NORMALIZED] = entropy;
    live.numbers.value[METRIC_FIRST_TOKEN] = first;
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    test_metrics_put("live", job, layer, &writer, now_ns);
}

static void metrics_put_summary(const char *job, uint8_t run, uint64_t length,
                                const double shift[HEADS])
{
    struct result_drift drift[HEADS];
    struct summary_result summary = {.common = metrics_common_of(job, run),
                                     .layer = {.id = {STACK_DECODER, 0, SITE_SELF}},
                                     .window = {.unit = WINDOW_EPOCH, .length = length, .every = 1},
                                     .track = length > 1,
                                     .heads = HEADS};
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    for (int h = 0; h < HEADS; h++) {
        drift[h] =
            (struct result_drift){.shift = shift[h], .js = 0.125 * h, .delta = 9, .change = NAN};
    }
    summary.drift[METRIC_ENTROPY_NORMALIZED] = drift;
    mpk_writer_init(&writer);
    summary_encode(&summary, &writer);
    test_metrics_put("summary", job, 0, &writer, 1);
}

struct told_job {
    const char *job, *state;
    uint8_t run;
};

static void metrics_put_job(struct mpk_writer *writer, const struct told_job *job)
{
    char run[2 * RUN_BYTES + 1];
    run_hex(metrics_common_of(job->job, job->run).run, run);
    mpk_put_map(writer, 3);
    mpk_put_str(writer, "job");
    mpk_put_str(writer, job->job);
    mpk_put_str(writer, "run");
    mpk_put_str(writer, run);
    mpk_put_str(writer, "state");
    mpk_put_str(writer, job->state);
}

/* The answer of the method `fleet`; NULL: of an older attnd, without. */
static void (*put_fleet)(struct mpk_writer *writer);

static void scrape(const struct told_job *jobs, uint32_t count, uint64_t asked_ns, bool openmetrics)
{
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, put_fleet ? 3 : 2);
    mpk_put_str(&writer, "stats");
    mpk_put_map(&writer, 0);
    if (put_fleet) {
        mpk_put_str(&writer, "fleet");
        put_fleet(&writer);
    }
    mpk_put_str(&writer, "jobs");
    mpk_put_array(&writer, count);
    for (uint32_t i = 0; i < count; i++) {
        metrics_put_job(&writer, &jobs[i]);
    }
    assert_int_equal(mpk_parse(writer.buffer.data, writer.buffer.size, &mpk_result_limits, &doc),
                     0);
    struct metrics_view view = {
        .jobs = "*", .monitor = doc.root, .asked_ns = asked_ns, .openmetrics = openmetrics};
    free(page);
    page = metrics_render(metrics, &view);
    assert_non_null(page);
}

static const struct told_job gpt = {"gpt", "active", 1};

#define LABELS(layer)        "{job=\"gpt\",stack=\"decoder\",layer=\"" layer "\",site=\"self\"} "
#define assert_shows(line)   assert_non_null(strstr(page, "\n" line "\n"))
#define assert_without(text) assert_null(strstr(page, text))

static const double entropy[HEADS] = {0.5, 0.25, 0.75, 0.1};

METRICS_TEST(heads_are_pooled)
{
    metrics_put_live("gpt", 1, 3, entropy, HEADS, 1);
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_attention_entropy_ratio" LABELS("3") "0.4");
    assert_shows("attnd_attention_entropy_min_ratio" LABELS("3") "0.1");
    assert_shows("attnd_attention_entropy_max_ratio" LABELS("3") "0.75");
    assert_shows("attnd_attention_first_token_max_ratio" LABELS("3") "0.8");
    assert_shows("attnd_attention_sink_ratio" LABELS("3") "0.5");
    assert_shows("attnd_attention_row_sum_error" LABELS("3") "0.25");
    assert_shows("attnd_attention_heads" LABELS("3") "4");
    assert_shows("attnd_attention_newest_message_timestamp_seconds" LABELS("3") "1700000000.5");
    assert_without("attnd_attention_effective_rank{"); /* was not measured */
    assert_without("attnd_attention_drift_shift_max{");
    assert_without("attnd_detail");
}

METRICS_TEST(the_module_of_a_layer_is_an_info)
{
    metrics_put_live("gpt", 1, 3, entropy, HEADS, 1);
    put_module = "a\"b\\.attn#1";
    metrics_put_live("gpt", 1, 4, entropy, HEADS, 1);
    put_module = NULL;
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_layer_info{job=\"gpt\",stack=\"decoder\",layer=\"4\",site=\"self\","
                 "module=\"a\\\"b\\\\.attn#1\"} 1");
    assert_without("layer=\"3\",site=\"self\",module=");
    assert_shows("attnd_attention_entropy_ratio" LABELS("4") "0.4"); /* as it was */
}

METRICS_TEST(rows_add_up_and_numbers_are_the_newest)
{
    const double later[HEADS] = {0.9, NAN, 0.9, 0.9};
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    metrics_put_live("gpt", 1, 0, later, HEADS, 2);
    scrape(&gpt, 1, 3, false);
    assert_shows("attnd_attention_rows_total" LABELS("0") "64");
    assert_shows("attnd_attention_invalid_rows_total" LABELS("0") "4");
    assert_shows("attnd_attention_messages_total" LABELS("0") "2");
    assert_shows("attnd_attention_entropy_ratio" LABELS("0") "0.9");
}

METRICS_TEST(slices_of_the_heads_make_a_whole)
{
    const double low[HEADS] = {0.5, 0.25, NAN, NAN}, high[HEADS] = {NAN, NAN, 0.75, 0.1};
    metrics_put_live("gpt", 1, 0, low, 2, 1);
    metrics_put_live("gpt", 1, 0, high, 2, 2);
    scrape(&gpt, 1, 3, false);
    assert_shows("attnd_attention_entropy_ratio" LABELS("0") "0.4");
    assert_shows("attnd_attention_entropy_min_ratio" LABELS("0") "0.1");
}

METRICS_TEST(drift_is_of_the_primary_window)
{
    const double shift[HEADS] = {1, -5.5, NAN, 2}, other[HEADS] = {99, 99, 99, 99};
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    metrics_put_summary("gpt", 1, 1, shift);
    metrics_put_summary("gpt", 1, 50, other); /* of window.also */
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_attention_drift_shift_max" LABELS("0") "5.5");
    assert_shows("attnd_attention_entropy_drift_shift_max" LABELS("0") "5.5");
    assert_shows("attnd_attention_drift_divergence_max_nats" LABELS("0") "0.375");
}

#define DETAIL(head) "{job=\"gpt\",stack=\"decoder\",layer=\"0\",site=\"self\",head=\"" head "\"} "

METRICS_TEST(heads_that_drift_most_can_be_asked_for)
{
    const double shift[HEADS] = {1, -5.5, NAN, 2};
    config.http_metrics_heads = 2;
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    metrics_put_summary("gpt", 1, 1, shift);
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_detail_entropy_ratio" DETAIL("1") "0.25");
    assert_shows("attnd_detail_entropy_ratio" DETAIL("3") "0.1");
    assert_shows("attnd_detail_drift_shift" DETAIL("1") "5.5");
    assert_without("head=\"0\"");
    assert_without("head=\"2\"");
}

METRICS_TEST(without_drift_the_first_heads_are_meant)
{
    config.http_metrics_heads = 3;
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_detail_entropy_ratio" DETAIL("2") "0.75");
    assert_without("head=\"3\"");
}

METRICS_TEST(only_the_newest_run_is_shown_while_it_is_active)
{
    const struct told_job newer = {"gpt", "active", 2}, ended = {"gpt", "ended", 2};
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    metrics_put_live("gpt", 2, 1, entropy, HEADS, 2);
    scrape(&newer, 1, 3, false);
    assert_without("layer=\"0\"");
    assert_shows("attnd_attention_heads" LABELS("1") "4");
    assert_shows("attnd_layers_exposed 1");
    scrape(&ended, 1, 3, false);
    assert_without("layer=\"1\"");
}

METRICS_TEST(a_job_that_is_forgotten_is_gone)
{
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    scrape(NULL, 0, 2, false);
    assert_without("job=\"gpt\"");
    scrape(&gpt, 1, 3, false); /* as if it came back: nothing was kept */
    assert_without("attnd_attention_heads{");
}

METRICS_TEST(what_came_after_the_question_is_kept)
{
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 10);
    scrape(NULL, 0, 5, false);
    assert_without("job=\"gpt\"");
    scrape(&gpt, 1, 20, false);
    assert_shows("attnd_attention_heads" LABELS("0") "4");
}

METRICS_TEST(layers_are_limited)
{
    config.http_metrics_layers = 2;
    for (uint32_t layer = 0; layer < 5; layer++) {
        metrics_put_live("gpt", 1, layer, entropy, HEADS, 1);
    }
    scrape(&gpt, 1, 2, false);
    assert_shows("attnd_layers_exposed 2");
    assert_without("layer=\"2\"");
}

TEST(a_name_cannot_break_a_label)
{
    char label[64] = "";
    metrics_label(label, sizeof label, "job", "a\"} 1\n\\x\x01");
    assert_string_equal(label, "job=\"a\\\"} 1\\n\\\\x?\"");
    metrics_label(label, sizeof label, "run", "1");
    assert_string_equal(label, "job=\"a\\\"} 1\\n\\\\x?\",run=\"1\"");
    *label = '\0';
    size_t length = metrics_label(label, 12, "job", "a-long-name");
    assert_int_equal(length, strlen(label));
    assert_true(length < 12 && label[length - 1] == '"');
}

METRICS_TEST(broken_maps_are_nothing)
{
    struct live_result live = {.common = metrics_common_of("gpt", 1), .numbers = {.heads = HEADS}};
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    mpk_writer_init(&writer);
    live_encode(&live, &writer);
    while (writer.buffer.size-- > 0) {
        test_metrics_put("live", "gpt", 0, &writer, 1);
    }
    writer.buffer.size = 1;
    scrape(&gpt, 1, 2, false);
    assert_without("layer=\"0\"");
}

static void metrics_assert_number(double number, const char *expected)
{
    char text[METRICS_NUMBER_MAX + 1];
    text[metrics_number(text, number)] = '\0';
    assert_string_equal(text, expected);
}

TEST(numbers_have_nine_digits)
{
    metrics_assert_number(0, "0");
    metrics_assert_number(1, "1");
    metrics_assert_number(-0.5, "-0.5");
    metrics_assert_number(1.0 / 3, "0.333333333");
    metrics_assert_number(200.0 / 3, "66.6666667");
    metrics_assert_number(123456789, "123456789");
    metrics_assert_number(100, "100");
    metrics_assert_number(0.00001, "0.00001");
    metrics_assert_number(0.000012345, "0.000012345");
    metrics_assert_number(9.99999999996, "10");
    metrics_assert_number(999999999.7, "1000000000");
    metrics_assert_number(1e-12, "1e-12");
    metrics_assert_number(1795209328.864, "1795209328.864");
    metrics_assert_number(NAN, "NaN");
    metrics_assert_number(INFINITY, "+Inf");
    metrics_assert_number(-INFINITY, "-Inf");
}

/* Against printf, at all magnitudes. */
TEST(numbers_are_near)
{
    uint64_t seed = 1;
    for (int i = 0; i < 100000; i++) {
        char text[METRICS_NUMBER_MAX + 1];
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        double number = ldexp((double)(seed >> 12), (int)(seed % 70) - 80);
        text[metrics_number(text, number)] = '\0';
        assert_true(fabs(strtod(text, NULL) - number) <= 1e-8 * number);
    }
}

static void scrape_fleet(void (*put)(struct mpk_writer *writer))
{
    put_fleet = put;
    scrape(&gpt, 1, 2, true);
    put_fleet = NULL;
}

METRICS_TEST(there_is_no_fleet_without_a_role)
{
    scrape_fleet(fleet_example_off);
    assert_without("attnd_fleet");
    scrape_fleet(NULL);
    assert_without("attnd_fleet");
}

METRICS_TEST(a_node_shows_its_outbox)
{
    scrape_fleet(fleet_example_node);
    assert_shows("attnd_fleet_info{node=\"00112233aabbccdd\",name=\"rank-a\",role=\"node\"} 1");
    assert_shows("attnd_fleet_connected 0");
    assert_shows("attnd_fleet_outbox_rows 120");
    assert_shows("attnd_fleet_outbox_bytes 25165824");
    assert_shows("attnd_fleet_unsent_rows 3");
    assert_shows("attnd_fleet_oldest_unsent_seconds 12.5");
    assert_shows("attnd_fleet_lost_rows_total 2");
    assert_shows("attnd_fleet_resent_rows_total 5");
    assert_without("attnd_fleet_merged_windows");
}

METRICS_TEST(a_hub_shows_each_node)
{
    scrape_fleet(fleet_example_hub);
    assert_shows("attnd_fleet_connected 1");
    assert_shows("attnd_fleet_parts_bytes 3650722202");
    assert_shows("attnd_fleet_poisoned_messages_total 3");
    assert_shows("attnd_fleet_corrected_windows_total 12");
    assert_shows("attnd_fleet_nodes{state=\"ok\"} 1");
    assert_shows("attnd_fleet_nodes{state=\"silent\"} 1");
    assert_shows("attnd_fleet_nodes{state=\"behind\"} 0");
    assert_shows("attnd_fleet_nodes{state=\"late\"} 0");
    assert_shows(
        "attnd_fleet_odd_ranks{job=\"gpt-small\",run=\"abcdef01230000000000000000000000\"} 18");
    assert_shows("attnd_fleet_node_behind_windows{node=\"0000000000000002\",name=\"rank-b\"} 3");
    assert_shows("attnd_fleet_node_clock_ahead_seconds{node=\"0000000000000002\",name=\"rank-b\"} "
                 "-3600");
    assert_shows("# TYPE attnd_fleet_node_lost_rows counter");
}

METRICS_TEST(openmetrics_ends_with_its_mark)
{
    metrics_put_live("gpt", 1, 0, entropy, HEADS, 1);
    scrape(&gpt, 1, 2, true);
    assert_string_equal(page + strlen(page) - 6, "# EOF\n");
    assert_shows("# TYPE attnd_attention_rows counter");
    assert_shows("attnd_attention_rows_total" LABELS("0") "32");
    assert_shows("# UNIT attnd_attention_entropy_ratio ratio");
    assert_shows("# TYPE attnd_build info");
}
