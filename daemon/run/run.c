/* SPDX-License-Identifier: MIT */
/* The story of a message here: run_queue gives it its place and foresees whether it will be
 * refused, which saves the work; it is computed, or not; run_take takes it when all before it are
 * taken. Only then its sequence is checked, its rank's position moves, and its numbers are added.
 *
 * So the run is at any moment what the messages taken so far make of it, whichever worker was
 * faster: the same recording gives the same summaries, a part never closes over a message that came
 * in time, and a checkpoint between two messages is consistent without waiting for anything. The
 * price is that a message that takes long holds up the windows of its run, while the tensors of
 * later ones are freed and their `live` values are out already.
 *
 * What was lost or refused waits in `pending` for the layer's next message, and is counted in that
 * one's window: a refused message itself may belong to a window that is long closed. */
#include "daemon/run/run.h"

#include "daemon/run/announce.h"
#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/live.h"
#include "daemon/base/log.h"
#include "daemon/run/events.h"

#include <stdlib.h>
#include <string.h>

/* A layer whose steps are never those that maps are made of gets them after so many maps.every. */
#define MAPS_PATIENCE 4

/* One run may use this part of limits.state_memory, so that it cannot take it all. */
#define RUN_SHARE 4

struct run *run_new(const char *job, const uint8_t *id, const struct config *config,
                    const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        return NULL;
    }
    memcpy(run->id, id, RUN_BYTES);
    strcpy(run->job, job);
    run->config = config;
    config_for_job(config, run->job, &run->job_config);
    run->sink = sink;
    run->budget = (struct state_budget){.limit = budget->limit / RUN_SHARE, .parent = budget};
    run->drift_budget =
        (struct state_budget){.limit = run->budget.limit / 2, .parent = &run->budget};
    run->last_ns = now_ns;
    run->queue_last = &run->queue;
    run->track_count = track_count(config);
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_init(&run->tracks[t], config, t, &run->budget, now_ns);
    }
    if (config->alerts_enabled) {
        run->alerts = alerts_new(config, run->job);
    }
    if (config->alerts_enabled && !run->alerts) {
        run_free(&run);
    }
    return run;
}

static void free_drift(struct run *run, struct layer_track *layer)
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
            free_drift(run, &stream->tracks[t]);
        }
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
    batch_free(&run->saving);
    stream_free_all(&run->streams, run->track_count);
    sequences_clear(&run->events);
    drop_totals_clear(&run->drop_totals);
    free(run);
    *run_p = NULL;
}

/* Streams */

struct drift_rule run_drift_rule(const struct config *config)
{
    return (struct drift_rule){.windows = (uint32_t)config->drift_windows,
                               .tolerance = config->drift_change_tolerance,
                               .threshold = config->drift_change_threshold,
                               .buckets = (uint32_t)config->window_buckets};
}

void run_charge_drift(struct run *run, struct layer_track *layer)
{
    uint64_t bytes = layer->drift ? drift_bytes(layer->drift) : 0;
    state_budget_charge(&run->drift_budget, bytes, layer->drift_bytes);
    layer->drift_bytes = bytes;
}

int run_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
               struct stream **ret_stream)
{
    struct stream *stream = stream_find(run->streams, id);
    if (!stream) {
        if (HASH_COUNT(run->streams) >= run->config->limits_layers) {
            return ERR_STREAM_LIMIT;
        }
        stream = stream_add(&run->streams, id, heads, run->track_count, now_ns);
        run->dirty = true;
    }
    *ret_stream = stream;
    return stream ? 0 : ERR_MEMORY;
}

uint32_t run_spectrum_turn(const struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    return stream_spectrum_turn(stream_find(run->streams, header->layer), header->head_offset);
}

/* What a tensor message says about the heads counts, and must not change; a hello only announces.
 */
static int settle_heads(struct run *run, struct stream *stream, uint32_t heads)
{
    if (stream->measured && stream->heads != heads) {
        return ERR_HEADS_CHANGED;
    }
    if (stream->heads != heads) {
        run->dirty = true;
        free(stream->spectrum_next); /* was of another number of heads */
        stream->spectrum_next = NULL;
    }
    stream->heads = heads;
    stream->measured = true;
    return 0;
}

/* The queue */

/* Windows of seconds go by when a message was received. */
static uint64_t unit_in(const struct track *track, const struct message *message)
{
    return window_unit_of(&track->window, message->header.epoch, message->header.step,
                          message->received_ns);
}

static bool late_for_all(const struct run *run, const struct message *message)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        if (!window_is_late(&run->tracks[t].window, unit_in(&run->tracks[t], message))) {
            return false;
        }
    }
    return true;
}

/* Whether taking it will refuse it, as far as that can be told already; 0, or the reason. Only
 * memory may be there again by then. */
static int foresee(const struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    const struct window *window = &run->tracks[0].window;
    const struct stream *stream = stream_find(run->streams, header->layer);
    uint32_t rank = window_find_rank(window, header->rank);
    if (rank == UINT32_MAX && window->rank_count >= run->config->limits_ranks) {
        return ERR_RANK_LIMIT;
    }
    if (!stream && HASH_COUNT(run->streams) >= run->config->limits_layers) {
        return ERR_STREAM_LIMIT;
    }
    if (stream && rank != UINT32_MAX && sequences_passed(&stream->sequences, rank, header->seq)) {
        return ERR_SEQ_ORDER;
    }
    if (stream && stream->measured && stream->heads != header->heads_total) {
        return ERR_HEADS_CHANGED;
    }
    if (late_for_all(run, message)) {
        return ERR_LATE;
    }
    return state_budget_full(&run->budget) ? ERR_STATE_LIMIT : 0;
}

/* The first message of a layer in a part of the primary track gives the map to look at. Asked while
 * it waits: others may ask too until the layer is known. */
static bool wants_map(const struct run *run, const struct message *message)
{
    const struct track *track = &run->tracks[0];
    struct stream *stream = stream_find(run->streams, message->header.layer);
    uint64_t part = unit_in(track, message) / track->window.rule.part;
    if (!run->config->history_maps || !run->sink->store ||
        message->header.type == MESSAGE_WEIGHTS) {
        return false;
    }
    bool first = !stream || stream->mapped_part != part + 1;
    if (stream) {
        stream->mapped_part = part + 1;
    }
    return first;
}

/* Whether its step is one of which maps are made: at most every maps.every another one, from its
 * first message on, so that the maps of all layers belong together. */
static bool is_mapped_step(struct run *run, const struct header *header, uint64_t now_ns)
{
    bool begins = header->epoch != run->queued_epoch || header->step != run->queued_step;
    bool due = run->maps_ns == 0 || (begins && now_ns - run->maps_ns >= run->config->maps_every);
    run->queued_epoch = header->epoch;
    run->queued_step = header->step;
    if (due) {
        run->maps_epoch = header->epoch;
        run->maps_step = header->step;
        run->maps_ns = now_ns;
    }
    return header->epoch == run->maps_epoch && header->step == run->maps_step;
}

/* Of a layer that is not known yet each message may be asked. On the steps of which maps are made
 * every layer is, once, hence the half; a layer that is never sent on those steps is not left out
 * for ever. */
static bool wants_head_maps(struct run *run, const struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    struct stream *stream = stream_find(run->streams, header->layer);
    uint64_t every = run->config->maps_every;
    if (!run->config->maps_enabled || header->type == MESSAGE_WEIGHTS) {
        return false;
    }
    bool mapped = is_mapped_step(run, header, now_ns);
    return !stream ||
           maps_wanted(&stream->maps, header, mapped ? every / 2 : MAPS_PATIENCE * every, now_ns);
}

bool run_queue(struct run *run, struct message *message, uint64_t now_ns)
{
    bool tensors = message->header.type != MESSAGE_EVENT;
    message->run = run;
    if (tensors && !message->code) {
        message->code = foresee(run, message);
    }
    message->finished = !tensors || message->code != 0;
    message->wants_map = !message->finished && wants_map(run, message);
    message->wants_head_maps = !message->finished && wants_head_maps(run, message, now_ns);
    message->queued_next = NULL;
    *run->queue_last = message;
    run->queue_last = &message->queued_next;
    run->queued++;
    run->last_ns = now_ns;
    return !message->finished;
}

/* In the order in which messages came, so that the last value of a topic is the newest; of those
 * that are computed in the background when they are done. */
static void publish_live(struct run *run, const struct message *message)
{
    char topic[TOPIC_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    topic_layer("live", run->job, message->header.layer, topic);
    if (live_write(message, message->measured, &writer) == 0) {
        run->sink->put(run->sink->data, run, topic, 0, &writer, RESULT_OTHER);
    }
    mpk_writer_clear(&writer);
}

void run_finish(struct run *run, struct message *message)
{
    message->finished = true;
    if (message->detached && !message->code) {
        publish_live(run, message);
    }
}

/* Taking a message with tensors */

/* Where its numbers go: the state of its layer in each track that it is not late for. */
struct placed {
    struct window_part *part[TRACKS_MAX];
    struct layer_state *state[TRACKS_MAX];
};

/* The windows see it first, even if there is no memory left to keep its numbers: a rank that moves
 * on lets older parts close, which gives memory back. */
static int find_parts(struct run *run, struct stream *stream, struct message *message,
                      struct placed *placed)
{
    int code = ERR_LATE;
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct track *track = &run->tracks[t];
        int rc = window_arrive(&track->window, message->rank_index, unit_in(track, message),
                               message->received_ns, &placed->part[t]);
        if (rc && rc != ERR_LATE) {
            return rc;
        }
        code = rc ? code : 0;
        if (!rc && (message->losses.joined_late || track->joins_late)) {
            window_joined_late(&track->window, placed->part[t]);
        }
        track->joins_late = track->joins_late && rc;
    }
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        if (!placed->part[t]) {
            tally_drop(&stream->tracks[t].pending, ERR_LATE);
        }
    }
    return code;
}

static int find_states(struct run *run, const struct stream *stream, struct placed *placed)
{
    int code = state_budget_full(&run->budget) ? ERR_STATE_LIMIT : 0;
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        if (placed->part[t]) {
            code = track_state(&run->tracks[t], placed->part[t], stream, &placed->state[t]);
        }
    }
    return code;
}

static void note_losses(struct run *run, struct stream *stream, const struct message *message)
{
    struct losses later = message->losses; /* for the windows: one of them has counted it as lost */
    later.found = 0;
    run->found += message->losses.found;
    tally_take_source(&run->counts.tally, message->losses.known); /* they belong to this layer */
    tally_losses(&stream->counts.tally, &message->losses);
    for (uint32_t t = 0; t < run->track_count; t++) {
        tally_losses(&stream->tracks[t].pending, &later);
    }
}

/* Numbers first, so that a message that is refused for what it says is not taken for a lost one as
 * well. */
static int run_place(struct run *run, struct stream *stream, struct message *message,
                     struct placed *placed)
{
    const struct header *header = &message->header;
    int code = sequences_next(&stream->sequences, message->rank_index, header->seq, header->dropped,
                              &message->losses);
    if (!code && message->losses.source > 0) {
        code = drop_totals_topic(&run->drop_totals, message->rank_index, message->losses.source,
                                 &message->losses.known);
    }
    if (code) {
        return code;
    }
    note_losses(run, stream, message);
    if (!message->code) { /* else it says nothing about the layer */
        code = settle_heads(run, stream, header->heads_total);
    }
    if (!code) {
        code = find_parts(run, stream, message, placed);
    }
    if (!code) {
        code = message->code;
    }
    return code ? code : find_states(run, stream, placed);
}

static int add_numbers(struct run *run, struct stream *stream, const struct message *message,
                       const struct placed *placed)
{
    int code = 0;
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        if (!placed->state[t]) {
            continue;
        }
        tally_merge(&placed->state[t]->tally, &stream->tracks[t].pending);
        placed->state[t]->tally.lost -= message->losses.found && placed->state[t]->tally.lost;
        stream->tracks[t].pending = (struct tally){0};
        code = layer_state_add(placed->state[t], message, message->measured);
        state_table_grown(placed->part[t]->data, stream->index);
    }
    return code;
}

/* One that was late and is refused after all: some window has counted it as lost. */
static void run_count_dropped(struct run *run, struct stream *stream, const struct message *message,
                              int code)
{
    tally_drop(&stream->counts.tally, code);
    for (uint32_t t = 0; t < run->track_count && !message->losses.found; t++) {
        tally_drop(&stream->tracks[t].pending, code);
    }
}

static void mark_unsaved(struct run *run, struct stream *stream)
{
    run->unsaved = true;
    for (uint32_t t = 0; t < run->track_count; t++) {
        stream->tracks[t].unsaved = true;
    }
}

/* The parts wait for the numbers. */
static void run_hold(struct message *message, const struct placed *placed)
{
    for (int t = 0; t < TRACKS_MAX; t++) {
        if (!placed->part[t]) {
            continue;
        }
        message->held[t] = placed->part[t]->index + 1;
        placed->part[t]->held++;
    }
}

static int take_numbers(struct run *run, struct stream *stream, struct message *message)
{
    struct placed placed = {.part = {NULL}};
    int code = run_place(run, stream, message, &placed);
    stream->counts.received++;
    stream->last_ns = message->received_ns;
    run->judge_losses = false;
    mark_unsaved(run, stream);
    if (!code && message->detached) {
        run_hold(message, &placed);
    } else if (!code) {
        code = add_numbers(run, stream, message, &placed);
    }
    if (code) {
        run_count_dropped(run, stream, message, code);
    }
    if (code || message->detached) {
        return code;
    }
    stream->counts.processed++;
    publish_live(run, message);
    if (run->sink->maps) {
        maps_put(run->sink->maps, &stream->maps, message,
                 (uint32_t)run->job_config.metrics_qk_maps_max_size);
    }
    if (message->measured->has_spectra) {
        stream_end_spectrum_turn(stream, message->header.head_offset,
                                 message->measured->spectrum_next);
    }
    return 0;
}

/* Taking */

/* When a window may count on its rank. A hello is a sign of life of one that has tensors to send;
 * of one that has sent none yet it says only that it is there, once: nobody waits for more. */
static uint64_t heard_ns(const struct window *window, const struct message *message)
{
    const struct header *header = &message->header;
    uint32_t rank = window_find_rank(window, header->rank);
    bool hello = header->type == MESSAGE_EVENT && header->event == EVENT_HELLO;
    return hello && rank != UINT32_MAX && !window->ranks[rank].seen ? window->ranks[rank].last_ns
                                                                    : message->received_ns;
}

/* All tracks know the same ranks by the same index, or none does. */
static int daemon_run_join(struct run *run, struct message *message)
{
    const struct header *header = &message->header;
    uint32_t before = run->tracks[0].window.rank_count;
    int code = 0;
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        code = window_rank(&run->tracks[t].window, header->rank, header->world,
                           run->config->limits_ranks, heard_ns(&run->tracks[t].window, message),
                           &message->rank_index);
    }
    for (uint32_t t = 0; t < run->track_count && code; t++) {
        window_forget_ranks(&run->tracks[t].window, before);
    }
    run->dirty = run->dirty || run->tracks[0].window.rank_count != before;
    return code;
}

static void note_position(struct run *run, const struct header *header)
{
    run->epoch = header->epoch;
    run->step = header->step;
    run->time_ns = header->time_ns;
    if (run->state != JOB_ACTIVE) {
        run->state = JOB_ACTIVE;
        run->dirty = true;
    }
}

/* One that belongs to no layer, or never came so far, is counted to the run. */
static int run_refuse(struct run *run, int code)
{
    run->counts.received++;
    tally_drop(&run->counts.tally, code);
    return code;
}

static int daemon_run_take(struct run *run, struct message *message)
{
    int code = daemon_run_join(run, message);
    run->unsaved = true;
    message->arrival = ++run->taken;
    if (!code) {
        code = run_heed_bye(run, message);
    }
    if (code) {
        return run_refuse(run, code);
    }
    note_position(run, &message->header);
    if (message->header.type != MESSAGE_EVENT) {
        struct stream *stream;
        code = run_stream(run, message->header.layer, message->header.heads_total,
                          message->received_ns, &stream);
        return code ? run_refuse(run, code) : take_numbers(run, stream, message);
    }
    code = run_take_event(run, message);
    if (code) {
        return run_refuse(run, code);
    }
    run->counts.received++;
    return 0;
}

/* Not later than the oldest message that is not taken was received: no window may close over it. */
static uint64_t run_time_of(const struct run *run, uint64_t now_ns)
{
    bool behind = run->queue && run->queue->received_ns < now_ns;
    return behind ? run->queue->received_ns : now_ns;
}

static void pop(struct run *run)
{
    run->queue = run->queue->queued_next;
    if (!run->queue) {
        run->queue_last = &run->queue;
    }
    run->queued--;
}

static void end_flush(struct run *run)
{
    if (!run->flushing || run->taken < run->flush_arrival || run->flush_detached > 0) {
        return;
    }
    run->flushing = false;
    closing_show(run);
}

/* Nothing of tier weights is pooled, so it may come later. If it is refused now that is told when
 * its computation is through. */
static void detach(struct run *run, struct message *message)
{
    pop(run);
    message->detached = true;
    run->detached++;
    message->code = daemon_run_take(run, message);
    run->flush_detached += message->arrival <= run->flush_arrival;
}

struct message *run_take(struct run *run)
{
    struct message *message;
    while ((message = run->queue) && !message->finished &&
           message->header.type == MESSAGE_WEIGHTS) {
        detach(run, message);
    }
    if (!message || !message->finished) {
        return NULL;
    }
    pop(run);
    message->code = daemon_run_take(run, message);
    end_flush(run);
    closing_settle(run, message->received_ns);
    return message;
}

/* The part that waited for the numbers; the newest when that could not wait so long. */
static struct window_part *part_for(struct window *window, uint64_t index)
{
    struct window_part *newest = NULL;
    for (struct window_part *part = window->open; part; part = part->next) {
        newest = part;
        if (part->index == index) {
            part->held--;
            return part;
        }
    }
    return newest;
}

/* Lets the parts go, and finds where the numbers belong. */
static int run_find_held(struct run *run, const struct stream *stream, struct message *message,
                         struct placed *placed)
{
    int code = ERR_LATE;
    for (uint32_t t = 0; t < run->track_count; t++) {
        if (!message->held[t]) {
            continue;
        }
        placed->part[t] = part_for(&run->tracks[t].window, message->held[t] - 1);
        if (placed->part[t]) {
            code = track_state(&run->tracks[t], placed->part[t], stream, &placed->state[t]);
        }
        if (code && code != ERR_LATE) {
            return code;
        }
    }
    return code;
}

static void join_numbers(struct run *run, struct message *message)
{
    struct stream *stream = stream_find(run->streams, message->header.layer);
    struct placed placed = {.part = {NULL}};
    int code = run_find_held(run, stream, message, &placed);
    code = message->code ? message->code : code;
    if (!code) {
        code = add_numbers(run, stream, message, &placed);
    }
    mark_unsaved(run, stream);
    if (code) {
        run_count_dropped(run, stream, message, code);
    } else {
        stream->counts.processed++;
    }
    message->code = code;
}

void run_join(struct run *run, struct message *message, uint64_t now_ns)
{
    bool taken = false; /* else it was refused in its turn, and counted */
    for (int t = 0; t < TRACKS_MAX; t++) {
        taken = taken || message->held[t];
    }
    run->detached--;
    run->flush_detached -= message->arrival <= run->flush_arrival;
    if (taken) {
        join_numbers(run, message);
    }
    end_flush(run);
    closing_settle(run, run_time_of(run, now_ns));
}

bool run_busy(const struct run *run)
{
    return run->queued > 0 || run->detached > 0;
}

void run_skip_unfinished(struct run *run)
{
    struct message **link = &run->queue;
    while (*link) {
        struct message *message = *link;
        if (message->finished) {
            link = &message->queued_next;
            continue;
        }
        *link = message->queued_next;
        run->queued--;
    }
    run->queue_last = link;
}

void run_refused(struct run *run, int code)
{
    run->unsaved = true;
    run_refuse(run, code);
}

bool run_flush(struct run *run)
{
    run->flushing = true;
    run->flush_arrival = run->taken + run->queued;
    run->flush_detached = run->detached;
    end_flush(run);
    return run->flushing;
}

/* Time */

static void go_idle(struct run *run)
{
    run->state = JOB_IDLE;
    closing_show(run);
    for (uint32_t t = 0; t < run->track_count; t++) {
        track_free_parts(&run->tracks[t]);
    }
    run->unsaved = true;
    checkpoint_forget_parts(run);
    closing_publish_job(run);
    log_event(LOG_INFO, "run_idle", LOG_STR("job", run->job));
}

/* Baselines of layers that nothing has been heard of for long; they are in the history, and come
 * back with the next start of attnd. */
static void evict(struct run *run, uint64_t now_ns)
{
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        if (now_ns - stream->last_ns < run->config->limits_stream_idle) {
            continue;
        }
        for (uint32_t t = 0; t < run->track_count; t++) {
            struct layer_track *layer = &stream->tracks[t];
            if (!layer->drift || (layer->drift_unsaved && run->sink->store)) {
                continue;
            }
            free_drift(run, layer);
            stats_add(run->sink->stats, COUNT_EVICTED, 1);
        }
    }
}

bool run_wants_ticks(const struct run *run)
{
    return run->state == JOB_ACTIVE || (run->state == JOB_IDLE && run->budget.used > 0);
}

void run_tick(struct run *run, uint64_t now_ns)
{
    uint64_t time_ns = run_time_of(run, now_ns);
    for (uint32_t t = 0; t < run->track_count; t++) {
        window_settle_byes(&run->tracks[t].window, time_ns);
    }
    closing_settle(run, time_ns);
    closing_show_quiet(run, time_ns);
    if (run->state == JOB_ACTIVE && !run_busy(run) &&
        now_ns - run->last_ns >= run->config->limits_idle) {
        go_idle(run);
    }
    announce_silence(run, now_ns);
    evict(run, now_ns);
    if (run->dirty) {
        closing_publish_job(run);
    }
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
        layers[count++] = (struct layer_info){.id = stream->id, .heads = stream->heads};
    }
    struct job_result result = {
        .common = {run->job, run->id, run->epoch, run->step, run->time_ns},
        .state = run->state,
        .world = run->tracks[0].window.world,
        .ranks = run->tracks[0].window.rank_count,
        .layers = layers,
        .layer_count = count,
        .received = counts.received + run->queued,
        .processed = counts.processed,
        .lost = counts.tally.lost,
        .dropped = dropped,
        .dropped_count = tally_reasons(&counts.tally, dropped),
    };
    job_encode(&result, writer);
    free(layers);
}
