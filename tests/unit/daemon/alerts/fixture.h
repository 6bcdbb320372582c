/* SPDX-License-Identifier: MIT */
/* alerts_fixture: rules against windows. A test loads the rules it is about, with all defaults off,
 * and gives windows by their numbers. */
#ifndef TESTS_UNIT_DAEMON_ALERTS_FIXTURE_H
#define TESTS_UNIT_DAEMON_ALERTS_FIXTURE_H

#include "tests/unit/unit.h"

#include "daemon/alerts/alerts.h"
#include "proto/err.h"
#include "config/rules.h"

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
    uint64_t epoch, since_after, since_step;
};

struct alerts_fixture {
    struct config config;
    struct alerts *alerts;
    struct alert_sink sink;
    struct told told[EVENTS_MAX];
    uint32_t count, seen, held_back;
    uint64_t epoch;
    int metric; /* of `give`: entropy_normalized, unless a test says otherwise */
};

static inline void alerts_on_event(void *data, const struct alert_result *event)
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
                          .since_after = event->since_after,
                          .since_step = event->since_step};
    assert_string_equal(event->common.job, "gpt");
    assert_memory_equal(event->common.run, run_id, RUN_BYTES);
    snprintf(told->rule, sizeof told->rule, "%s", event->rule);
    snprintf(told->text, sizeof told->text, "%s", event->message);
}

static inline void alerts_on_overflow(void *data, uint32_t events)
{
    ((struct alerts_fixture *)data)->held_back += events;
}

/* Rules as lines of YAML below `rules:`; the defaults are off. */
static inline void alerts_start(struct alerts_fixture *f, const char *rules)
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
    f->metric = METRIC_ENTROPY_NORMALIZED;
    f->sink = (struct alert_sink){alerts_on_event, alerts_on_overflow, f};
}

/* One rule `mine` of what follows. */
static inline void start_mine(struct alerts_fixture *f, const char *body)
{
    char rules[1024];
    snprintf(rules, sizeof rules, "  mine: {%s}\n", body);
    alerts_start(f, rules);
}

static inline void alerts_stop(struct alerts_fixture *f)
{
    assert_int_equal(f->seen, f->count); /* nothing else was told */
    alerts_free(&f->alerts);
    config_clear(&f->config);
}

/* Begins with alerts_start or start_mine; nothing else may have been told at its end. */
#define ALERTS_TEST(name) TEST_IN(name, struct alerts_fixture, f, NULL, alerts_stop)

static inline struct result_common alerts_common_of(const struct alerts_fixture *f)
{
    return (struct result_common){"gpt", run_id, f->epoch, f->epoch * 10, 0};
}

/* A window of decoder.3.self with one number per head, as the mean of a metric. */
struct alerts_window {
    struct summary_result summary;
    struct result_stat stat[HEADS_MAX];
    struct result_drift drift[HEADS_MAX];
};

static inline void alerts_fill(struct alerts_window *w, const struct alerts_fixture *f, int metric,
                               uint32_t heads, const double *means)
{
    *w = (struct alerts_window){.summary = {.common = alerts_common_of(f), .heads = heads}};
    w->summary.layer.id = (struct layer_id){STACK_DECODER, 3, SITE_SELF};
    w->summary.window.first = w->summary.window.last = f->epoch;
    w->summary.layer.rows = 100;
    w->summary.layer.row_sum_error = 0;
    w->summary.layer.shape[3] = 50;
    w->summary.stat[metric] = w->stat;
    for (uint32_t h = 0; h < heads; h++) {
        w->stat[h] = (struct result_stat){.mean = means[h], .count = 1};
    }
}

/* Judges the run by how many messages were received, lost and dropped, and ends the window. */
static inline void give_run(struct alerts_fixture *f, uint64_t messages, uint64_t lost,
                            uint64_t dropped)
{
    struct alert_run run = {alerts_common_of(f), ALERTS_OF_ALL, messages, lost, dropped, 0};
    assert_int_equal(alerts_run(f->alerts, &run, &f->sink), 0);
    f->epoch++;
}

static inline void end_window(struct alerts_fixture *f)
{
    give_run(f, 10, 0, 0);
}

static inline void give_window(struct alerts_fixture *f, const struct alerts_window *w)
{
    assert_int_equal(alerts_layer(f->alerts, &w->summary, ALERTS_OF_ALL, &f->sink), 0);
    end_window(f);
}

/* A window of this number of heads, which have these means of f->metric. */
static inline void give(struct alerts_fixture *f, uint32_t heads, const double *means)
{
    struct alerts_window w;
    alerts_fill(&w, f, f->metric, heads, means);
    give_window(f, &w);
}

/* Nothing was told since last asked. */
static inline void expect_silence(struct alerts_fixture *f)
{
    if (f->seen < f->count) {
        fail_msg("unexpected: %s", f->told[f->seen].text);
    }
}

static inline const struct told *alerts_expect(struct alerts_fixture *f, enum alert_state state,
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

static inline void expect_firing(struct alerts_fixture *f, const char *text)
{
    alerts_expect(f, ALERT_FIRING, text);
}

static inline void expect_resolved(struct alerts_fixture *f, const char *text)
{
    alerts_expect(f, ALERT_RESOLVED, text);
}

/* Judges a window with one head, which has this mean, and expects that an alert fires. */
static inline const struct told *fires(struct alerts_fixture *f, double mean, const char *text)
{
    give(f, 1, &mean);
    return alerts_expect(f, ALERT_FIRING, text);
}

static inline const struct told *resolves(struct alerts_fixture *f, double mean, const char *text)
{
    give(f, 1, &mean);
    return alerts_expect(f, ALERT_RESOLVED, text);
}

static inline void is_quiet(struct alerts_fixture *f, double mean)
{
    give(f, 1, &mean);
    expect_silence(f);
}

/* And of a whole window. */
static inline void window_fires(struct alerts_fixture *f, const struct alerts_window *w,
                                const char *text)
{
    give_window(f, w);
    expect_firing(f, text);
}

static inline void window_is_quiet(struct alerts_fixture *f, const struct alerts_window *w)
{
    give_window(f, w);
    expect_silence(f);
}

static inline void is_silent_for(struct alerts_fixture *f, double seconds)
{
    const struct result_common common = alerts_common_of(f);
    assert_int_equal(alerts_silence(f->alerts, &common, seconds, &f->sink), 0);
}

static inline void end_run(struct alerts_fixture *f, bool said_bye)
{
    const struct result_common common = alerts_common_of(f);
    alerts_end(f->alerts, &common, said_bye, &f->sink);
}

/* With another bound of what is told of a window. */
static inline void set_limit(struct alerts_fixture *f, uint64_t per_window)
{
    alerts_free(&f->alerts);
    f->config.alerts_per_window = per_window;
    f->alerts = alerts_new(&f->config, "gpt");
}

/* Into fresh alerts by way of a checkpoint, whose bytes are the same when packed again. */
static inline void save_and_restore(struct alerts_fixture *f)
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

#define ENTROPY    "metric: entropy_normalized, "
#define OF_LAYER   "entropy_normalized of decoder.3.self"
#define OF_HEAD(h) OF_LAYER " head " #h " is "

#endif
