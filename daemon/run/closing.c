/* SPDX-License-Identifier: MIT */
/* Drift learns from windows that are closed for good, full, and newer than all before; any other
 * one is only compared. The rules judge closed windows of the primary track only: one that is shown
 * will come again. One that is closed again, as there was no memory, is not judged once more.
 *
 * The layers of a window go out in two passes. All summaries come first: when one of them cannot be
 * kept the part opens again, and its checkpoints have to be those of before. The second pass saves
 * the layers. */
#include "daemon/run/closing.h"

#include "daemon/base/crash.h"
#include "daemon/base/log.h"
#include "daemon/run/assembly.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/forward.h"
#include "daemon/run/judging.h"
#include "daemon/run/sketches.h"

#include <string.h>

static void go_idle(struct run *run)
{
    struct closing closing = {.run = run};
    judging_rest(run);
    sketches_finish_all(run);
    run->state = JOB_IDLE;
    run->unsaved = true;
    closing.batch = checkpoint_begin(run);
    judging_end(&closing);
    judging_submit(&closing);
    forward_new_state(run);
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_free_parts(&run->tracks[t]);
    }
    checkpoint_forget_parts(run);
    run_publish_job(run);
    log_event(LOG_INFO, "run_idle", LOG_STR("job", run->job));
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
    if (!code && closing->closed && closing->part &&
        state == track_part_state(closing->part, stream)) {
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
static bool closing_put_layer(struct closing *closing, struct stream *stream)
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
        code = track_merge(closing->track, closing->part, stream, &state, &merged);
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
        judging_of_layer(closing, state, &view.result);
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

/* Returns 0, or ERR_MEMORY: there is a history, and no batch for it. */
static int closing_begin(struct closing *closing)
{
    closing->next = closing->run->streams;
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

/* There is no memory to keep what the part closes. */
static void put_off(const struct closing *closing, bool judged)
{
    log_event(LOG_WARNING, "window_put_off", LOG_STR("job", closing->run->job),
              LOG_STR("window", closing->track->name), LOG_NUM("part", closing->part->index),
              LOG_STR("reason", err_slug(closing->code)));
    window_reopen(&closing->track->window, judged, closing->now_ns);
}

/* All summaries of a part that closes are out. Returns whether the second pass may begin. */
static bool end_closed(struct closing *closing)
{
    crash_point("window_published");
    if (!closing->code || !closing->batch) {
        closing->code = forward_closed(closing->run, closing->track, closing->part, closing->batch);
    }
    if (closing->code) {
        closing_submit(closing);
        put_off(closing, true);
    }
    return !closing->code;
}

/* As above, of a window that a hub has merged. */
static bool end_merged(struct closing *closing)
{
    /* tried again, it is not judged again */
    window_pass(&closing->track->window, closing->merged->part);
    crash_point("merged_published");
    if (closing->code) {
        batch_free(&closing->batch);
        closing->code = closing->run->sink->store ? closing->code : 0;
        return false;
    }
    return true;
}

static void end_pass(struct closing *closing)
{
    struct run *run = closing->run;
    if (!closing->saves) {
        if (closing->due) {
            if (closing->closed && !closing->again && closing->track->index == 0 && run->alerts) {
                judging_of_run(closing); /* also when all was lost */
            }
            if (closing->published) {
                run_publish_job(run);
            }
            log_event(LOG_DEBUG, "window_published", LOG_STR("job", run->job),
                      LOG_STR("window", closing->track->name),
                      LOG_NUM("last", closing->window.last), LOG_NUM("layers", closing->published),
                      LOG_NUM("partial", closing->window.partial));
        }
        if (!closing->closed) {
            closing_submit(closing);
        }
        closing->saves =
            closing->closed && (closing->merged ? end_merged(closing) : end_closed(closing));
        closing->next = closing->saves && closing->batch ? run->streams : NULL;
        closing->through = !closing->saves;
        return;
    }
    closing->through = true;
    closing->code =
        checkpoint_track(run, closing->track, &closing->batch, closing->code, closing->now_ns);
    if (closing->merged) {
        return;
    }
    if (closing->code) {
        put_off(closing, true);
    } else {
        forward_done(run, closing->track);
        /* Parts that no later window needs. */
        struct window_part *part;
        while ((part = window_forget(&closing->track->window))) {
            track_free_part(part);
        }
    }
    crash_point("window_submitted");
}

/* One layer, or the end of a pass. */
static void closing_step(struct closing *closing)
{
    struct stream *stream = closing->next;
    if (!stream || (closing->saves && closing->code)) {
        end_pass(closing);
        return;
    }
    closing->next = stream->hh.next;
    if (closing->saves) {
        closing->code = checkpoint_layer(closing->run, closing->track, stream, closing->batch);
    } else {
        if (closing->closed && !closing->merged && closing->track->index == 0) {
            sketches_close(closing->run, stream, closing->part);
        }
        /* The first pass: a layer's summary, and the part that closes for the hubs of a node. */
        if (closing->due) {
            closing->published += closing_put_layer(closing, stream);
        }
        if (closing->closed && !closing->merged && !closing->code) {
            closing->code =
                forward_layer(closing->run, closing->track, closing->part, stream, closing->batch);
        }
    }
}

/* The windows of a run, one at a time */

/* While it is open: its layers' checkpoints stay what they are. */
static void begin_show(struct run *run, struct track *track, const struct window_part *last)
{
    run->closing = (struct closing){.run = run,
                                    .track = track,
                                    .part = last,
                                    .due = true,
                                    .window = window_describe(&track->window, last)};
    closing_begin(&run->closing);
}

/* The next open window that a show of all has not had yet. */
static bool show_next(struct run *run)
{
    for (; run->show_track < run->track_count; run->show_track++, run->show_from = 0) {
        struct track *track = &run->tracks[run->show_track];
        for (struct window_part *part = track->window.open; part; part = part->next) {
            if (part->index >= run->show_from && window_due(&track->window, part)) {
                run->show_from = part->index + 1;
                begin_show(run, track, part);
                return true;
            }
        }
    }
    return false;
}

static bool close_next(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct window_part *part;
        while (!run_closes(run) && (part = window_close_next(&run->tracks[t].window, now_ns))) {
            struct track *track = &run->tracks[t];
            struct closing closing = {.run = run,
                                      .track = track,
                                      .part = part,
                                      .due = window_due(&track->window, part),
                                      .closed = true,
                                      .again = part->judged,
                                      .window = window_describe(&track->window, part),
                                      .now_ns = now_ns};
            forward_begin(run, track);
            if (closing_begin(&closing) != 0) {
                put_off(&closing, false);
                continue;
            }
            run->closing = closing;
        }
    }
    return run_closes(run);
}

static void closing_end(struct closing *closing)
{
    struct run *run = closing->run;
    struct merged *merged = closing->merged;
    if (!closing->closed && closing->code && run->sink->store) {
        run->show_code = closing->code;
    }
    closing->track = NULL;
    closing->merged = NULL;
    if (merged) {
        run->sink->merged(run->sink->data, run, merged, closing->code);
    }
}

/* Goes on with the window on its way. Returns whether it is through. */
static bool closing_work(struct run *run)
{
    const struct result_sink *sink = run->sink;
    struct closing *closing = &run->closing;
    while (run_closes(run) && !(sink->pause && sink->pause(sink->data, run))) {
        closing_step(closing);
        if (closing->through) {
            closing_end(closing);
        }
    }
    return !run_closes(run);
}

/* Shows what is to be shown. Returns whether that is through. */
static bool show_all(struct run *run)
{
    while (closing_work(run)) {
        if (!run->shows) {
            return true;
        }
        if (!show_next(run)) {
            bool goes_idle = run->goes_idle && !run->show_code;
            run->shows = run->goes_idle = false;
            if (goes_idle) {
                go_idle(run);
            }
        }
    }
    return false;
}

void closing_show(struct run *run)
{
    run->shows = true;
    run->show_track = 0;
    run->show_from = 0;
    run->show_code = 0;
    show_all(run);
}

int closing_go_idle(struct run *run)
{
    run->goes_idle = true;
    closing_show(run);
    return run->shows ? ERR_AGAIN : run->show_code;
}

void closing_show_quiet(struct run *run, uint64_t now_ns)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        const struct window_part *quiet;
        while (!run_closes(run) && (quiet = window_quiet(&run->tracks[t].window, now_ns))) {
            begin_show(run, &run->tracks[t], quiet);
            closing_work(run);
        }
    }
}

/* The layers of a window that a hub has merged are the run's. Returns 0, or why not. */
static int put_merged_layers(struct closing *closing)
{
    struct run *run = closing->run;
    for (uint32_t i = 0; i < closing->merged->layer_count; i++) {
        const struct merged_layer *layer = &closing->merged->layers[i];
        struct stream *stream;
        int code = run_put_stream(run, layer->id, layer->state->heads, closing->now_ns, &stream);
        if (code == ERR_STREAM_LIMIT) { /* as on a node, the others go on */
            log_event(LOG_WARNING, "merged_layer_left_out", LOG_STR("job", run->job),
                      LOG_NUM("layer", layer->id.layer), LOG_STR("reason", err_slug(code)));
            closing->window.partial = true;
            continue;
        }
        if (code) {
            return code;
        }
        stream_set_heads(stream, layer->state->heads);
        stream->measured = stream->tracks[closing->track->index].unsaved = true;
        stream->last_ns = closing->now_ns;
        if (layer->module) {
            stream_set_module(stream, layer->module, strlen(layer->module));
        }
    }
    return 0;
}

int closing_merged(struct run *run, struct track *track, struct merged *merged, uint64_t now_ns)
{
    struct closing closing = {.run = run,
                              .track = track,
                              .due = true,
                              .closed = true,
                              .again = merged->part < track->window.next_index,
                              .merged = merged,
                              .window = window_ending_with(&track->window, merged->part),
                              .now_ns = now_ns};
    closing.window.partial = closing.window.partial || merged->partial;
    int code = put_merged_layers(&closing);
    code = code ? code : closing_begin(&closing);
    if (!code) {
        run->closing = closing;
        closing_work(run);
    }
    return code;
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
    judging_rest(run);
    sketches_finish_all(run);
    run->state = JOB_ENDED;
    closing.batch = checkpoint_begin(run);
    judging_end(&closing);
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
    while (show_all(run) && now_ns && close_next(run, now_ns)) {
    }
    if (run_closes(run)) { /* the rest comes behind it */
        run->closing.now_ns = now_ns > run->closing.now_ns ? now_ns : run->closing.now_ns;
    } else if (now_ns && run->state != JOB_ENDED && has_ended(run)) {
        assembly_give_up(run, UINT64_MAX);
        end_run(run, now_ns);
    }
}

void closing_go_on(struct run *run)
{
    closing_settle(run, run->closing.now_ns);
}
