/* SPDX-License-Identifier: MIT */
/* Drift learns from windows that are closed for good, full, and newer than all before; any other
 * one is only compared. The rules judge closed windows of the primary track only: one that is shown
 * will come again. */
#include "daemon/run/closing.h"

#include "daemon/run/announce.h"
#include "daemon/run/checkpoint.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"

#include <inttypes.h>
#include <stdio.h>

/* One window on its way out. */
struct closing {
    struct run *run;
    struct track *track;
    struct result_window window;
    bool closed; /* for good; else it is shown while it is open */
    struct announcer announcer;
};

void closing_publish_job(struct run *run)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    run->dirty = false;
    mpk_writer_init(&writer);
    run_encode(run, &writer);
    topic_job("job", run->job, topic);
    run->sink->put(run->sink->data, run, topic, 0, &writer, RESULT_OTHER);
    mpk_writer_clear(&writer);
}

/* Drift */

/* Of a head, once it has learned, with the default metrics. */
#define DRIFT_TYPICAL 2560

/* NULL when baselines have used up their share of the memory, or there is none. */
static struct drift *closing_get_drift(struct closing *closing, struct stream *stream)
{
    struct run *run = closing->run;
    struct layer_track *layer = &stream->tracks[closing->track->index];
    struct drift_rule rule = run_drift_rule(run->config);
    if (layer->drift && drift_heads(layer->drift) != stream->heads) {
        drift_free(&layer->drift); /* what came back was of another model */
        run_charge_drift(run, layer);
    }
    if (layer->drift ||
        !state_budget_fits(&run->drift_budget, (uint64_t)stream->heads * DRIFT_TYPICAL)) {
        return layer->drift;
    }
    layer->drift = drift_new(&rule, stream->heads);
    if (layer->drift && run->sink->learning) {
        run->sink->learning(run->sink->data, run, stream, closing->track->index);
    }
    return layer->drift;
}

/* Without memory the summary has no drift. Its numbers are there until drift_result_clear. */
static void closing_compare(struct closing *closing, struct stream *stream,
                            const struct layer_state *state, struct summary_result *summary)
{
    struct layer_track *layer = &stream->tracks[closing->track->index];
    struct drift *drift = closing_get_drift(closing, stream);
    bool learn = drift && closing->closed && drift_may_learn(drift, &closing->window);
    if (!drift || drift_window(drift, state, closing->window.last, learn) != 0) {
        return;
    }
    if (learn) {
        layer->drift_unsaved = true;
        run_charge_drift(closing->run, layer);
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        summary->drift[m] = drift_result(drift, m);
    }
}

/* Layers */

static int closing_publish(struct closing *closing, const char *topic,
                           const struct summary_result *summary)
{
    struct run *run = closing->run;
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    summary_encode(summary, &writer);
    int code = mpk_writer_ok(&writer) ? 0 : ERR_MEMORY;
    if (!code) {
        run->sink->put(run->sink->data, run, topic, closing->track->index, &writer, RESULT_SUMMARY);
    }
    mpk_writer_clear(&writer);
    return code;
}

static int closing_judge_layer(struct closing *closing, const struct summary_result *summary)
{
    if (!closing->run->alerts || !closing->closed || closing->track->index > 0) {
        return 0;
    }
    struct alert_sink sink = announce_sink(&closing->announcer);
    return alerts_layer(closing->run->alerts, summary, &sink);
}

static int keep_window(struct closing *closing, const struct stream *stream,
                       const struct layer_state *state)
{
    struct mpk_writer writer;
    if (!closing->announcer.batch) {
        return 0;
    }
    mpk_writer_init(&writer);
    int code = layer_state_pack(state, &writer);
    struct store_window window = {
        .layer = stream->id,
        .heads = state->heads,
        .window = closing->window,
        .final = closing->closed,
        .epoch = state->epoch,
        .step = state->step,
        .time_ns = state->time_ns,
        .messages = state->messages,
        .lost = state->tally.lost,
        .state = writer.buffer.data,
        .state_size = writer.buffer.size,
    };
    if (!code) {
        code = batch_window(closing->announcer.batch, &window);
    }
    mpk_writer_clear(&writer);
    return code;
}

/* The map of the newest message that gave one, with closed windows of the primary track. */
static int closing_keep_map(struct closing *closing, const struct stream *stream,
                            const struct layer_state *state)
{
    const struct detail *detail = state->map;
    if (!detail || !closing->closed || closing->track->index > 0 || !closing->announcer.batch) {
        return 0;
    }
    struct store_map map = {
        .layer = stream->id,
        .window = closing->window,
        .epoch = detail->epoch,
        .step = detail->step,
        .time_ns = detail->time_ns,
        .queries = detail->map.queries,
        .keys = detail->map.keys,
        .rows = detail->map.rows,
        .columns = detail->map.columns,
        .values = detail->map.values,
    };
    return batch_map(closing->announcer.batch, &map);
}

static int close_state(struct closing *closing, struct stream *stream, const char *topic,
                       const struct layer_state *state)
{
    struct run *run = closing->run;
    struct summary_view view;
    int code = summary_view_init(&view, state, stream->id, run->job, run->id, &closing->window);
    if (code) {
        return code;
    }
    closing_compare(closing, stream, state, &view.result);
    code = closing_publish(closing, topic, &view.result);
    if (!code) {
        code = keep_window(closing, stream, state);
    }
    if (!code) {
        code = closing_keep_map(closing, stream, state);
    }
    if (!code) {
        code = closing_judge_layer(closing, &view.result);
    }
    if (stream->tracks[closing->track->index].drift) {
        drift_result_clear(stream->tracks[closing->track->index].drift);
    }
    summary_view_clear(&view);
    return code;
}

/* Returns whether the layer has something in this window. */
static bool close_layer(struct closing *closing, const struct part_list *list,
                        struct stream *stream)
{
    struct layer_state *merged = NULL;
    const struct layer_state *state = NULL;
    char topic[TOPIC_MAX];
    topic_layer("summary", closing->run->job, stream->id, topic);
    int code = track_merge(closing->track, list, stream, &state, &merged);
    if (!code && state) {
        code = close_state(closing, stream, topic, state);
    }
    layer_state_free(&merged);
    if (code) {
        log_event(LOG_ERROR, "summary_lost", LOG_STR("topic", topic),
                  LOG_STR("reason", err_slug(code)));
    }
    return state != NULL;
}

/* Windows */

static uint64_t total_dropped(const struct tally *tally)
{
    uint64_t dropped = tally->source;
    for (int i = 0; i < ERR_COUNT; i++) {
        dropped += tally->dropped[i];
    }
    return dropped;
}

static void closing_judge_run(struct closing *closing)
{
    struct run *run = closing->run;
    struct counts counts = run_counts(run);
    uint64_t lost = counts.tally.lost, judged = run->judged.tally.lost;
    struct alert_run said = {
        .common = announce_common(run),
        .processed = counts.processed - run->judged.processed,
        .lost = lost > judged ? lost - judged : 0, /* less when late messages came */
        .dropped = total_dropped(&counts.tally) - total_dropped(&run->judged.tally),
    };
    struct alert_sink sink = announce_sink(&closing->announcer);
    run->judged = counts;
    if (alerts_run(run->alerts, &said, &sink) != 0) {
        log_event(LOG_ERROR, "run_not_judged", LOG_STR("job", run->job));
    }
}

void closing_judge(struct run *run)
{
    struct closing closing = {.run = run, .announcer = {.run = run}};
    if (!run->alerts) {
        return;
    }
    closing.announcer.batch = checkpoint_begin(run);
    closing_judge_run(&closing);
    if (closing.announcer.batch && closing.announcer.events > 0) {
        store_submit(run->sink->store, &closing.announcer.batch);
    }
    batch_free(&closing.announcer.batch);
}

/* The window that ends with `last`, a summary per layer. Returns how many. */
static uint32_t publish_window(struct closing *closing, const struct window_part *last)
{
    struct run *run = closing->run;
    struct part_list list;
    uint32_t published = 0;
    closing->window = window_describe(&closing->track->window, last);
    track_parts(closing->track, last, &list);
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        published += close_layer(closing, &list, stream);
    }
    if (closing->closed && closing->track->index == 0 && run->alerts) {
        closing_judge_run(closing); /* also when all was lost */
    }
    if (published) {
        closing_publish_job(run);
    }
    log_event(LOG_DEBUG, "window_published", LOG_STR("job", run->job),
              LOG_STR("window", closing->track->name), LOG_NUM("last", closing->window.last),
              LOG_NUM("layers", published), LOG_NUM("partial", closing->window.partial));
    return published;
}

/* While it is open: its layers' checkpoints stay what they are. */
static uint32_t show_window(struct run *run, struct track *track, const struct window_part *last)
{
    struct closing closing = {
        .run = run, .track = track, .announcer = {.run = run, .batch = checkpoint_begin(run)}};
    uint32_t published = publish_window(&closing, last);
    if (closing.announcer.batch) {
        store_submit(run->sink->store, &closing.announcer.batch);
    }
    batch_free(&closing.announcer.batch);
    return published;
}

static uint32_t show_track(struct run *run, struct track *track)
{
    uint32_t published = 0;
    for (struct window_part *part = track->window.open; part; part = part->next) {
        if (window_due(&track->window, part)) {
            published += show_window(run, track, part);
        }
    }
    return published;
}

uint32_t closing_show(struct run *run)
{
    uint32_t published = 0;
    for (uint32_t t = 0; t < run->track_count; t++) {
        published += show_track(run, &run->tracks[t]);
    }
    return published;
}

void closing_show_quiet(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct track *track = &run->tracks[t];
        struct window_part *quiet;
        while ((quiet = window_quiet(&track->window, now_ns))) {
            show_window(run, track, window_boundary(&track->window, quiet));
        }
    }
}

/* Closing */

/* Parts that no later window needs, and their checkpoints. */
static void forget_parts(struct track *track, struct store_batch *batch)
{
    char prefix[CHECKPOINT_KEY_MAX];
    struct window_part *part;
    while ((part = window_forget(&track->window))) {
        snprintf(prefix, sizeof prefix, "part/%s/%" PRIu64 "/", track->name, part->index);
        if (batch && batch_forget(batch, prefix) != 0) {
            log_event(LOG_WARNING, "checkpoint_kept", LOG_STR("key", prefix));
        }
        track_free_part(part);
    }
}

static void close_part(struct run *run, struct track *track, const struct window_part *part,
                       uint64_t now_ns)
{
    struct closing closing = {.run = run,
                              .track = track,
                              .closed = true,
                              .announcer = {.run = run, .batch = checkpoint_begin(run)}};
    if (window_due(&track->window, part)) {
        publish_window(&closing, part);
    }
    crash_point("window_published");
    forget_parts(track, closing.announcer.batch);
    checkpoint_track(run, track, &closing.announcer.batch, now_ns);
    crash_point("window_submitted");
}

static void settle_track(struct run *run, struct track *track, uint64_t now_ns)
{
    struct window_part *part;
    while ((part = window_close_next(&track->window, now_ns))) {
        close_part(run, track, part, now_ns);
    }
}

static bool has_ended(const struct run *run)
{
    bool open = false;
    for (uint32_t t = 0; t < run->track_count; t++) {
        open = open || run->tracks[t].window.open;
    }
    return !open && !run->queue && window_all_bye(&run->tracks[0].window);
}

static void end_run(struct run *run)
{
    struct counts counts = run_counts(run);
    announce_end(run);
    run->state = JOB_ENDED;
    run_free_state(run);
    checkpoint_forget(run);
    closing_publish_job(run);
    log_event(LOG_INFO, "run_ended", LOG_STR("job", run->job),
              LOG_NUM("processed", counts.processed), LOG_NUM("lost", counts.tally.lost));
}

void closing_settle(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        settle_track(run, &run->tracks[t], now_ns);
    }
    if (run->state != JOB_ENDED && has_ended(run)) {
        end_run(run);
    }
}
