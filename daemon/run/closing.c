/* SPDX-License-Identifier: MIT */
/* Drift learns from windows that are closed for good, full, and newer than all before; any other
 * one is only compared. The rules judge closed windows of the primary track only: one that is shown
 * will come again. One that is closed again, as there was no memory, is not judged once more. */
#include "daemon/run/closing.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"
#include "daemon/run/assembly.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/forward.h"
#include "daemon/state/odd_ranks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Captures after which a metric that has not come is not only late. */
#define CAPTURES_JUDGED 16

/* One window on its way out; or the alerts of a run, without a window. */
struct closing {
    struct run *run;
    struct track *track;
    struct result_window window;
    const struct window_part *part; /* the one that closes */
    bool closed;                    /* for good; else it is shown while it is open */
    bool again;                     /* it was judged before */
    const struct merged *merged;    /* the window of a fleet; NULL: that of the track */
    int code;                       /* what there was no memory for is not in the batch */
    struct store_batch *batch;      /* what goes to the history; NULL: nothing is kept */
    uint32_t events;                /* of alerts */
};

/* Alerts */

/* Handles an event that alerts.h finds: it is published on alert/<job>/, passed on to a command or
 * a webhook, kept in the history, counted and logged. */
static void closing_on_event(void *data, const struct alert_result *found)
{
    struct closing *closing = data;
    struct run *run = closing->run;
    const struct alert_result with_module = run_with_module(run, found), *event = &with_module;
    bool calm = event->state != ALERT_FIRING || event->severity == ALERT_INFO;
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    alert_encode(event, &writer);
    topic_job("alert", run->job, topic);
    run->sink->put(run->sink->data, run, topic, 0, &writer, RESULT_ALERT);
    mpk_writer_clear(&writer);
    if (closing->batch && batch_alert(closing->batch, event) != 0) {
        log_event(LOG_ERROR, "alert_not_kept", LOG_STR("rule", event->rule));
    }
    stats_add(run->sink->stats, COUNT_ALERTS, 1);
    closing->events++;
    log_event(calm ? LOG_INFO : LOG_WARNING, "alert", LOG_STR("job", run->job),
              LOG_STR("rule", event->rule), LOG_STR("state", alert_state_name(event->state)),
              LOG_STR("severity", alert_severity_name(event->severity)),
              LOG_STR("message", event->message));
}

static void closing_on_overflow(void *data, uint32_t events)
{
    struct run *run = ((struct closing *)data)->run;
    stats_add(run->sink->stats, COUNT_ALERTS_DROPPED, events);
    log_event(LOG_WARNING, "alerts_dropped", LOG_STR("job", run->job), LOG_NUM("count", events));
}

static struct alert_sink closing_alert_sink(struct closing *closing)
{
    return (struct alert_sink){closing_on_event, closing_on_overflow, closing};
}

/* Leaves out what came again on the reliable lane, which is nobody's loss. */
static uint64_t closing_dropped(const struct counts *counts)
{
    const struct tally *tally = &counts->tally;
    uint64_t dropped = tally->source;
    for (int i = 0; i < ERR_COUNT; i++) {
        dropped += tally->dropped[i];
    }
    return dropped - tally->dropped[err_index(ERR_REPEATED)];
}

/* A rule that is not attnd's own. That one has no baseline yet is no news. */
static void closing_on_unjudged(void *data, const struct rule *rule)
{
    const struct run *run = data;
    const char *metric = rule_metric_name(rule->metric);
    const char *needs = rule_needs(rule->name, metric);
    if (!rule_why(rule->name, metric) && rule->statistic < RULE_DELTA) {
        log_event(LOG_WARNING, "rule_not_measured", LOG_STR("job", run->job),
                  LOG_STR("rule", rule->name), LOG_STR("metric", metric),
                  LOG_STR("layer", rule->layer),
                  LOG_STR("reason", needs ? needs : "no layer that matches has sent the metric"));
    }
}

/* The log names once the rules that had nothing to judge: after CAPTURES_JUDGED captures, or when
 * the run is over. */
static void closing_tell_unjudged(struct run *run)
{
    if (run->told_unjudged) {
        return;
    }
    uint64_t most = 0, epoch, step, ranks = run->tracks[0].window.rank_count;
    for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        most = stream->counts.processed > most ? stream->counts.processed : most;
    }
    if (alerts_judged_to(run->alerts, &epoch, &step) &&
        (run->state == JOB_ENDED || most >= CAPTURES_JUDGED * ranks)) {
        run->told_unjudged = true;
        alerts_unjudged(run->alerts, closing_on_unjudged, run);
    }
}

static void closing_judge_run(struct closing *closing)
{
    struct run *run = closing->run;
    struct counts counts = run_counts(run);
    uint64_t lost = counts.tally.lost, judged = run->judged.tally.lost;
    struct alert_run said = {
        .common = run_common(run),
        .processed = counts.processed - run->judged.processed,
        .lost = lost > judged ? lost - judged : 0, /* less when late messages came */
        .dropped = closing_dropped(&counts) - closing_dropped(&run->judged),
    };
    struct alert_sink sink = closing_alert_sink(closing);
    run->alerts_unsaved = true;
    run->judged = counts;
    if (alerts_run(run->alerts, &said, &sink) != 0) {
        log_event(LOG_ERROR, "run_not_judged", LOG_STR("job", run->job));
    }
    closing_tell_unjudged(run);
}

/* Outside of a closing window events make a batch of their own. */
static void closing_submit_events(struct closing *closing)
{
    if (closing->batch && closing->events > 0) {
        store_submit(closing->run->sink->store, &closing->batch);
    }
    batch_free(&closing->batch);
}

void closing_judge(struct run *run)
{
    struct closing closing = {.run = run};
    if (!run->alerts) {
        return;
    }
    closing.batch = checkpoint_begin(run);
    closing_judge_run(&closing);
    closing_submit_events(&closing);
}

void closing_judge_silence(struct run *run, uint64_t now_ns)
{
    struct closing closing = {.run = run};
    struct alert_sink sink = closing_alert_sink(&closing);
    struct result_common common = run_common(run);
    double silent_s = (double)clock_since_ns(run->last_ns, now_ns) / 1e9;
    if (!run->alerts || run->state == JOB_ENDED) {
        return;
    }
    closing.batch = checkpoint_begin(run);
    alerts_silence(run->alerts, &common, silent_s, &sink);
    run->alerts_unsaved = run->alerts_unsaved || closing.events > 0;
    run->unsaved = run->unsaved || closing.events > 0;
    closing_submit_events(&closing);
}

/* All that fires now fired at the end, or before the run went idle. */
static void closing_end_alerts(struct closing *closing)
{
    struct run *run = closing->run;
    struct alert_sink sink = closing_alert_sink(closing);
    struct result_common common = run_common(run);
    run->alerts_unsaved = true;
    if (run->alerts) {
        alerts_end(run->alerts, &common, run->state == JOB_ENDED, &sink);
        closing_tell_unjudged(run);
    }
}

int closing_go_idle(struct run *run)
{
    struct closing closing = {.run = run};
    int code = closing_show(run);
    if (code) {
        return code;
    }
    run->state = JOB_IDLE;
    run->unsaved = true;
    closing.batch = checkpoint_begin(run);
    closing_end_alerts(&closing);
    closing_submit_events(&closing);
    forward_new_state(run);
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_free_parts(&run->tracks[t]);
    }
    checkpoint_forget_parts(run);
    return 0;
}

/* Drift */

/* The typical size of a head's drift once it has learned, with the default metrics. */
#define DRIFT_TYPICAL 2560

/* Adds the drift to the summary, while the layer learns or after; without it when baselines have
 * used up their share of the memory, or there is none. Its numbers are there until
 * drift_result_clear. */
static void closing_compare(struct closing *closing, struct stream *stream,
                            const struct layer_state *state, struct summary_result *summary)
{
    struct run *run = closing->run;
    struct layer_track *layer = &stream->tracks[closing->track->index];
    if (layer->drift && drift_heads(layer->drift) != stream->heads) {
        run_free_drift(run, layer); /* what came back was of another model */
    }
    if (!layer->drift && run->state != JOB_ENDED && /* of which a window may be corrected */
        state_budget_fits(&run->drift_budget, (uint64_t)stream->heads * DRIFT_TYPICAL)) {
        struct drift_rule rule = run_drift_rule(run->config);
        layer->drift = drift_new(&rule, stream->heads);
        if (layer->drift && run->sink->learning) {
            run->sink->learning(run->sink->data, run, stream, closing->track->index);
        }
    }
    bool learn = layer->drift && closing->closed && drift_may_learn(layer->drift, &closing->window);
    if (!layer->drift || drift_window(layer->drift, state, closing->window.last, learn) != 0) {
        return;
    }
    if (learn) {
        layer->drift_unsaved = true;
        run_charge_drift(run, layer);
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        summary->drift[m] = drift_result(layer->drift, m);
    }
}

/* Layers */

/* The record of a layer's window in the history: its state and, with closed windows of the primary
 * track, the map of the newest message that gave one. */
static int closing_keep(struct closing *closing, struct stream *stream,
                        const struct layer_state *state)
{
    const struct detail *detail = state->map;
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    int code = layer_state_pack(state, &writer);
    struct store_window window = {
        .layer = stream->id,
        .module = stream->module,
        .heads = state->heads,
        .window = closing->window,
        .final = closing->closed,
        .lacks = closing->merged && closing->merged->missing_count > 0,
        .epoch = state->epoch,
        .step = state->step,
        .time_ns = state->time_ns,
        .messages = state->messages,
        .lost = state->tally.lost,
        .state = writer.buffer.data,
        .state_size = writer.buffer.size,
    };
    if (!code) {
        code = batch_window(closing->batch, &window);
    }
    if (!code && closing->part && state == track_part_state(closing->part, stream)) {
        code = forward_packed(closing->run, closing->track, closing->part, stream,
                              writer.buffer.data, writer.buffer.size, closing->batch);
    }
    mpk_writer_clear(&writer);
    if (code || !detail || !closing->closed || closing->track->index > 0) {
        return code;
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
    if (detail->small) {
        map.of_heads = (struct store_head_maps){.heads = detail->small->heads,
                                                .queries = detail->small->queries,
                                                .keys = detail->small->keys,
                                                .rows = detail->small->rows,
                                                .columns = detail->small->columns,
                                                .values = detail->small->values};
    }
    return batch_map(closing->batch, &map);
}

static int closing_compare_ranks(const struct layer_state *state, struct summary_result *summary)
{
    struct rank_entropy entropy = {.count = 0};
    int code = layer_state_ranks_entropy(state, state->heads, &entropy);
    if (!code) {
        code =
            odd_ranks_farthest(&entropy, state->heads, &summary->rank_distance, &summary->odd_rank);
    }
    rank_entropy_clear(&entropy);
    return code;
}

/* Lets the rules judge a closed window of the primary track. A failure costs the judgement, not the
 * summary. */
static void closing_judge_layer(struct closing *closing, const struct layer_state *state,
                                struct summary_result *summary)
{
    struct run *run = closing->run;
    struct alert_sink sink = closing_alert_sink(closing);
    if (!run->alerts || closing->track->index > 0 || !closing->closed || closing->again) {
        return;
    }
    run->alerts_unsaved = true;
    int code = closing_compare_ranks(state, summary);
    if (!code) {
        code = alerts_layer(run->alerts, summary, &sink);
    }
    if (code) {
        log_event(LOG_ERROR, "layer_not_judged", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(code)));
    }
}

static const struct layer_state *closing_find_merged(const struct merged *merged,
                                                     struct layer_id id)
{
    for (uint32_t i = 0; i < merged->layer_count; i++) {
        if (header_layer_key(merged->layers[i].id) == header_layer_key(id)) {
            return merged->layers[i].state;
        }
    }
    return NULL;
}

/* Whether a newer window of the track has been shown. */
static bool closing_is_passed(const struct closing *closing)
{
    const struct window_rule *rule = &closing->track->window.rule;
    return closing->merged &&
           closing->merged->part + rule->every / rule->part < closing->track->window.next_index;
}

/* A layer's summary goes out: to the rules, then to subscribers, and to the history. Returns
 * whether the layer has something in this window. */
static bool closing_put_layer(struct closing *closing, const struct part_list *list,
                              struct stream *stream)
{
    struct run *run = closing->run;
    struct drift **drift = &stream->tracks[closing->track->index].drift;
    struct layer_state *merged = NULL;
    const struct layer_state *state = NULL;
    struct summary_view view = {.stats = NULL};
    struct mpk_writer writer;
    char topic[TOPIC_MAX];
    topic_layer("summary", run->job, stream->id, topic);
    int code = 0;
    if (closing->merged) {
        state = closing_find_merged(closing->merged, stream->id);
    } else {
        code = track_merge(closing->track, list, stream, &state, &merged);
    }
    if (!code && !state) {
        return false;
    }
    mpk_writer_init(&writer);
    if (!code) {
        code = summary_view_init(&view, state, stream->id, run->job, run->id, &closing->window);
    }
    if (!code) {
        view.result.layer.module = stream->module;
        view.result.track = closing->track->index;
        if (closing->merged) {
            view.result.revision = closing->merged->revision;
            view.result.nodes = closing->merged->nodes;
            view.result.missing = closing->merged->missing;
            view.result.missing_count = closing->merged->missing_count;
        }
        closing_compare(closing, stream, state, &view.result);
        closing_judge_layer(closing, state, &view.result);
        summary_encode(&view.result, &writer);
        code = mpk_writer_ok(&writer) ? 0 : ERR_MEMORY;
    }
    if (!code) {
        run->sink->put(run->sink->data, run, topic, closing->track->index, &writer,
                       closing_is_passed(closing) ? RESULT_CORRECTION : RESULT_SUMMARY);
    }
    if (!code && closing->batch) {
        code = closing_keep(closing, stream, state);
    }
    if (*drift) {
        drift_result_clear(*drift);
    }
    summary_view_clear(&view);
    mpk_writer_clear(&writer);
    layer_state_free(&merged);
    if (code) {
        log_event(LOG_ERROR, "summary_lost", LOG_STR("topic", topic),
                  LOG_STR("reason", err_slug(code)));
        closing->code = code;
    }
    return state != NULL;
}

/* Windows */

/* A summary per layer; `list`: the parts of the window, unless it is merged. */
static void publish_layers(struct closing *closing, const struct part_list *list)
{
    struct run *run = closing->run;
    uint32_t published = 0;
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        published += closing_put_layer(closing, list, stream);
    }
    if (closing->closed && !closing->again && closing->track->index == 0 && run->alerts) {
        closing_judge_run(closing); /* also when all was lost */
    }
    if (published) {
        run_publish_job(run);
    }
    log_event(LOG_DEBUG, "window_published", LOG_STR("job", run->job),
              LOG_STR("window", closing->track->name), LOG_NUM("last", closing->window.last),
              LOG_NUM("layers", published), LOG_NUM("partial", closing->window.partial));
}

/* The window that ends with `last`. */
static void publish_window(struct closing *closing, const struct window_part *last)
{
    struct part_list list;
    closing->window = window_describe(&closing->track->window, last);
    track_parts(closing->track, last, &list);
    publish_layers(closing, &list);
}

/* Returns 0, or ERR_MEMORY: there is a history, and no batch for it. */
static int closing_begin(struct closing *closing)
{
    closing->batch = checkpoint_begin(closing->run);
    closing->code = closing->batch || !closing->run->sink->store ? 0 : ERR_MEMORY;
    return closing->code;
}

/* Submits as much of the window as could be made. */
static void closing_submit(struct closing *closing)
{
    if (closing->batch) {
        store_submit(closing->run->sink->store, &closing->batch);
    }
    batch_free(&closing->batch);
}

/* While it is open: its layers' checkpoints stay what they are. */
static int show_window(struct run *run, struct track *track, const struct window_part *last)
{
    struct closing closing = {.run = run, .track = track};
    closing_begin(&closing);
    publish_window(&closing, last);
    closing_submit(&closing);
    return run->sink->store ? closing.code : 0;
}

int closing_show(struct run *run)
{
    int code = 0;
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct track *track = &run->tracks[t];
        for (struct window_part *part = track->window.open; part; part = part->next) {
            int shown = window_due(&track->window, part) ? show_window(run, track, part) : 0;
            code = code ? code : shown;
        }
    }
    return code;
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

/* Parts that no later window needs. */
static void forget_parts(struct track *track)
{
    struct window_part *part;
    while ((part = window_forget(&track->window))) {
        track_free_part(part);
    }
}

/* There is no memory to keep what the part closes. */
static void put_off(struct closing *closing, const struct window_part *part, bool judged,
                    uint64_t now_ns)
{
    log_event(LOG_WARNING, "window_put_off", LOG_STR("job", closing->run->job),
              LOG_STR("window", closing->track->name), LOG_NUM("part", part->index),
              LOG_STR("reason", err_slug(closing->code)));
    window_reopen(&closing->track->window, judged, now_ns);
}

static void close_part(struct run *run, struct track *track, const struct window_part *part,
                       uint64_t now_ns)
{
    struct closing closing = {
        .run = run, .track = track, .part = part, .closed = true, .again = part->judged};
    forward_begin(run, track);
    if (closing_begin(&closing) != 0) {
        put_off(&closing, part, false, now_ns);
        return;
    }
    if (window_due(&track->window, part)) {
        publish_window(&closing, part);
    }
    crash_point("window_published");
    if (closing.code && closing.batch) {
        closing_submit(&closing);
        put_off(&closing, part, true, now_ns);
        return;
    }
    closing.code = forward_closed(run, track, part, closing.batch);
    if (closing.code) {
        closing_submit(&closing);
    } else {
        closing.code = checkpoint_track(run, track, &closing.batch, now_ns);
    }
    if (closing.code) {
        put_off(&closing, part, true, now_ns);
    } else {
        forward_done(run, track);
        forget_parts(track);
    }
    crash_point("window_submitted");
}

int closing_merged(struct run *run, struct track *track, const struct merged *merged,
                   uint64_t now_ns)
{
    struct closing closing = {.run = run,
                              .track = track,
                              .closed = true,
                              .again = merged->part < track->window.next_index,
                              .merged = merged};
    if (closing_begin(&closing) != 0) {
        return closing.code;
    }
    closing.window = window_ending_with(&track->window, merged->part);
    closing.window.partial = closing.window.partial || merged->partial;
    for (uint32_t i = 0; i < merged->layer_count && !closing.code; i++) {
        const struct merged_layer *layer = &merged->layers[i];
        struct stream *stream;
        closing.code = run_put_stream(run, layer->id, layer->state->heads, now_ns, &stream);
        if (closing.code == ERR_STREAM_LIMIT) { /* as on a node, the others go on */
            log_event(LOG_WARNING, "merged_layer_left_out", LOG_STR("job", run->job),
                      LOG_NUM("layer", layer->id.layer), LOG_STR("reason", err_slug(closing.code)));
            closing.window.partial = true;
            closing.code = 0;
            continue;
        }
        if (closing.code) {
            break;
        }
        stream->heads = layer->state->heads;
        stream->measured = stream->tracks[track->index].unsaved = true;
        stream->last_ns = now_ns;
        if (layer->module) {
            stream_set_module(stream, layer->module, strlen(layer->module));
        }
    }
    if (!closing.code) {
        publish_layers(&closing, NULL);
        window_pass(&track->window, merged->part); /* tried again, it is not judged again */
    }
    crash_point("merged_published");
    if (closing.code) {
        batch_free(&closing.batch);
        return run->sink->store ? closing.code : 0;
    }
    return checkpoint_track(run, track, &closing.batch, now_ns);
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
    return !open && !run->queue && !run->held && window_all_bye(&run->tracks[0].window);
}

/* The alerts and what stays of the run are one batch: a kill leaves all of the end, or none. */
static void end_run(struct run *run, uint64_t now_ns)
{
    struct closing closing = {.run = run};
    struct counts counts = run_counts(run);
    run->state = JOB_ENDED;
    closing.batch = checkpoint_begin(run);
    closing_end_alerts(&closing);
    if (forward_state(run, closing.batch) != 0) {
        log_event(LOG_ERROR, "state_not_sent", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(ERR_MEMORY)));
    }
    checkpoint_ended(run, &closing.batch, now_ns);
    run_free_state(run);
    run_publish_job(run);
    /* It goes on with whatever comes, and who may publish can let it end at each message. */
    if (log_is_round(run->ends++)) {
        log_event(LOG_INFO, "run_ended", LOG_STR("job", run->job),
                  LOG_NUM("processed", counts.processed), LOG_NUM("lost", counts.tally.lost),
                  LOG_NUM("count", run->ends));
    }
}

void closing_settle(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        settle_track(run, &run->tracks[t], now_ns);
    }
    if (run->state != JOB_ENDED && has_ended(run)) {
        assembly_give_up_all(run);
        end_run(run, now_ns);
    }
}
