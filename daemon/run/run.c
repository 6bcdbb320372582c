/* SPDX-License-Identifier: MIT */
#include "daemon/run/run.h"

#include "daemon/base/clock.h"
#include "daemon/state/merged.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct run *run_new(const char *job, const uint8_t *id, const struct config_cut *cut,
                    const struct config *config, const struct result_sink *sink,
                    struct state_budget *budget, uint64_t now_ns)
{
    struct config_window windows[CONFIG_WINDOW_RULES_MAX];
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        return NULL;
    }
    memcpy(run->id, id, RUN_BYTES);
    strcpy(run->job, job);
    run->config = config;
    run->job_config = config_for_job(config, run->job);
    run->sink = sink;
    run->budget = (struct state_budget){.limit = budget->limit / RUN_SHARE, .parent = budget};
    run->drift_budget =
        (struct state_budget){.limit = run->budget.limit / 2, .parent = &run->budget};
    run->last_ns = run->alive_ns = now_ns;
    run->queue_last = &run->queue;
    run->track_count = config_windows_of(config, cut, windows);
    run->cut = *cut;
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_init(&run->tracks[t], config, t, windows[t], &run->budget, now_ns);
    }
    if (config->alerts_enabled) {
        run->alerts = alerts_new(config, run->job);
    }
    if (config->alerts_enabled) {
        run->captures = captures_new(config->window_timeout, &run->budget);
    }
    if (config->alerts_enabled && (!run->alerts || !run->captures)) {
        run_free(&run);
    } else if (run->captures) {
        alerts_want_extremes(run->alerts, run->captures);
    }
    return run;
}

void run_be_merged(struct run *run)
{
    run->merged = true;
    captures_free(&run->captures);
}

void run_cut(struct run *run, uint64_t capture_every)
{
    struct track *track = &run->tracks[0];
    bool begun = track->window.open || track->window.next_index > 0;
    if (run->config->window_unit == CONFIG_UNIT_AUTO && run->cut.own.length == 0 && !begun) {
        track_cut(track, run->config, config_window(run->config, 0, capture_every));
        run->cut.capture_every = capture_every;
    }
}

struct own_window run_own_window(const struct run *run)
{
    return (struct own_window){(enum window_unit)run->cut.own.unit, run->cut.own.length};
}

struct track *run_find_track(struct run *run, const struct config_window *window)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        const struct window_rule *rule = &run->tracks[t].window.rule;
        if ((int)rule->unit == (int)window->unit && rule->length == window->length &&
            rule->every == window->every) {
            return &run->tracks[t];
        }
    }
    return NULL;
}

void run_free_drift(struct run *run, struct layer_track *layer)
{
    drift_free(&layer->drift);
    run_charge_drift(run, layer);
}

void run_free_state(struct run *run)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_free_parts(&run->tracks[t]);
    }
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        for (uint32_t t = 0; t < run->track_count; t++) {
            run_free_drift(run, &stream->tracks[t]);
        }
        sketch_free(&stream->sketch);
    }
    if (run->captures) {
        captures_forget(run->captures);
    }
}

void run_free(struct run **run_p)
{
    struct run *run = *run_p;
    if (!run) {
        return;
    }
    run_free_state(run);
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_fini(&run->tracks[t]);
    }
    alerts_free(&run->alerts);
    captures_free(&run->captures);
    batch_free(&run->saving);
    batch_free(&run->closing.batch);
    merged_free(&run->closing.merged);
    state_budget_charge(&run->budget, 0, run->kept_bytes);
    stream_free_all(&run->streams, run->track_count);
    sequences_clear(&run->events);
    sequences_clear(&run->reliable_events);
    promises_free(&run->promises);
    drop_totals_clear(&run->drop_totals);
    costs_clear(&run->costs);
    free(run);
    *run_p = NULL;
}

/* Streams */

struct drift_rule run_drift_rule(const struct config *config)
{
    return (struct drift_rule){.windows = (uint32_t)config->drift_windows,
                               .tolerance = 0.5, /* Page-Hinkley, in stds of the baseline */
                               .threshold = 10,
                               .buckets = (uint32_t)config->window_buckets};
}

void run_charge_drift(struct run *run, struct layer_track *layer)
{
    uint64_t bytes = layer->drift ? drift_bytes(layer->drift) : 0;
    state_budget_charge(&run->drift_budget, bytes, layer->drift_bytes);
    layer->drift_bytes = bytes;
}

static uint64_t run_rank_bytes(const struct run *run)
{
    return run->track_count * sizeof(struct window_rank) + sizeof(struct drop_total) +
           sizeof(struct capture_cost);
}

uint64_t run_kept_bytes(const struct run *run)
{
    return HASH_COUNT(run->streams) * stream_bytes(run->track_count) +
           run->tracks[0].window.rank_count * run_rank_bytes(run) +
           run->sequence_count * SEQUENCE_BYTES;
}

void run_charge_kept(struct run *run)
{
    uint64_t bytes = run_kept_bytes(run);
    state_budget_charge(&run->budget, bytes, run->kept_bytes);
    run->kept_bytes = bytes;
}

bool run_fits_rank(const struct run *run)
{
    return state_budget_fits(&run->budget, run_rank_bytes(run));
}

int run_next_in_sequence(struct run *run, struct message *message)
{
    struct sequences *sequences = run_sequences(run, &message->header);
    uint32_t before = sequences->count;
    uint32_t more = sequences_count_with(sequences, message->rank_index) - before;
    if (more > 0 && !state_budget_fits(&run->budget, more * SEQUENCE_BYTES)) {
        return ERR_STATE_LIMIT;
    }
    int code = sequences_next(sequences, message->rank_index, message->header.seq,
                              message->header.dropped, &message->losses);
    run->sequence_count += sequences->count - before;
    run_charge_kept(run);
    return code;
}

void run_count_sequences(struct run *run)
{
    run->sequence_count = run->events.count + run->reliable_events.count;
    for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        run->sequence_count += stream->sequences.count + stream->reliable.count;
    }
    run_charge_kept(run);
}

int run_put_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
                   struct stream **ret_stream)
{
    struct stream *stream = stream_find(run->streams, id);
    if (!stream) {
        if (HASH_COUNT(run->streams) >= run->config->limits_layers) {
            return ERR_STREAM_LIMIT;
        }
        stream = stream_add(&run->streams, id, heads, run->track_count, now_ns);
        run->dirty = true;
        run_charge_kept(run);
    }
    *ret_stream = stream;
    return stream ? 0 : ERR_MEMORY;
}

int run_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
               struct stream **ret_stream)
{
    bool has_room = HASH_COUNT(run->streams) >= run->config->limits_layers ||
                    state_budget_fits(&run->budget, stream_bytes(run->track_count));
    if (!has_room && !stream_find(run->streams, id)) {
        return ERR_STATE_LIMIT;
    }
    return run_put_stream(run, id, heads, now_ns, ret_stream);
}

struct sequences *run_sequences(struct run *run, const struct header *header)
{
    if (header->type == MESSAGE_EVENT) {
        return header->reliable ? &run->reliable_events : &run->events;
    }
    struct stream *stream = stream_find(run->streams, header->layer);
    return !stream ? NULL : header->reliable ? &stream->reliable : &stream->sequences;
}

bool run_busy(const struct run *run)
{
    return run->queued > 0 || run->held > 0 || run->detached > 0 || run->waiting > 0 || run->lost ||
           run->ready || run->closer || run_closes(run);
}

void run_count_dropped(struct run *run, struct stream *stream, const struct message *message,
                       int code)
{
    for (const struct message *part = message; part; part = message_after(message, part)) {
        tally_drop(&stream->counts.tally, code);
        for (uint32_t t = 0; t < run->track_count && !part->losses.found; t++) {
            tally_drop(&stream->tracks[t].pending, code);
        }
    }
}

uint64_t run_time_ns(const struct run *run, uint64_t now_ns)
{
    now_ns = run->held_ns && run->held_ns < now_ns ? run->held_ns : now_ns;
    bool behind = run->queue && run->queue->received_ns < now_ns;
    return behind ? run->queue->received_ns : now_ns;
}

/* The state */

enum job_state run_shown(const struct run *run)
{
    bool over = run->state == JOB_ENDED;
    assert(run->state <= JOB_ENDED && !(over && run->no_news));
    if (run->failure.type[0] && (run->state != JOB_ACTIVE || run->no_news)) {
        return JOB_FAILED;
    }
    return run->no_news ? JOB_NO_NEWS : run->state;
}

void run_heard(struct run *run, bool alive, uint64_t now_ns)
{
    run->alive_ns = now_ns;
    run->last_ns = alive ? run->last_ns : now_ns;
    run->dirty = run->dirty || run->no_news;
    run->unsaved = run->unsaved || run->no_news;
    run->no_news = false;
}

void run_look_for_news(struct run *run, uint64_t now_ns)
{
    bool no_news = run->state != JOB_ENDED && !run->merged &&
                   clock_since_ns(run->alive_ns, now_ns) >= run->config->limits_no_news;
    if (no_news != run->no_news) {
        run->no_news = no_news;
        run->dirty = run->unsaved = true;
    }
}

static double run_silent_s(const struct run *run)
{
    return (double)clock_since_ns(run->alive_ns, clock_monotonic_ns()) / 1e9;
}

uint32_t run_state_keys(const struct run *run)
{
    enum job_state shown = run_shown(run);
    return 1U + (shown == JOB_NO_NEWS || shown == JOB_FAILED);
}

void run_put_state(const struct run *run, struct mpk_writer *writer)
{
    job_state_put(run_shown(run), run_silent_s(run), &run->failure, writer);
}

/* The job map */

struct counts run_counts(const struct run *run)
{
    struct counts counts = run->counts;
    for (const struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        counts_merge(&counts, &stream->counts);
    }
    return counts;
}

struct result_common run_common(const struct run *run)
{
    return (struct result_common){run->job, run->id, run->epoch, run->step, run->time_ns};
}

struct alert_result run_with_module(const struct run *run, const struct alert_result *event)
{
    const struct stream *stream = event->has_layer ? stream_find(run->streams, event->layer) : NULL;
    struct alert_result result = *event;
    result.module = stream ? stream->module : NULL;
    return result;
}

void run_encode(const struct run *run, struct mpk_writer *writer)
{
    struct reason_count dropped[TALLY_REASONS_MAX];
    struct counts counts = run_counts(run);
    struct layer_info *layers = calloc(HASH_COUNT(run->streams) + 1, sizeof *layers);
    uint32_t count = 0;
    if (!layers) {
        writer->failed = true;
        return;
    }
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        layers[count++] =
            (struct layer_info){.id = stream->id, .heads = stream->heads, .module = stream->module};
    }
    struct job_result result = {
        .common = run_common(run),
        .state = run_shown(run),
        .silent_s = run_silent_s(run),
        .failure = &run->failure,
        .heard_ns = run->last_ns + run->sink->wall_offset_ns,
        .world = run->tracks[0].window.world,
        .ranks = run->tracks[0].window.rank_count,
        .layers = layers,
        .layer_count = count,
        .received = counts.received + run->queued + run->held,
        .processed = counts.processed,
        .lost = counts.tally.lost,
        .dropped = dropped,
        .dropped_count = tally_reasons(&counts.tally, dropped),
    };
    job_encode(&result, writer);
    free(layers);
}

void run_put(struct run *run, const char *word, struct mpk_writer *writer, enum result_kind kind)
{
    char topic[TOPIC_MAX];
    topic_job(word, run->job, topic);
    run->sink->put(run->sink->data, run, topic, 0, writer, kind);
    mpk_writer_clear(writer);
}

void run_publish_log(struct run *run, const struct log_result *log)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    log_encode(log, &writer);
    run_put(run, "log", &writer, RESULT_OTHER);
}

void run_publish_job(struct run *run)
{
    struct mpk_writer writer;
    run->dirty = false;
    mpk_writer_init(&writer);
    run_encode(run, &writer);
    run_put(run, "job", &writer, RESULT_OTHER);
}
