/* SPDX-License-Identifier: MIT */
/* Rules against windows: each test loads the rules it is about, with all defaults off unless it
 * says otherwise, and gives windows by their numbers. */
#include "tests/unit/unit.h"

#include "daemon/alerts/alerts.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "config/rules.h"

#include <inttypes.h>
#include <unistd.h>

#define NONE       ((double)NAN)
#define EVENTS_MAX 4096
#define HEADS_MAX  64

static const uint8_t run_id[RUN_BYTES] = {0xa0, 0xa1};

struct told {
    char rule[RULE_NAME_MAX + 1], text[512];
    enum alert_state state;
    enum alert_severity severity;
    bool has_layer;
    struct layer_id layer;
    int32_t head;
    double value, bound;
    uint64_t epoch, since_epoch, since_step;
};

struct alerts_fixture {
    struct config config;
    struct alerts *alerts;
    struct alert_sink sink;
    struct told told[EVENTS_MAX];
    uint32_t count, seen, held_back;
    uint64_t epoch;
};

static void alerts_on_event(void *data, const struct alert_result *event)
{
    struct alerts_fixture *f = data;
    assert_true(f->count < EVENTS_MAX);
    struct told *told = &f->told[f->count++];
    *told = (struct told){.state = event->state,
                          .severity = event->severity,
                          .has_layer = event->has_layer,
                          .layer = event->layer,
                          .head = event->head,
                          .value = event->value,
                          .bound = event->bound,
                          .epoch = event->common.epoch,
                          .since_epoch = event->since_epoch,
                          .since_step = event->since_step};
    assert_string_equal(event->common.job, "gpt");
    assert_memory_equal(event->common.run, run_id, RUN_BYTES);
    snprintf(told->rule, sizeof told->rule, "%s", event->rule);
    snprintf(told->text, sizeof told->text, "%s", event->message);
}

static void alerts_on_overflow(void *data, uint32_t events)
{
    ((struct alerts_fixture *)data)->held_back += events;
}

/* Rules as lines of YAML below `rules:`; the defaults are off. */
static void alerts_start(struct alerts_fixture *f, const char *rules)
{
    struct config plain;
    char text[8192] = "rules:\n";
    memset(f, 0, sizeof *f);
    config_defaults(&plain);
    for (uint32_t i = 0; i < config_rule_count(&plain); i++) {
        sprintf(text + strlen(text), "  %s: {enabled: false}\n", config_rule(&plain, i)->name);
    }
    strcat(text, rules);
    config_defaults(&f->config);
    char path[] = "/tmp/attnd-test-XXXXXX", error[CONFIG_ERROR_MAX] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int result = config_load(&f->config, path, error);
    unlink(path);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    f->alerts = alerts_new(&f->config, "gpt");
    assert_non_null(f->alerts);
    f->sink = (struct alert_sink){alerts_on_event, alerts_on_overflow, f};
}

/* One rule `mine` of what follows. */
static void start_mine(struct alerts_fixture *f, const char *body)
{
    char rules[1024];
    snprintf(rules, sizeof rules, "  mine: {%s}\n", body);
    alerts_start(f, rules);
}

static void alerts_stop(struct alerts_fixture *f)
{
    assert_int_equal(f->seen, f->count); /* nothing else was told */
    alerts_free(&f->alerts);
    config_clear(&f->config);
}

static int alerts_set_up(void **state)
{
    static struct alerts_fixture fixture;
    *state = &fixture;
    return 0;
}

static int alerts_tear_down(void **state)
{
    alerts_stop(*state);
    return 0;
}

/* Begins with alerts_start or start_mine; nothing else may have been told at its end. */
#define ALERTS_TEST(name) TEST_OF(name, struct alerts_fixture *f, alerts_set_up, alerts_tear_down)

static struct result_common alerts_common_of(const struct alerts_fixture *f)
{
    return (struct result_common){"gpt", run_id, f->epoch, f->epoch * 10, 0};
}

/* A window of decoder.3.self with one number per head, as the mean of a metric. */
struct alerts_window {
    struct summary_result summary;
    struct result_stat stat[HEADS_MAX];
    struct result_drift drift[HEADS_MAX];
};

static void alerts_fill(struct alerts_window *w, const struct alerts_fixture *f, int metric,
                        uint32_t heads, const double *means)
{
    *w = (struct alerts_window){.summary = {.common = alerts_common_of(f), .heads = heads}};
    w->summary.layer.id = (struct layer_id){STACK_DECODER, 3, SITE_SELF};
    w->summary.layer.rows = 100;
    w->summary.layer.row_sum_error = 0;
    w->summary.layer.shape[3] = 50;
    w->summary.stat[metric] = w->stat;
    for (uint32_t h = 0; h < heads; h++) {
        w->stat[h] = (struct result_stat){.mean = means[h], .count = 1};
    }
}

static void end_window(struct alerts_fixture *f)
{
    struct alert_run run = {.common = alerts_common_of(f), .processed = 10};
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    f->epoch++;
}

static void alerts_give(struct alerts_fixture *f, const struct summary_result *summary)
{
    assert_int_equal(alerts_layer(f->alerts, summary, &f->sink), 0);
    end_window(f);
}

static void give_means(struct alerts_fixture *f, int metric, uint32_t heads, const double *means)
{
    struct alerts_window w;
    alerts_fill(&w, f, metric, heads, means);
    alerts_give(f, &w.summary);
}

static void give_entropies(struct alerts_fixture *f, uint32_t heads, const double *entropies)
{
    give_means(f, METRIC_ENTROPY_NORMALIZED, heads, entropies);
}

static void give_entropy(struct alerts_fixture *f, double entropy)
{
    give_entropies(f, 1, &entropy);
}

/* Nothing was told since last asked. */
static void expect_silence(struct alerts_fixture *f)
{
    if (f->seen < f->count) {
        fail_msg("unexpected: %s", f->told[f->seen].text);
    }
}

static const struct told *alerts_expect(struct alerts_fixture *f, enum alert_state state,
                                        const char *text)
{
    if (f->seen == f->count) {
        fail_msg("nothing was told instead of: %s", text);
    }
    const struct told *told = &f->told[f->seen++];
    assert_string_equal(told->text, text);
    assert_int_equal(told->state, state);
    return told;
}

static void expect_firing(struct alerts_fixture *f, const char *text)
{
    alerts_expect(f, ALERT_FIRING, text);
}

static void expect_resolved(struct alerts_fixture *f, const char *text)
{
    alerts_expect(f, ALERT_RESOLVED, text);
}

/* Into fresh alerts by way of a checkpoint, whose bytes are the same when packed again. */
static void save_and_restore(struct alerts_fixture *f)
{
    OWNED(mpk_writer_clear) struct mpk_writer writer, again;
    mpk_writer_init(&writer);
    mpk_writer_init(&again);
    assert_int_equal(alerts_pack(f->alerts, &writer), 0);
    struct alerts *restored = alerts_new(&f->config, "gpt");
    assert_int_equal(alerts_unpack(restored, writer.buffer.data, writer.buffer.size), 0);
    assert_int_equal(alerts_pack(restored, &again), 0);
    assert_int_equal(again.buffer.size, writer.buffer.size);
    assert_memory_equal(again.buffer.data, writer.buffer.data, writer.buffer.size);
    alerts_free(&f->alerts);
    f->alerts = restored;
}

#define ENTROPY "metric: entropy_normalized, "

/* Bounds */

ALERTS_TEST(a_rule_fires_after_its_windows_and_is_resolved_at_clear)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 3, severity: critical, each: head");
    give_entropy(f, 0.5);
    give_entropy(f, 0.09);
    give_entropy(f, 0.08);
    expect_silence(f);
    give_entropy(f, 0.04);
    const struct told *told =
        alerts_expect(f, ALERT_FIRING,
                      "entropy_normalized of decoder.3.self head 0 is 0.04, below "
                      "0.1 for 3 windows");
    assert_string_equal(told->rule, "mine");
    assert_int_equal(told->severity, ALERT_CRITICAL);
    assert_int_equal(told->head, 0);
    assert_true(told->value == 0.04 && told->bound == 0.1);
    assert_int_equal(told->epoch, 3);
    assert_int_equal(told->since_epoch, 1);
    assert_int_equal(told->since_step, 10);
    give_entropy(f, 0.01);
    give_entropy(f, 0.15);
    expect_silence(f);
    give_entropy(f, 0.2);
    told = alerts_expect(
        f, ALERT_RESOLVED,
        "entropy_normalized of decoder.3.self head 0 is 0.2, no longer below 0.1 (clear at 0.2)");
    assert_true(told->value == 0.2 && told->bound == 0.1);
    assert_int_equal(told->since_epoch, 1);
    give_entropy(f, 0.3);
}

ALERTS_TEST(a_value_between_bound_and_clear_ends_a_row_of_windows)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 2");
    give_entropy(f, 0.05);
    give_entropy(f, 0.15);
    give_entropy(f, 0.05);
    expect_silence(f);
    give_entropy(f, 0.06);
    expect_firing(f, "entropy_normalized of decoder.3.self is 0.06, below 0.1 "
                     "for 2 windows");
}

ALERTS_TEST(a_bound_itself_is_not_beyond_it)
{
    start_mine(f, "metric: max_logit, above: 10, clear: 10, each: head");
    give_means(f, METRIC_MAX_LOGIT, 1, (double[]){10});
    expect_silence(f);
    give_means(f, METRIC_MAX_LOGIT, 1, (double[]){10.5});
    expect_firing(f, "max_logit of decoder.3.self head 0 is 10.5, above 10");
    give_means(f, METRIC_MAX_LOGIT, 1, (double[]){10});
    expect_resolved(f,
                    "max_logit of decoder.3.self head 0 is 10, no longer above 10 (clear at 10)");
}

ALERTS_TEST(an_infinite_value_is_beyond_every_bound)
{
    start_mine(f, "metric: max_logit, above: 10, each: head");
    give_means(f, METRIC_MAX_LOGIT, 1, (double[]){INFINITY});
    expect_firing(f, "max_logit of decoder.3.self head 0 is inf, above 10");
}

ALERTS_TEST(a_number_that_does_not_exist_changes_nothing)
{
    start_mine(f, ENTROPY "below: 0.1, clear: 0.2, for: 2");
    give_entropy(f, 0.05);
    give_entropy(f, NONE);
    expect_silence(f);
    give_entropy(f, 0.05);
    expect_firing(f, "entropy_normalized of decoder.3.self is 0.05, below 0.1 "
                     "for 2 windows");
    give_entropy(f, NONE);
    expect_silence(f);
}

ALERTS_TEST(a_rule_that_counts_only_after_clear_ignores_the_beginning)
{
    start_mine(f, ENTROPY "above: 0.9, clear: 0.7, after_clear: true, each: head");
    give_entropy(f, 0.99);
    give_entropy(f, 0.8);
    give_entropy(f, 0.99);
    give_entropy(f, 0.7);
    expect_silence(f);
    give_entropy(f, 0.95);
    expect_firing(f, "entropy_normalized of decoder.3.self head 0 is 0.95, above 0.9");
}

/* Rates */

ALERTS_TEST(a_fall_is_measured_against_windows_ago)
{
    start_mine(f, ENTROPY "falls_by: 0.3, clear: 0.1, within: 2, each: head");
    give_entropy(f, 0.9);
    give_entropy(f, 0.5); /* nothing to compare with yet */
    give_entropy(f, 0.65);
    expect_silence(f);
    give_entropy(f, 0.1);
    const struct told *told =
        alerts_expect(f, ALERT_FIRING,
                      "entropy_normalized of decoder.3.self head 0 is 0.1, 0.4 lower "
                      "than 2 windows ago, more than 0.3");
    assert_true(fabs(told->value - 0.4) < 1e-12 && told->bound == 0.3);
    give_entropy(f, 0.45); /* 0.2 lower: neither */
    expect_silence(f);
    give_entropy(f, 0.05);
    expect_resolved(f, "entropy_normalized of decoder.3.self head 0 is 0.05, 0.05 lower than 2 "
                       "windows ago, no longer more than 0.3 (clear at 0.1)");
}

ALERTS_TEST(a_rise_is_a_fall_upwards)
{
    start_mine(f, ENTROPY "rises_by: 0.3, each: head");
    give_entropy(f, 0.1);
    give_entropy(f, 0.5);
    expect_firing(f, "entropy_normalized of decoder.3.self head 0 is 0.5, 0.4 higher than 1 window "
                     "ago, more than 0.3");
}

ALERTS_TEST(growth_is_a_ratio_to_something_positive)
{
    start_mine(f, "metric: max_logit, grows_by: 3, each: head, for: 2");
    const double values[] = {0, 5, -2, 4, 1, 4, 13};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        expect_silence(f);
        give_means(f, METRIC_MAX_LOGIT, 1, &values[i]);
    }
    expect_firing(f, "max_logit of decoder.3.self head 0 is 13, 3.25 times what it was 1 window "
                     "ago, more than 3 for 2 windows");
}

ALERTS_TEST(windows_without_a_number_are_none_for_a_rate)
{
    start_mine(f, ENTROPY "falls_by: 0.3, within: 1, each: head");
    give_entropy(f, 0.9);
    give_entropy(f, NONE);
    give_entropy(f, 0.5);
    expect_firing(f, "entropy_normalized of decoder.3.self head 0 is 0.5, 0.4 lower than 1 window "
                     "ago, more than 0.3");
}

/* Scope */

ALERTS_TEST(heads_are_judged_one_by_one)
{
    start_mine(f, ENTROPY "below: 0.1, each: head");
    give_entropies(f, 3, (double[]){0.5, 0.05, 0.5});
    expect_firing(f, "entropy_normalized of decoder.3.self head 1 is 0.05, below 0.1");
    give_entropies(f, 3, (double[]){0.5, 0.5, 0.04});
    expect_resolved(
        f,
        "entropy_normalized of decoder.3.self head 1 is 0.5, no longer below 0.1 (clear at 0.11)");
    assert_int_equal(alerts_expect(f, ALERT_FIRING,
                                   "entropy_normalized of decoder.3.self head 2 is 0.04, below 0.1")
                         ->head,
                     2);
}

ALERTS_TEST(a_layer_is_the_mean_of_its_heads_that_have_a_number)
{
    start_mine(f, ENTROPY "below: 0.3");
    give_entropies(f, 3, (double[]){0.5, NONE, 0.1});
    expect_silence(f);
    give_entropies(f, 3, (double[]){0.4, NONE, 0.1});
    assert_int_equal(
        alerts_expect(f, ALERT_FIRING,
                      "entropy_normalized of decoder.3.self (mean of its heads, head 2 has the "
                      "lowest) is 0.25, below 0.3")
            ->head,
        -1);
}

ALERTS_TEST(of_a_layer_the_largest_max_and_the_smallest_min_count)
{
    alerts_start(f, "  high: {metric: max_abs_logit, statistic: max, above: 10}\n"
                    "  low: {metric: max_abs_logit, statistic: min, below: 2}\n");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_MAX_ABS_LOGIT, 2, (double[]){5, 5});
    w.stat[0].max = 12, w.stat[1].max = 3;
    w.stat[0].min = 3, w.stat[1].min = 1;
    alerts_give(f, &w.summary);
    expect_firing(f, "max of max_abs_logit of decoder.3.self (largest of its heads, head 0 has the "
                     "highest) is 12, above 10");
    expect_firing(f,
                  "min of max_abs_logit of decoder.3.self (smallest of its heads, head 1 has the "
                  "lowest) is 1, below 2");
}

ALERTS_TEST(a_run_is_the_mean_over_its_layers_at_the_end_of_a_window)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.3, each: run}\n"
                    "  sinks: {metric: sink_rate, above: 0.5, each: run}\n");
    struct result_stat sinks = {.mean = 1, .count = 1};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.4, 0.4});
    alerts_layer(f->alerts, &w.summary, &f->sink);
    w.summary.layer.id.layer = 4;
    w.stat[0].mean = w.stat[1].mean = 0.1;
    w.summary.sink_rate = &sinks;
    alerts_layer(f->alerts, &w.summary, &f->sink);
    expect_silence(f);
    end_window(f);
    const struct told *told = alerts_expect(
        f, ALERT_FIRING, "entropy_normalized of the run (mean of its heads) is 0.25, below 0.3");
    assert_false(told->has_layer);
    assert_int_equal(told->head, -1);
    expect_firing(f, "sink_rate of the run (mean of its layers) is 1, above 0.5");
    end_window(f); /* a window without layers changes nothing */
}

ALERTS_TEST(patterns_choose_layers_and_jobs)
{
    alerts_start(f, "  a: {" ENTROPY "below: 0.1, layer: 'decoder.[0-2].*'}\n"
                    "  b: {" ENTROPY "below: 0.1, job: 'bert*'}\n"
                    "  c: {" ENTROPY "below: 0.1, layer: '*.self', job: 'g?t'}\n");
    struct alerts_window w;
    give_entropy(f, 0.05);
    assert_string_equal(alerts_expect(f, ALERT_FIRING,
                                      "entropy_normalized of decoder.3.self is 0.05, "
                                      "below 0.1")
                            ->rule,
                        "c");
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0.05});
    w.summary.layer.id = (struct layer_id){STACK_DECODER, 2, SITE_CROSS};
    alerts_give(f, &w.summary);
    const struct told *told =
        alerts_expect(f, ALERT_FIRING, "entropy_normalized of decoder.2.cross is 0.05, below 0.1");
    assert_string_equal(told->rule, "a");
    assert_int_equal(told->layer.layer, 2);
}

ALERTS_TEST(rules_that_are_off_are_not_judged)
{
    start_mine(f, ENTROPY "below: 0.5, enabled: false");
    struct alerts *off;
    give_entropy(f, 0.01);
    expect_silence(f);
    alerts_stop(f);
    start_mine(f, ENTROPY "below: 0.5");
    f->config.alerts_enabled = false;
    off = alerts_new(&f->config, "gpt");
    alerts_free(&f->alerts);
    f->alerts = off;
    give_entropy(f, 0.01);
}

ALERTS_TEST(another_number_of_heads_begins_anew)
{
    start_mine(f, ENTROPY "below: 0.1, for: 2, each: head");
    give_entropies(f, 1, (double[]){0.05});
    give_entropies(f, 2, (double[]){0.05, 0.05});
    expect_silence(f);
}

/* Numbers */

ALERTS_TEST(every_statistic_is_the_one_it_says)
{
    static const char *const names[] = {"mean", "std",  "min",   "max",   "p10",       "p50", "p90",
                                        "p99",  "last", "delta", "shift", "abs_shift", "js"};
    for (int i = 0; i < 13; i++) {
        char body[128], text[128];
        struct alerts_window w;
        snprintf(body, sizeof body, ENTROPY "above: %g, each: head, statistic: %s",
                 i >= 9 ? -0.5 + 0.5 * (i >= 11) : 0.0, names[i]);
        start_mine(f, body);
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0.1});
        w.stat[0] = (struct result_stat){0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 5};
        w.drift[0] = (struct result_drift){-0.25, -0.125, 0.5, NONE};
        w.summary.drift[METRIC_ENTROPY_NORMALIZED] = w.drift;
        alerts_give(f, &w.summary);
        const double expected[] = {0.1, 0.2, 0.3,   0.4,    0.45,  0.5, 0.6,
                                   0.7, 0.8, -0.25, -0.125, 0.125, 0.5};
        snprintf(text, sizeof text,
                 "%s%sentropy_normalized of decoder.3.self head 0 is %g, above %g",
                 i == 0    ? ""
                 : i == 11 ? "|shift|"
                           : names[i],
                 i == 0 ? "" : " of ", expected[i], i >= 9 ? -0.5 + 0.5 * (i >= 11) : 0.0);
        assert_true(alerts_expect(f, ALERT_FIRING, text)->value == expected[i]);
        alerts_stop(f);
    }
}

ALERTS_TEST(a_head_without_values_or_drift_has_no_number)
{
    alerts_start(f, "  a: {" ENTROPY "below: 0.5, each: head}\n"
                    "  b: {" ENTROPY "statistic: abs_shift, above: 1, each: head}\n");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 1, (double[]){0});
    w.stat[0].count = 0;
    alerts_give(f, &w.summary);
    w.summary.stat[METRIC_ENTROPY_NORMALIZED] = NULL;
    alerts_give(f, &w.summary);
    expect_silence(f);
}

ALERTS_TEST(per_key_divides_by_the_keys_of_the_newest_message)
{
    start_mine(f, "metric: effective_rank, per_key: true, below: 0.1, each: head");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_EFFECTIVE_RANK, 1, (double[]){4});
    w.summary.layer.shape[3] = 0;
    alerts_give(f, &w.summary);
    expect_silence(f);
    w.summary.layer.shape[3] = 50;
    alerts_give(f, &w.summary);
    expect_firing(f, "effective_rank per key of decoder.3.self head 0 is 0.08, below 0.1");
}

ALERTS_TEST(unsound_rows_are_a_share_of_all)
{
    start_mine(f, "metric: invalid_share, above: 0");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 1, (double[]){1});
    alerts_give(f, &w.summary);
    expect_silence(f);
    w.summary.layer.invalid_rows = 300;
    alerts_give(f, &w.summary);
    expect_firing(f, "invalid_share of decoder.3.self is 0.75, above 0");
    w.summary.layer.rows = w.summary.layer.invalid_rows = 0;
    alerts_give(f, &w.summary); /* no rows: no number */
    expect_silence(f);
    w.summary.layer.rows = 1;
    alerts_give(f, &w.summary);
    expect_resolved(f, "invalid_share of decoder.3.self is 0, no longer above 0 (clear at 0)");
}

ALERTS_TEST(row_sums_are_not_judged_after_dropout)
{
    start_mine(f, "metric: row_sum_error, above: 0.01");
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 1, (double[]){1});
    w.summary.layer.row_sum_error = 0.4;
    alerts_give(f, &w.summary); /* all rows are sound, so sums were not judged */
    expect_silence(f);
    w.summary.layer.row_sum_error = 0.015;
    alerts_give(f, &w.summary);
    expect_firing(f, "row_sum_error of decoder.3.self is 0.015, above 0.01");
    w.summary.layer.row_sum_error = 0;
    alerts_give(f, &w.summary);
    expect_resolved(f,
                    "row_sum_error of decoder.3.self is 0, no longer above 0.01 (clear at 0.009)");
    w.summary.layer.row_sum_error = 0.4;
    w.summary.layer.invalid_rows = 1;
    alerts_give(f, &w.summary);
    expect_firing(f, "row_sum_error of decoder.3.self is 0.4, above 0.01");
}

ALERTS_TEST(redundancy_is_a_share_of_the_pairs)
{
    start_mine(f, "metric: redundant_share, above: 0.5");
    const double js[16] = {0};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_ENTROPY, 4, (double[]){1, 1, 1, 1});
    w.summary.similarity.redundant_total = 4;
    alerts_give(f, &w.summary); /* not measured */
    expect_silence(f);
    w.summary.similarity.js = js;
    alerts_give(f, &w.summary);
    expect_firing(f, "redundant_share of decoder.3.self is 0.6667, above 0.5");
    w.summary.heads = 1; /* has no pair */
    alerts_give(f, &w.summary);
    expect_silence(f);
}

ALERTS_TEST(sink_rate_has_statistics)
{
    start_mine(f, "metric: sink_rate, statistic: p90, above: 0.5");
    struct result_stat rate = {.mean = 0.1, .p90 = 0.75, .count = 9};
    struct alerts_window w;
    alerts_fill(&w, f, METRIC_FIRST_TOKEN, 1, (double[]){0});
    w.summary.sink_rate = &rate;
    alerts_give(f, &w.summary);
    expect_firing(f, "p90 of sink_rate of decoder.3.self is 0.75, above 0.5");
}

/* The run */

static void give_run(struct alerts_fixture *f, uint64_t messages, uint64_t lost, uint64_t dropped)
{
    struct alert_run run = {alerts_common_of(f), messages, lost, dropped};
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    f->epoch++;
}

ALERTS_TEST(losses_are_a_share_of_all_messages)
{
    start_mine(f, "metric: lost_share, above: 0.25, clear: 0.1");
    give_run(f, 75, 20, 5);
    expect_silence(f);
    give_run(f, 70, 20, 10);
    const struct told *told = alerts_expect(
        f, ALERT_FIRING,
        "lost_share of the messages since the run was last judged is 0.3, above 0.25");
    assert_false(told->has_layer);
    assert_int_equal(told->head, -1);
    give_run(f, 0, 0, 0);
    expect_silence(f);
    give_run(f, 100, 0, 0);
    expect_resolved(f, "lost_share of the messages since the run was last judged is 0, no longer "
                       "above 0.25 (clear at 0.1)");
}

ALERTS_TEST(silence_is_told_and_resolved)
{
    start_mine(f, "metric: silence, above: 60");
    struct result_common common = alerts_common_of(f);
    alerts_silence(f->alerts, &common, 60, &f->sink);
    expect_silence(f);
    alerts_silence(f->alerts, &common, 61, &f->sink);
    expect_firing(f, "the run is silent: nothing has been heard of it for 61 s, more than 60 s");
    alerts_silence(f->alerts, &common, 600, &f->sink);
    end_window(f); /* windows say nothing about it */
    expect_silence(f);
    alerts_silence(f->alerts, &common, 0, &f->sink);
    expect_resolved(f, "the run has been heard of again");
}

ALERTS_TEST(what_fires_at_the_end_stays_as_it_is)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head, for: 2}\n"
                    "  quiet: {metric: silence, above: 60}\n");
    const char *text = "entropy_normalized of decoder.3.self head 0 is 0.2, below 0.5 for 2 "
                       "windows, when the run ended";
    give_entropies(f, 2, (double[]){0.1, 0.9});
    give_entropies(f, 2, (double[]){0.2, 0.9});
    expect_firing(f, "entropy_normalized of decoder.3.self head 0 is 0.2, below 0.5 for 2 windows");
    struct result_common common = alerts_common_of(f);
    alerts_silence(f->alerts, &common, 100, &f->sink);
    expect_firing(f, "the run is silent: nothing has been heard of it for 100 s, more than 60 s");
    alerts_end(f->alerts, &common, true, &f->sink);
    expect_resolved(f, "the run has been heard of again"); /* by its bye */
    const struct told *told = alerts_expect(f, ALERT_FIRING_AT_END, text);
    assert_true(told->value == 0.2 && told->bound == 0.5);
    assert_int_equal(told->epoch, 2);
    assert_int_equal(told->since_epoch, 0);
    alerts_end(f->alerts, &common, true, &f->sink);
    expect_silence(f); /* it is told once */
    for (int restart = 0; restart < 2; restart++) {
        alerts_each(f->alerts, &f->sink);
        told = alerts_expect(f, ALERT_FIRING_AT_END, text);
        assert_true(told->value == 0.2 && told->bound == 0.5 && told->since_epoch == 0);
        expect_silence(f);
        save_and_restore(f);
    }
}

ALERTS_TEST(an_idle_run_that_goes_on_tells_anew)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head}\n"
                    "  quiet: {metric: silence, above: 60}\n");
    give_entropies(f, 2, (double[]){0.1, 0.2});
    struct result_common common = alerts_common_of(f);
    alerts_silence(f->alerts, &common, 600, &f->sink);
    f->seen = f->count;
    alerts_end(f->alerts, &common, false, &f->sink);
    for (int h = 0; h < 2; h++) {
        assert_int_equal(f->told[f->seen].head, h);
        assert_int_equal(f->told[f->seen++].state, ALERT_FIRING_AT_END);
    }
    expect_silence(f); /* silence fires on */
    give_entropies(f, 2, (double[]){0.3, 0.9});
    expect_firing(f, "entropy_normalized of decoder.3.self head 0 is 0.3, below 0.5 for 2 windows");
    expect_resolved(f, "entropy_normalized of decoder.3.self head 1 is 0.9, no longer below 0.5 "
                       "(clear at 0.55)");
    alerts_silence(f->alerts, &common, 0, &f->sink);
    expect_resolved(f, "the run has been heard of again");
}

ALERTS_TEST(the_end_tells_at_most_so_many_that_were_never_told)
{
    start_mine(f, ENTROPY "below: 0.5, each: head");
    alerts_free(&f->alerts);
    f->config.alerts_per_window = 2;
    f->alerts = alerts_new(&f->config, "gpt");
    give_entropies(f, 6, (double[]){0.1, 0.1, 0.1, 0.1, 0.1, 0.1});
    assert_int_equal(f->count, 2);
    struct result_common common = alerts_common_of(f);
    alerts_end(f->alerts, &common, true, &f->sink);
    assert_int_equal(f->count, 2 + 2 + 2); /* the two that were told, and two more */
    f->seen = f->count;
    alerts_each(f->alerts, &f->sink);
    assert_int_equal(f->count, 6 + 6);
    assert_int_equal(f->told[11].state, ALERT_FIRING_AT_END);
    f->seen = f->count;
}

ALERTS_TEST(the_rank_that_is_far_from_the_others_is_named)
{
    alerts_start(f,
                 "  mine: {metric: rank_distance, above: 5, for: 2}\n"
                 "  all: {metric: rank_distance, each: run, above: 5, for: 2, severity: info}\n");
    for (int i = 0; i < 3; i++) {
        struct alerts_window w;
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.5, 0.5});
        w.summary.rank_distance = i == 0 ? NONE : 7.5;
        w.summary.odd_rank = 9;
        alerts_give(f, &w.summary);
        if (i < 2) {
            expect_silence(f);
        }
    }
    expect_firing(f, "rank_distance of decoder.3.self (rank 9) is 7.5, above 5 for 2 windows");
    assert_string_equal(
        f->told[f->seen++].text,
        "rank_distance of the run (mean of its layers) is 7.5, above 5 for 2 windows");
}

ALERTS_TEST(each_tells_the_worst_first)
{
    alerts_start(f, "  second: {" ENTROPY "below: 0.5, each: head}\n"
                    "  first: {" ENTROPY "below: 0.3, each: layer, severity: critical}\n"
                    "  third: {" ENTROPY "above: 0.05, each: head}\n");
    static const struct {
        const char *rule;
        int32_t head;
    } order[] = {{"first", -1}, {"second", 1}, {"second", 2},
                 {"second", 0}, {"third", 0},  {"third", 2}};
    give_entropies(f, 3, (double[]){0.4, 0.05, 0.1});
    f->seen = f->count;
    alerts_each(f->alerts, &f->sink);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        assert_string_equal(f->told[f->seen].rule, order[i].rule);
        assert_int_equal(f->told[f->seen++].head, order[i].head);
    }
    expect_silence(f);
}

ALERTS_TEST(each_tells_what_fires_now)
{
    start_mine(f, ENTROPY "falls_by: 0.25, each: head");
    give_entropies(f, 2, (double[]){0.9, 0.9});
    give_entropies(f, 2, (double[]){0.9, 0.5});
    f->seen = f->count;
    alerts_each(f->alerts, &f->sink);
    expect_firing(f, "entropy_normalized of decoder.3.self head 1 is 0.5, 0.4 lower than 1 window "
                     "ago, more than 0.25");
}

/* Floods */

ALERTS_TEST(what_is_beyond_the_limit_is_told_with_later_windows)
{
    start_mine(f, ENTROPY "below: 0.5, each: head");
    double entropies[10];
    alerts_free(&f->alerts);
    f->config.alerts_per_window = 4;
    f->alerts = alerts_new(&f->config, "gpt");
    for (int h = 0; h < 10; h++) {
        entropies[h] = 0.1;
    }
    give_entropies(f, 10, entropies);
    assert_int_equal(f->count, 4);
    assert_int_equal(f->held_back, 6);
    entropies[4] = 0.9; /* resolved before it was told: never told */
    give_entropies(f, 10, entropies);
    assert_int_equal(f->count, 8);
    assert_int_equal(f->told[4].head, 5);
    assert_int_equal(f->held_back, 6); /* each is counted once */
    give_entropies(f, 10, entropies);
    assert_int_equal(f->count, 9);
    f->seen = f->count;
    for (int h = 0; h < 10; h++) {
        entropies[h] = 0.9;
    }
    for (int window = 0; window < 3; window++) {
        give_entropies(f, 10, entropies);
    }
    assert_int_equal(f->count, 18);
    for (int i = 9; i < 18; i++) {
        assert_int_equal(f->told[i].state, ALERT_RESOLVED);
    }
    assert_int_equal(f->held_back, 6 + 5);
    f->seen = f->count;
}

/* An oracle: judges a whole history of values from its beginning, for each window anew. */

struct oracle {
    enum rule_condition condition;
    double bound, clear;
    uint32_t within, windows;
    bool after_clear;
};

/* -1 clear, 0 neither, 1 holds, 2 cannot be told. */
static int alerts_look(const struct oracle *o, const double *numbers, uint32_t index)
{
    double x = numbers[index];
    if (o->condition > RULE_ABOVE) {
        if (index < o->within) {
            return 2;
        }
        double then = numbers[index - o->within];
        if (o->condition == RULE_GROWS_BY && !(then > 0)) {
            return 2;
        }
        x = o->condition == RULE_GROWS_BY   ? x / then
            : o->condition == RULE_FALLS_BY ? then - x
                                            : x - then;
    }
    if (o->condition == RULE_BELOW) {
        return x < o->bound ? 1 : x >= o->clear ? -1 : 0;
    }
    return x > o->bound ? 1 : x <= o->clear ? -1 : 0;
}

static bool oracle_fires(const struct oracle *o, const double *history, uint32_t count)
{
    double numbers[512];
    uint32_t used = 0, row = 0;
    bool firing = false, armed = !o->after_clear;
    for (uint32_t i = 0; i < count; i++) {
        if (!isnan(history[i])) {
            numbers[used++] = history[i];
        }
    }
    for (uint32_t i = 0; i < used; i++) {
        int verdict = alerts_look(o, numbers, i);
        if (verdict == 2) {
            continue;
        }
        row = verdict == 1 && armed ? row + 1 : 0;
        armed = armed || verdict == -1;
        firing = verdict == -1 ? false : firing || row >= o->windows;
    }
    return firing;
}

static double random_thousandth(void)
{
    return (double)(rand() % 1001) / 1000;
}

static struct oracle random_rule(char *ret_body)
{
    static const char *const names[] = {"below", "above", "falls_by", "rises_by", "grows_by"};
    struct oracle o = {.condition = (enum rule_condition)(rand() % 5),
                       .bound = 0.3 + 0.1 * (rand() % 4),
                       .within = 1,
                       .windows = 1u + (uint32_t)(rand() % 3),
                       .after_clear = rand() % 2};
    if (o.condition > RULE_ABOVE) {
        o.within = 1u + (uint32_t)(rand() % 5);
    }
    if (o.condition == RULE_GROWS_BY) {
        o.bound += 1;
    }
    o.clear = o.condition == RULE_BELOW ? o.bound + 0.1 : o.bound - 0.1;
    int used = sprintf(ret_body,
                       ENTROPY "each: head, %s: %.17g, clear: %.17g, for: %u, "
                               "after_clear: %s",
                       names[o.condition], o.bound, o.clear, (unsigned)o.windows,
                       o.after_clear ? "true" : "false");
    if (o.condition > RULE_ABOVE) {
        sprintf(ret_body + used, ", within: %u", (unsigned)o.within);
    }
    return o;
}

/* Whether the newest event of a head says firing. */
static bool was_told(const struct alerts_fixture *f, int head)
{
    for (uint32_t i = f->count; i-- > 0;) {
        if (f->told[i].head == head) {
            return f->told[i].state == ALERT_FIRING;
        }
    }
    return false;
}

ALERTS_TEST(random_histories_agree_with_an_oracle_across_restarts)
{
    enum { HEADS = 3, WINDOWS = 60 };
    static double history[HEADS][WINDOWS];
    srand(7);
    for (int round = 0; round < 150; round++) {
        char body[256];
        struct oracle o = random_rule(body);
        start_mine(f, body);
        for (uint32_t w = 0; w < WINDOWS; w++) {
            double entropies[HEADS];
            for (int h = 0; h < HEADS; h++) {
                entropies[h] = history[h][w] = rand() % 8 == 0 ? NONE : random_thousandth();
            }
            give_entropies(f, HEADS, entropies);
            for (int h = 0; h < HEADS; h++) {
                assert_int_equal(was_told(f, h), oracle_fires(&o, history[h], w + 1));
            }
            if (rand() % 10 == 0) {
                save_and_restore(f);
            }
        }
        f->seen = f->count;
        alerts_stop(f);
    }
}

static void count_unjudged(void *data, const struct rule *rule)
{
    (void)rule;
    ++*(uint32_t *)data;
}

ALERTS_TEST(a_check_passes_when_it_could_have_fired_and_as_long_as_its_numbers_are_new)
{
    alerts_start(f, "  thrice: {" ENTROPY "below: 0.1, for: 3}\n"
                    "  falls: {" ENTROPY "falls_by: 0.5, within: 2}\n");
    for (uint32_t window = 1; window <= 16; window++) {
        uint32_t unjudged = 0, judged = window < 3 || window > 12 ? 0 : 2;
        double entropy = window > 4 ? NONE : 0.5;
        give_entropies(f, 2, (double[]){entropy, entropy});
        assert_int_equal(alerts_unjudged(f->alerts, count_unjudged, &unjudged), judged);
        assert_int_equal(unjudged, 2 - judged);
        if (window == 4) {
            save_and_restore(f);
        }
    }
}

/* Checkpoints */

ALERTS_TEST(a_restart_tells_nothing_twice_and_resolves)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, for: 2}\n"
                    "  all: {" ENTROPY "below: 0.5, each: run}\n");
    uint64_t epoch, step;
    save_and_restore(f);
    assert_false(alerts_judged_to(f->alerts, &epoch, &step));
    give_entropies(f, 2, (double[]){0.1, 0.1});
    save_and_restore(f);
    give_entropies(f, 2, (double[]){0.15, 0.05});
    f->seen = f->count;
    assert_int_equal(f->count, 2);
    save_and_restore(f);
    assert_true(alerts_judged_to(f->alerts, &epoch, &step) && epoch == 1);
    alerts_each(f->alerts, &f->sink);
    expect_firing(f, "entropy_normalized of decoder.3.self (mean of its heads, head 1 has the "
                     "lowest) is 0.1, below 0.5 for 2 windows");
    expect_firing(f, "entropy_normalized of the run (mean of its heads) is 0.1, below 0.5 for 2 "
                     "windows");
    give_entropies(f, 2, (double[]){0.1, 0.1});
    expect_silence(f);
    give_entropies(f, 2, (double[]){0.9, 0.9});
    assert_int_equal(alerts_expect(f, ALERT_RESOLVED,
                                   "entropy_normalized of decoder.3.self is 0.9, "
                                   "no longer below 0.5 (clear at 0.55)")
                         ->since_epoch,
                     0);
    expect_resolved(f, "entropy_normalized of the run (mean of its heads) is 0.9, no longer below "
                       "0.5 (clear at 0.55)");
}

ALERTS_TEST(what_was_saved_under_another_rule_is_left_out)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5}\n  other: {" ENTROPY "below: 0.6}\n");
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    give_entropy(f, 0.1);
    f->seen = f->count;
    mpk_writer_init(&writer);
    alerts_pack(f->alerts, &writer);
    alerts_stop(f);
    alerts_start(f, "  mine: {" ENTROPY "below: 0.4}\n  other: {" ENTROPY
                    "below: 0.6, severity: info}\n");
    assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size), 0);
    alerts_each(f->alerts, &f->sink);
    assert_int_equal(f->count, 1);
    assert_string_equal(f->told[0].rule, "other");
    f->seen = f->count;
}

ALERTS_TEST(a_damaged_checkpoint_is_refused_or_harmless)
{
    alerts_start(f, "  mine: {" ENTROPY "below: 0.5, each: head}\n"
                    "  rate: {" ENTROPY "falls_by: 0.3, within: 3}\n");
    struct mpk_writer writer;
    give_entropies(f, 2, (double[]){0.1, 0.9});
    give_entropies(f, 2, (double[]){0.1, 0.2});
    f->seen = f->count;
    mpk_writer_init(&writer);
    assert_int_equal(alerts_pack(f->alerts, &writer), 0);
    for (size_t size = 0; size < writer.buffer.size; size++) {
        assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, size), ERR_STORE_FORMAT);
        alerts_each(f->alerts, &f->sink);
        expect_silence(f);
    }
    for (size_t at = 0; at < writer.buffer.size; at++) {
        char kept = writer.buffer.data[at];
        for (int value = 0; value < 256; value += 5) {
            writer.buffer.data[at] = (char)value;
            int code = alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size);
            assert_true(code == 0 || code == ERR_STORE_FORMAT);
        }
        writer.buffer.data[at] = kept;
    }
    assert_int_equal(alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size), 0);
    mpk_writer_clear(&writer);
    f->seen = f->count;
}

ALERTS_TEST(a_quiet_run_packs_to_twenty_one_bytes_per_head)
{
    start_mine(f, ENTROPY "above: 0.99, clear: 0.9, after_clear: true, each: head");
    double entropies[HEADS_MAX];
    OWNED(mpk_writer_clear) struct mpk_writer writer;
    for (int h = 0; h < HEADS_MAX; h++) {
        entropies[h] = 0.5;
    }
    give_entropies(f, HEADS_MAX, entropies);
    mpk_writer_init(&writer);
    alerts_pack(f->alerts, &writer);
    assert_in_range(writer.buffer.size, 1, 240 + 20 * HEADS_MAX);
}

/* Memory */

ALERTS_TEST(out_of_memory_is_survived)
{
    for (unsigned nth = 1; nth < 40; nth++) {
        alerts_start(f, "  a: {" ENTROPY "below: 0.5, each: head}\n"
                        "  b: {" ENTROPY "falls_by: 0.5, each: run}\n");
        struct alerts_window w;
        struct mpk_writer writer;
        alerts_fill(&w, f, METRIC_ENTROPY_NORMALIZED, 2, (double[]){0.1, 0.1});
        struct alert_run run = {.common = alerts_common_of(f)};
        heap_fail_at(nth);
        struct alerts *alerts = alerts_new(&f->config, "gpt");
        int code = alerts ? alerts_layer(alerts, &w.summary, &f->sink) : 0;
        int run_code = alerts ? alerts_run(alerts, &run, &f->sink) : 0;
        mpk_writer_init(&writer);
        int pack_code = alerts ? alerts_pack(alerts, &writer) : 0;
        heap_fail_at(0);
        assert_true(code == 0 || code == ERR_MEMORY);
        assert_true(run_code == 0 || run_code == ERR_MEMORY);
        assert_true(pack_code == 0 || pack_code == ERR_MEMORY);
        if (alerts && pack_code == 0) {
            heap_fail_at(nth);
            int unpacked = alerts_unpack(f->alerts, writer.buffer.data, writer.buffer.size);
            heap_fail_at(0);
            assert_true(unpacked == 0 || unpacked == ERR_MEMORY);
        }
        mpk_writer_clear(&writer);
        alerts_free(&alerts);
        f->seen = f->count;
        alerts_stop(f);
    }
}
