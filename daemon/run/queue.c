/* SPDX-License-Identifier: MIT */
/* The story of a message here: queue_put gives it its place and foresees whether it will be
 * refused, which saves the work; it is computed, or not; queue_take takes it when all before it are
 * taken. Only then its sequence is checked, its rank's position moves, and its numbers are added.
 *
 * So the run is at any moment what the messages taken so far make of it, whichever worker was
 * faster: the same recording gives the same summaries, a part never closes over a message that came
 * in time, and a checkpoint between two messages is consistent without waiting for anything. The
 * price is that a message that takes long holds up its run: the tensors of later ones are freed
 * when they are computed, but their `live` values and windows wait for their turn.
 *
 * Losses and refusals wait in `pending` for the layer's next message, and are counted in that one's
 * window: a refused message itself may belong to a window that is long closed. */
#include "daemon/run/queue.h"

#include "daemon/run/assembly.h"
#include "daemon/run/closing.h"
#include "daemon/run/events.h"
#include "daemon/run/forward.h"
#include "daemon/run/judging.h"
#include "daemon/run/live.h"
#include "daemon/run/sketches.h"

#include <assert.h>
#include <stdlib.h>

/* A layer whose steps are never those that maps are made of gets them after this number of times
 * maps.every. */
#define MAPS_PATIENCE 4

/* Windows of seconds go by when a message was received. */
static uint64_t queue_unit_of(const struct track *track, const struct message *message)
{
    return window_unit_of(&track->window, message->header.epoch, message->header.step,
                          message->received_ns);
}

/* Arrival */

/* Whether its number has been taken, as far as its rank and layer are known. */
static bool queue_has_passed(struct run *run, const struct header *header)
{
    const struct sequences *sequences = run_sequences(run, header);
    uint32_t rank = window_find_rank(&run->tracks[0].window, header->rank);
    return sequences && rank != UINT32_MAX && sequences_passed(sequences, rank, header->seq);
}

/* Whether taking it will refuse it, as far as that can be told already; 0, or the reason. Only
 * memory may be there again by then. */
static int queue_foresee(struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    const struct window *window = &run->tracks[0].window;
    struct stream *stream = stream_find(run->streams, header->layer);
    uint32_t rank = window_find_rank(window, header->rank);
    bool late = true; /* for all windows */
    if (rank == UINT32_MAX && window->rank_count >= run->config->limits_ranks) {
        return ERR_RANK_LIMIT;
    }
    if (!stream && HASH_COUNT(run->streams) >= run->config->limits_layers) {
        return ERR_STREAM_LIMIT;
    }
    if (queue_has_passed(run, header)) {
        return ERR_SEQ_ORDER;
    }
    if (stream && stream->measured && stream->heads != header->heads_total) {
        return ERR_HEADS_CHANGED;
    }
    for (uint32_t t = 0; t < run->track_count && late; t++) {
        late = window_is_late(&run->tracks[t].window, queue_unit_of(&run->tracks[t], message));
    }
    if (late) {
        return ERR_LATE;
    }
    return state_budget_full(&run->budget) ? ERR_STATE_LIMIT : 0;
}

/* The first message of a layer in a part of the primary track gives the map to look at. Asked while
 * it waits: others may ask too until the layer is known. */
static bool queue_wants_map(const struct run *run, const struct message *message)
{
    const struct track *track = &run->tracks[0];
    struct stream *stream = stream_find(run->streams, message->header.layer);
    uint64_t part = queue_unit_of(track, message) / track->window.rule.part;
    if (!run->config->history_maps || !run->sink->store) {
        return false;
    }
    bool first = !stream || stream->mapped_part != part + 1;
    if (stream) {
        stream->mapped_part = part + 1;
    }
    return first;
}

/* Maps are made of the messages of one step, from its first message on, so that the maps of all
 * layers belong together; at most every maps.every of another step. On these steps every layer is
 * asked, once, hence the half; a layer that is never sent on them is not left out for ever. Each
 * message of a layer that is not known yet may be asked for its maps. */
static bool queue_wants_head_maps(struct run *run, const struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    struct stream *stream = stream_find(run->streams, header->layer);
    uint64_t every = run->config->maps_every;
    if (!run->config->maps_enabled) {
        return false;
    }
    if (header_brings_maps(header)) { /* its sender chose the step */
        return !stream || maps_wanted(&stream->maps, header, every / 2, now_ns);
    }
    bool begins = header->epoch != run->queued_epoch || header->step != run->queued_step;
    run->queued_epoch = header->epoch;
    run->queued_step = header->step;
    if (run->maps_ns == 0 || (begins && now_ns - run->maps_ns >= every)) {
        run->maps_epoch = header->epoch;
        run->maps_step = header->step;
        run->maps_ns = now_ns;
    }
    bool mapped = header->epoch == run->maps_epoch && header->step == run->maps_step;
    return !stream ||
           maps_wanted(&stream->maps, header, mapped ? every / 2 : MAPS_PATIENCE * every, now_ns);
}

static void queue_ask_for_maps(struct run *run, struct message *message, uint64_t now_ns)
{
    const struct header *header = &message->header;
    bool has_all = header_map_heads(header) == header->heads_total;
    message->wants_map = queue_wants_map(run, message);
    message->wants_head_maps = queue_wants_head_maps(run, message, now_ns);
    /* The message that gives a window its map also brings the small ones of the heads. */
    if (message->wants_map && has_all && run->config->maps_enabled) {
        message->small_maps_size = (uint32_t)run->config->history_head_maps;
    }
}

bool queue_put(struct run *run, struct message *message, uint64_t now_ns)
{
    bool tensors = message->header.type != MESSAGE_EVENT;
    assert(message->stage == STAGE_POSTED);
    message->run = run;
    if (tensors && !message->code) {
        message->code = queue_foresee(run, message);
    }
    /* Parts of matrices are computed when all of them have been taken. */
    bool compute =
        header_is_measured(&message->header) && !message->code && !message->header.in_parts;
    message->stage = compute ? STAGE_QUEUED : STAGE_FINISHED;
    if (compute && !message_has_matrices(message) && header_map_heads(&message->header) > 0) {
        queue_ask_for_maps(run, message, now_ns);
    }
    message->queued_next = NULL;
    *run->queue_last = message;
    run->queue_last = &message->queued_next;
    run->queued++;
    run_heard(run, header_is_beat(&message->header), now_ns);
    return compute;
}

uint32_t queue_spectrum_turn(const struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    return stream_spectrum_turn(stream_find(run->streams, header->layer), header->head_offset);
}

/* The newest numbers of matrices, whichever were computed first. */
static void queue_publish_projections(struct run *run, const struct message *message)
{
    struct stream *stream = stream_find(run->streams, message->header.layer);
    struct position position = position_of(&message->header);
    if (!stream || position_reaches(&position, &stream->projections)) {
        if (stream) {
            stream->projections = position;
        }
        live_publish(run, message);
    }
}

void queue_finish(struct run *run, struct message *message)
{
    if (message->stage == STAGE_QUEUED) {
        message->stage = STAGE_FINISHED;
        return;
    }
    assert(message->stage == STAGE_DETACHED);
    if (!message->code) {
        queue_publish_projections(run, message);
    }
}

/* Its turn: a message with tensors */

/* Where its numbers go: the state of its layer in each track that it is not late for. */
struct queue_places {
    struct window_part *part[TRACKS_MAX];
    struct layer_state *state[TRACKS_MAX];
};

/* Whether it has overtaken tensors that its rank keeps until they are answered. */
static bool queue_overtakes(const struct run *run, const struct message *message)
{
    const struct header *header = &message->header;
    bool overtakes = false;
    for (uint32_t i = 0; i < header->after_count && !header->reliable && !overtakes; i++) {
        const struct stream *stream = stream_find(run->streams, header->after[i].layer);
        overtakes = !stream || !sequences_reached(&stream->reliable, message->rank_index,
                                                  header->after[i].seq);
    }
    return overtakes;
}

/* The windows see it first, even if there is no memory left to keep its numbers: a rank that moves
 * on lets older parts close, which gives memory back. */
static int queue_find_parts(struct run *run, struct stream *stream, struct message *message,
                            struct queue_places *places)
{
    bool overtakes = queue_overtakes(run, message);
    bool has_memory = state_budget_fits(&run->budget, run->budget.limit / 2);
    int code = ERR_LATE;
    run->keeps_tensors = run->keeps_tensors || message->header.reliable;
    for (uint32_t t = 0; t < run->track_count; t++) {
        struct track *track = &run->tracks[t];
        track->window.open_max =
            run->keeps_tensors && has_memory ? WINDOW_KEPT_MAX : WINDOW_OPEN_MAX;
        int rc = window_arrive(&track->window, message->rank_index, queue_unit_of(track, message),
                               overtakes, message->received_ns, &places->part[t]);
        if (rc && rc != ERR_LATE) {
            return rc;
        }
        if (!rc && ((message->losses.joined_late && !overtakes) || track->joins_late)) {
            window_joined_late(&track->window, places->part[t]);
            track->joins_late = false;
        }
        code = rc ? code : 0;
    }
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        if (!places->part[t]) {
            tally_drop(&stream->tracks[t].pending, ERR_LATE);
        }
    }
    return code;
}

/* Numbers of sequence first, so that a message that is refused for what it says is not taken for a
 * lost one as well. */
static int queue_place(struct run *run, struct stream *stream, struct message *message,
                       struct queue_places *places)
{
    const struct header *header = &message->header;
    struct losses *losses = &message->losses;
    int code = run_next_in_sequence(run, message);
    if (!code && losses->source > 0) {
        code = drop_totals_topic(&run->drop_totals, message->rank_index, losses->source,
                                 &losses->known);
    }
    if (code) {
        return code;
    }
    struct losses later = *losses; /* for the windows: one of them has counted it as lost */
    later.found = 0;
    run->found += losses->found;
    tally_take_source(&run->counts.tally, losses->known); /* they belong to this layer */
    tally_losses(&stream->counts.tally, losses);
    for (uint32_t t = 0; t < run->track_count; t++) {
        tally_losses(&stream->tracks[t].pending, &later);
    }
    /* A message with tensors says how many heads there are, and that must not change; a hello only
     * announces. */
    if (!message->code && stream->measured && stream->heads != header->heads_total) {
        return ERR_HEADS_CHANGED;
    }
    if (!message->code && stream->heads != header->heads_total) {
        run->dirty = true;
        stream_set_heads(stream, header->heads_total);
    }
    stream->measured = stream->measured || !message->code;
    code = queue_find_parts(run, stream, message, places);
    if (!code) {
        code = message->code;
    }
    if (!code && state_budget_full(&run->budget)) {
        code = ERR_STATE_LIMIT;
    }
    if (!code && message->header.in_parts) {
        code = assembly_put(run, stream, message);
    }
    bool counts = header_is_measured(header) && message->stage != STAGE_PART;
    for (uint32_t t = 0; t < run->track_count && !code && counts; t++) {
        if (places->part[t]) {
            code = track_state(&run->tracks[t], places->part[t], stream, &places->state[t]);
        }
    }
    if (!code && message->header.in_parts && message->stage != STAGE_PART) {
        message->stage = STAGE_DETACHED; /* now the matrices are whole, and can be computed */
    }
    return code;
}

/* The layer_state of every window takes the numbers, and what waited for a window. */
static int queue_add_numbers(struct run *run, struct stream *stream, const struct message *message,
                             const struct queue_places *places)
{
    int code = 0;
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        struct layer_state *state = places->state[t];
        if (!state) {
            continue;
        }
        tally_merge(&state->tally, &stream->tracks[t].pending);
        state->tally.lost -= message->losses.found && state->tally.lost;
        stream->tracks[t].pending = (struct tally){0};
        code = layer_state_add(state, message, message->measured);
        state_table_grown(places->part[t]->data, stream->index);
    }
    return code;
}

static void queue_mark_unsaved(struct run *run, struct stream *stream)
{
    run->unsaved = true;
    for (uint32_t t = 0; t < run->track_count; t++) {
        stream->tracks[t].unsaved = true;
    }
}

/* Shows the maps of its heads, and its `live` values. */
static void queue_show(struct run *run, struct stream *stream, struct message *message)
{
    const struct measured *measured = message->measured;
    if (message_has_matrices(message)) {
        queue_publish_projections(run, message);
        return;
    }
    if (run->sink->maps) {
        maps_put(run->sink->maps, &stream->maps, message, measured->value[METRIC_IMPORTANCE],
                 (uint32_t)run->job_config->metrics_qk_maps_max_size);
    }
    live_publish(run, message);
    if (measured->has_spectra) {
        stream_end_spectrum_turn(stream, message->header.head_offset, measured->spectrum_next);
    }
}

static int queue_take_tensors(struct run *run, struct stream *stream, struct message *message)
{
    struct queue_places places = {.part = {NULL}};
    int code = queue_place(run, stream, message, &places);
    stream->counts.received++;
    stream->last_ns = message->received_ns;
    run->judge_losses = false;
    queue_mark_unsaved(run, stream);
    if (!code && message->header.type == MESSAGE_SKETCH) {
        code = sketches_take(run, stream, message);
    } else if (!code && message->stage == STAGE_FINISHED) {
        code = queue_add_numbers(run, stream, message, &places);
    }
    if (code) {
        run_count_dropped(run, stream, message, code);
        return code;
    }
    const char *module = message->header.module;
    run->dirty |= module[0] && stream_set_module(stream, module, strlen(module));
    for (int t = 0; t < TRACKS_MAX && message->stage == STAGE_DETACHED; t++) {
        if (places.part[t]) { /* this window waits for the numbers */
            message->awaited[t] = places.part[t]->index + 1;
            places.part[t]->held++;
        }
    }
    if (message->stage == STAGE_FINISHED) {
        stream->counts.processed++;
    }
    if (message->stage == STAGE_FINISHED && message->measured) {
        queue_show(run, stream, message);
        judging_of_message(run, stream, message);
    }
    return 0;
}

/* Its turn: any message */

/* When a window may count on its rank. A hello, or a log, is a sign of life of one that has tensors
 * to send; of one that has sent none yet it says only that it is there, once: nobody waits for
 * more. So it is of a process that is merely alive. */
static uint64_t queue_heard_ns(const struct window *window, const struct message *message)
{
    const struct header *header = &message->header;
    uint32_t rank = window_find_rank(window, header->rank);
    bool hello = header->type == MESSAGE_EVENT &&
                 (header->event == EVENT_HELLO || header->event == EVENT_LOG);
    bool waits = rank != UINT32_MAX && !window->ranks[rank].seen;
    return hello && (waits || (rank != UINT32_MAX && header->alive)) ? window->ranks[rank].last_ns
                                                                     : message->received_ns;
}

int queue_refuse(struct run *run, int code)
{
    run->unsaved = true;
    run->counts.received++;
    tally_drop(&run->counts.tally, code);
    return code;
}

/* The answer comes when what the message has changed is saved: its layer, in all tracks, or the
 * run; also when that is its count among the dropped. One that came again is answered after what
 * came before it. */
static void queue_promise(struct run *run, struct message *message, int code)
{
    struct stream *stream = message->header.type == MESSAGE_EVENT
                                ? NULL
                                : stream_find(run->streams, message->header.layer);
    bool is_saved = !stream || !stream->tracks[0].unsaved;
    if (!message->promise) {
        return;
    }
    promise_took(message->promise, code);
    if (!run->sink->store) {
        return;
    }
    message->promise->owner = is_saved ? NULL : stream;
    promises_add(is_saved ? &run->promises : &stream->promises, message->promise);
    message->promise = NULL;
    run->unsaved = true;
}

static void queue_promise_all(struct run *run, struct message *message)
{
    queue_promise(run, message, message->code);
    for (struct message *part = message_others(message); part; part = part->queued_next) {
        queue_promise(run, part, message->code);
    }
}

bool queue_is_repeated(struct run *run, const struct header *header)
{
    return header->reliable && queue_has_passed(run, header);
}

static int queue_take_message(struct run *run, struct message *message)
{
    const struct header *header = &message->header;
    struct stream *stream;
    /* All tracks know the same ranks by the same index, or none does. */
    uint32_t before = run->tracks[0].window.rank_count;
    int code = 0;
    for (uint32_t t = 0; t < run->track_count && !code; t++) {
        struct window *window = &run->tracks[t].window;
        code = window_rank(window, header->rank, header->world, run->config->limits_ranks,
                           queue_heard_ns(window, message), &message->rank_index);
    }
    if (!code && run->tracks[0].window.rank_count != before && !run_fits_rank(run)) {
        code = ERR_STATE_LIMIT;
    }
    for (uint32_t t = 0; t < run->track_count && code; t++) {
        window_forget_ranks(&run->tracks[t].window, before);
    }
    run->dirty = run->dirty || run->tracks[0].window.rank_count != before;
    run_charge_kept(run);
    run->unsaved = true;
    run->reliable = run->reliable || header->reliable;
    message->arrival = ++run->taken;
    if (!code && queue_is_repeated(run, header)) {
        stats_add(run->sink->stats, COUNT_RELIABLE_DUPLICATES, 1);
        return queue_refuse(run, ERR_REPEATED);
    }
    if (!code) {
        code = events_heed_bye(run, message);
    }
    if (code) {
        return queue_refuse(run, code);
    }
    if (header_is_beat(header)) {
        code = events_take(run, message);
        run->counts.received += !code;
        return code ? queue_refuse(run, code) : 0;
    }
    if (header->type != MESSAGE_EVENT || header->event != EVENT_LOG) {
        run->epoch = header->epoch;
        run->step = header->step;
        run->time_ns = header->time_ns;
    }
    judging_hear(run, message, header->type != MESSAGE_EVENT && queue_overtakes(run, message));
    if (run->state != JOB_ACTIVE) {
        run->dirty = true;
        run->state = JOB_ACTIVE;
        forward_new_state(run);
    }
    if (header->type == MESSAGE_EVENT) {
        code = events_take(run, message);
        run->counts.received += !code;
        return code ? queue_refuse(run, code) : 0;
    }
    code = run_stream(run, header->layer, header->heads_total, message->received_ns, &stream);
    return code ? queue_refuse(run, code) : queue_take_tensors(run, stream, message);
}

static void queue_pop(struct run *run)
{
    assert(run->queue && run->queued > 0);
    run->queue = run->queue->queued_next;
    if (!run->queue) {
        run->queue_last = &run->queue;
    }
    run->queued--;
}

static void queue_end_flush(struct run *run)
{
    if (!run->flushing || run->taken < run->flush_arrival || run->flush_detached > 0) {
        return;
    }
    run->flushing = false;
    closing_show(run);
}

static void queue_detach(struct run *run, struct message *message)
{
    assert(message_has_matrices(message));
    run->detached++;
    run->flush_detached += message->arrival <= run->flush_arrival;
}

struct message *queue_take(struct run *run)
{
    struct message *message;
    if (run_closes(run)) {
        closing_go_on(run);
    }
    if (run_closes(run)) {
        return NULL;
    }
    if (run->closer) {
        message = run->closer;
        run->closer = NULL;
        return message;
    }
    /* Nothing of tier weights is pooled, so it may come later. If it is refused now that is told
     * when its computation is through. On the reliable lane it may not: what is saved with its
     * number must have its effect. */
    while ((message = run->queue) && message->stage == STAGE_QUEUED &&
           message_has_matrices(message) && !message->header.reliable) {
        queue_pop(run);
        message->stage = STAGE_DETACHED;
        message->code = queue_take_message(run, message);
        queue_detach(run, message);
    }
    if (!message || message->stage != STAGE_FINISHED) {
        return NULL;
    }
    queue_pop(run);
    message->code = queue_take_message(run, message);
    if (message->stage == STAGE_DETACHED) {
        queue_detach(run, message);
    } else if (message->stage == STAGE_FINISHED) {
        queue_promise_all(run, message);
    }
    judging_settle(run);
    queue_end_flush(run);
    closing_settle(run, message->received_ns);
    if (run_closes(run) && message->stage == STAGE_FINISHED) {
        run->closer = message;
        return NULL;
    }
    return message;
}

/* The part that waited for the numbers, which lets it go; the newest when it could not wait so
 * long. */
static struct window_part *queue_let_go(struct window *window, uint64_t index)
{
    struct window_part *newest = NULL;
    for (struct window_part *part = window->open; part; part = part->next) {
        newest = part;
        if (part->index == index) {
            assert(part->held > 0);
            part->held--;
            return part;
        }
    }
    return newest;
}

void queue_join(struct run *run, struct message *message, uint64_t now_ns)
{
    struct stream *stream = stream_find(run->streams, message->header.layer);
    struct queue_places places = {.part = {NULL}};
    bool taken = false; /* else it was refused in its turn, and counted */
    int code = ERR_LATE;
    assert(message->stage == STAGE_DETACHED && run->detached > 0);
    run->detached--;
    run->flush_detached -= message->arrival <= run->flush_arrival;
    for (uint32_t t = 0; t < run->track_count; t++) {
        if (!message->awaited[t]) {
            continue;
        }
        taken = true;
        places.part[t] = queue_let_go(&run->tracks[t].window, message->awaited[t] - 1);
        if (places.part[t] && (!code || code == ERR_LATE)) {
            code = track_state(&run->tracks[t], places.part[t], stream, &places.state[t]);
        }
    }
    if (taken) {
        code = message->code ? message->code : code;
        if (!code) {
            code = queue_add_numbers(run, stream, message, &places);
        }
        queue_mark_unsaved(run, stream);
        if (code) {
            run_count_dropped(run, stream, message, code);
        } else {
            for (const struct message *part = message; part; part = message_after(message, part)) {
                stream->counts.processed++;
            }
        }
        message->code = code;
    }
    queue_promise_all(run, message);
    queue_end_flush(run);
    closing_settle(run, run_time_ns(run, now_ns));
}

void queue_skip_unfinished(struct run *run)
{
    struct message **link = &run->queue;
    while (*link) {
        struct message *message = *link;
        if (message->stage == STAGE_FINISHED) {
            link = &message->queued_next;
            continue;
        }
        *link = message->queued_next;
        run->queued--;
    }
    run->queue_last = link;
}

bool queue_flush(struct run *run)
{
    run->flushing = true;
    run->flush_arrival = run->taken + run->queued;
    run->flush_detached = run->detached;
    queue_end_flush(run);
    return run->flushing || run->shows;
}
