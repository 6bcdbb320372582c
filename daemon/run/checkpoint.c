/* SPDX-License-Identifier: MIT */
/* Layers are marked as saved while they are packed. When a batch does not get through, because
 * memory or the store's queue is used up, everything counts as not saved again and the next round
 * makes up for it. */
#include "daemon/run/checkpoint.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/log.h"
#include "daemon/state/stored.h"
#include "proto/err.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct store_batch *checkpoint_begin(const struct run *run)
{
    struct store_run record = {
        .job = run->job,
        .run = run->id,
        .state = run_shown(run),
        .world = run->tracks[0].window.world,
        .epoch = run->epoch,
        .step = run->step,
        .time_ns = run->time_ns,
    };
    struct store_batch *batch = run->sink->store ? batch_new(&record) : NULL;
    if (run->sink->store && !batch) {
        log_event(LOG_ERROR, "batch_lost", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(ERR_MEMORY)));
        store_count_lost(run->sink->store, NULL);
    }
    if (batch && run->reliable) {
        batch_hold(batch, false);
    }
    return batch;
}

/* All of them, whatever they are about. */
static void checkpoint_take_promises(struct run *run, struct promises *into)
{
    promises_move(into, &run->promises);
    for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
        promises_move(into, &stream->promises);
    }
}

static void checkpoint_answer(struct run *run, int code)
{
    struct promises promises = {0};
    checkpoint_take_promises(run, &promises);
    promises_mark(&promises, code);
    if (promises.first && run->sink->settle) {
        run->sink->settle(run->sink->data, &promises);
    }
    promises_free(&promises);
}

void checkpoint_give_up(struct run *run)
{
    checkpoint_answer(run, 0);
}

/* The run goes. Nobody is told that what could not be saved of it is, unless nothing ever is. */
static void checkpoint_leave_unanswered(struct run *run)
{
    const char *reason;
    bool on = run->sink->store && store_path(run->sink->store, &reason);
    checkpoint_answer(run, on ? ERR_AGAIN : 0);
}

static void mark_all_unsaved(struct run *run)
{
    run->unsaved = run->alerts_unsaved = true;
    for (uint32_t t = 0; t < run->track_count; t++) {
        const struct window *window = &run->tracks[t].window;
        for (const struct window_part *part = NULL; (part = window_part_after(window, part));) {
            for (uint32_t i = 0; part->data && i < HASH_COUNT(run->streams); i++) {
                state_table_set_saved(part->data, i, false);
            }
        }
        for (struct stream *stream = run->streams; stream; stream = stream->hh.next) {
            stream->tracks[t].unsaved = stream->tracks[t].drift_unsaved = true;
        }
    }
}

/* `code` is why the batch is not whole. Returns it. */
static int checkpoint_submit_batch(struct run *run, struct store_batch **batch, int code)
{
    if (!code && store_submit(run->sink->store, batch)) {
        return 0;
    }
    if (code) {
        log_event(LOG_ERROR, "checkpoint_lost", LOG_STR("job", run->job),
                  LOG_STR("reason", err_slug(code)));
        store_count_lost(run->sink->store, *batch);
    }
    if (*batch) {
        /* They wait for the next batch that has what they are about. */
        struct promise *promise;
        while ((promise = promises_take(batch_promises(*batch)))) {
            struct stream *stream = promise->owner;
            promises_add(stream ? &stream->promises : &run->promises, promise);
        }
    }
    batch_free(batch);
    mark_all_unsaved(run);
    const char *reason; /* of a history that is off */
    bool again = run->merged && store_path(run->sink->store, &reason); /* the hub offers it again */
    return !code && again ? ERR_AGAIN : code;
}

/* Packing */

/* The contents of one batch of a run. */
struct saving {
    struct run *run;
    struct store_batch *batch;
    uint64_t bytes;
};

/* `code` is how packing went. Clears the writer. */
static int checkpoint_keep(struct saving *saving, const char *key, struct mpk_writer *writer,
                           int code)
{
    if (!code) {
        saving->bytes += writer->buffer.size;
        code = mpk_writer_ok(writer)
                   ? batch_keep(saving->batch, key, writer->buffer.data, writer->buffer.size)
                   : ERR_MEMORY;
    }
    mpk_writer_clear(writer);
    return code;
}

/* Packs those of the reliable lane when it was used. */
static void put_sequences(struct mpk_writer *writer, const struct sequences *sequences,
                          const struct sequences *reliable)
{
    stored_put(writer, "sequences", sequences->of_rank, sequences->count,
               sizeof *sequences->of_rank);
    if (reliable->count > 0) {
        stored_put(writer, "reliable", reliable->of_rank, reliable->count,
                   sizeof *reliable->of_rank);
    }
}

/* err.def is append-only: a tally is an array that may grow. */
static void checkpoint_put_tally(struct mpk_writer *writer, const char *key,
                                 const struct tally *tally)
{
    stored_put(writer, key, tally, sizeof *tally / sizeof(uint64_t), sizeof(uint64_t));
}

static void checkpoint_put_counts(struct mpk_writer *writer, const struct counts *counts)
{
    mpk_pair_u64(writer, "received", counts->received);
    mpk_pair_u64(writer, "processed", counts->processed);
    checkpoint_put_tally(writer, "tally", &counts->tally);
}

static int save_row(struct saving *saving, const struct track *track, const struct stream *stream)
{
    char key[CHECKPOINT_KEY_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 8 + (stream->module ? 1U : 0U) + (stream->reliable.count > 0 ? 1U : 0U));
    mpk_pair_u64(&writer, "heads", stream->heads);
    if (stream->module) {
        mpk_pair_str(&writer, "module", stream->module);
    }
    mpk_pair_bool(&writer, "measured", stream->measured);
    put_sequences(&writer, &stream->sequences, &stream->reliable);
    checkpoint_put_counts(&writer, &stream->counts);
    checkpoint_put_tally(&writer, "pending", &stream->tracks[track->index].pending);
    stored_put(&writer, "turns", stream->spectrum_next, stream->heads,
               sizeof *stream->spectrum_next);
    snprintf(key, sizeof key, "layer/%s/%" PRIu32, track->name, stream->key);
    return checkpoint_keep(saving, key, &writer, 0);
}

static int save_states(struct saving *saving, const struct track *track,
                       const struct stream *stream)
{
    const struct window_part *part = NULL;
    int code = 0;
    while (!code && (part = window_part_after(&track->window, part))) {
        char key[CHECKPOINT_KEY_MAX];
        struct mpk_writer writer;
        if (!part->data || !state_table_unsaved(part->data, stream->index) ||
            !window_needs(&track->window, part->index)) {
            continue;
        }
        mpk_writer_init(&writer);
        snprintf(key, sizeof key, "part/%s/%" PRIu64 "/%" PRIu32, track->name, part->index,
                 stream->key);
        code = layer_state_pack(state_table_find(part->data, stream->index), &writer);
        code = checkpoint_keep(saving, key, &writer, code);
        state_table_set_saved(part->data, stream->index, true);
    }
    return code;
}

void checkpoint_drift_key(const struct track *track, const struct stream *stream,
                          char ret_key[CHECKPOINT_KEY_MAX])
{
    snprintf(ret_key, CHECKPOINT_KEY_MAX, "drift/%s/%" PRIu32, track->name, stream->key);
}

static int save_sketch(struct saving *saving, const struct stream *stream)
{
    char key[CHECKPOINT_KEY_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    snprintf(key, sizeof key, "sketch/%" PRIu32, stream->key);
    return checkpoint_keep(saving, key, &writer, sketch_pack(stream->sketch, &writer));
}

/* The layer's part in the captures that are open. */
static int save_capture(struct saving *saving, const struct stream *stream)
{
    char key[CHECKPOINT_KEY_MAX];
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    snprintf(key, sizeof key, "open/%" PRIu32, stream->key);
    return checkpoint_keep(saving, key, &writer,
                           captures_pack_layer(saving->run->captures, stream->index, &writer));
}

/* A layer in a track. */
static int save_layer(struct saving *saving, const struct track *track, struct stream *stream)
{
    struct layer_track *layer = &stream->tracks[track->index];
    int code = 0;
    if (layer->drift_unsaved && layer->drift) {
        char key[CHECKPOINT_KEY_MAX];
        struct mpk_writer writer;
        mpk_writer_init(&writer);
        checkpoint_drift_key(track, stream, key);
        code = checkpoint_keep(saving, key, &writer, drift_pack(layer->drift, &writer));
        layer->drift_unsaved = false;
    }
    if (!layer->unsaved || code) {
        return code;
    }
    layer->unsaved = false;
    code = save_row(saving, track, stream);
    if (!code && track->index == 0 && stream->sketch && saving->run->state != JOB_ENDED) {
        code = save_sketch(saving, stream);
    }
    if (!code && track->index == 0 && saving->run->captures && saving->run->state != JOB_ENDED) {
        code = save_capture(saving, stream);
    }
    return code ? code : save_states(saving, track, stream);
}

/* A layer in all tracks, and what was promised of it: an answer says that its message is in all of
 * them, because what comes again is taken by none. */
static int save_whole(struct saving *saving, struct stream *stream)
{
    int code = 0;
    for (uint32_t t = 0; t < saving->run->track_count && !code; t++) {
        code = save_layer(saving, &saving->run->tracks[t], stream);
    }
    if (!code) {
        promises_move(batch_promises(saving->batch), &stream->promises);
    }
    return code;
}

/* About the run */

static void checkpoint_put_track(struct mpk_writer *writer, const struct track *track)
{
    const struct window *window = &track->window;
    mpk_put_map(writer, 6);
    mpk_pair_str(writer, "name", track->name);
    mpk_pair_u64(writer, "next", window->next_index);
    mpk_pair_u64(writer, "complete_from", window->complete_from);
    mpk_pair_u64(writer, "settled", window->settled);
    /* Packs the ranks, a row each: numbers that all tracks share, then those of the track. */
    mpk_pair_array(writer, "ranks", 5 * window->rank_count);
    for (uint32_t i = 0; i < window->rank_count; i++) {
        const struct window_rank *rank = &window->ranks[i];
        mpk_put_u64(writer, rank->rank);
        mpk_put_u64(writer, rank->bye);
        mpk_put_u64(writer, rank->seen);
        mpk_put_u64(writer, rank->position);
        mpk_put_u64(writer, rank->finished);
    }
    struct mpk_open cut = mpk_open(writer, "cut");
    for (const struct window_part *part = window->closed; part; part = part->next) {
        if (part->cut) {
            mpk_put_u64(writer, part->index);
        }
    }
    mpk_close_array(writer, &cut);
}

/* The alerts, and the captures that they have judged: in one batch, of one moment. */
static int save_alerts(struct saving *saving)
{
    struct run *run = saving->run;
    struct mpk_writer writer;
    if (run->captures) {
        mpk_writer_init(&writer);
        int code =
            checkpoint_keep(saving, "capture", &writer, captures_pack(run->captures, &writer));
        if (code) {
            return code;
        }
    }
    if (!run->alerts_unsaved || !run->alerts) {
        return 0;
    }
    mpk_writer_init(&writer);
    run->alerts_unsaved = false;
    return checkpoint_keep(saving, "alerts", &writer, alerts_pack(run->alerts, &writer));
}

static int save_failure(struct saving *saving)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    failure_put(&saving->run->failure, &writer);
    int code = mpk_writer_ok(&writer)
                   ? batch_failure(saving->batch, writer.buffer.data, writer.buffer.size)
                   : ERR_MEMORY;
    mpk_writer_clear(&writer);
    return code;
}

void checkpoint_alerts(struct run *run, struct store_batch *batch)
{
    struct saving saving = {.run = run, .batch = batch};
    run->alerts_unsaved = true;
    if (save_alerts(&saving) != 0) {
        run->alerts_unsaved = true; /* the next round has them */
    }
}

static int save_about(struct saving *saving, uint64_t now_ns)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    const struct run *run = saving->run;
    const struct window *window = &run->tracks[0].window;
    mpk_put_map(&writer, 17U + (run->reliable_events.count > 0) + run->merged +
                             (run->cut.own.length > 0) + (run->failure.type[0] != '\0'));
    if (run->failure.type[0]) {
        mpk_put_str(&writer, "failure");
        failure_put(&run->failure, &writer);
    }
    if (run->merged) {
        mpk_pair_bool(&writer, "merged", true);
    }
    mpk_pair_u64(&writer, "taken", run->taken);
    mpk_pair_u64(&writer, "state", run->state);
    mpk_pair_u64(&writer, "epoch", run->epoch);
    mpk_pair_u64(&writer, "step", run->step);
    mpk_pair_u64(&writer, "time_ns", run->time_ns);
    mpk_pair_u64(&writer, "age_ns", window_age(window, now_ns));
    mpk_pair_u64(&writer, "wall_ns", now_ns + run->sink->wall_offset_ns);
    mpk_pair_u64(&writer, "silent_ns", clock_since_ns(run->last_ns, now_ns));
    mpk_pair_u64(&writer, "world", window->world);
    mpk_pair_u64(&writer, "capture_every", run->cut.capture_every);
    if (run->cut.own.length > 0) {
        struct own_window own = run_own_window(run);
        mpk_put_str(&writer, "own_window");
        own_window_put(&own, &writer);
    }
    checkpoint_put_counts(&writer, &run->counts);
    put_sequences(&writer, &run->events, &run->reliable_events);
    mpk_pair_u64(&writer, "found", run->found);
    stored_put(&writer, "drop_totals", run->drop_totals.of_rank, run->drop_totals.count,
               sizeof *run->drop_totals.of_rank);
    mpk_pair_array(&writer, "tracks", run->track_count);
    for (uint32_t t = 0; t < run->track_count; t++) {
        checkpoint_put_track(&writer, &run->tracks[t]);
    }
    int code = checkpoint_keep(saving, "about", &writer, 0);
    if (!code && run->failure.type[0]) {
        code = save_failure(saving);
    }
    /* Each time: another batch may not get through. */
    if (!code && saving->run->came_back) {
        code = batch_forget(saving->batch, CHECKPOINT_FORGOTTEN);
    }
    if (!code) {
        promises_move(batch_promises(saving->batch), &saving->run->promises);
        code = save_alerts(saving);
    }
    return code;
}

/* For callers */

/* Parts that no later window needs. */
static int checkpoint_forget_old(struct store_batch *batch, const struct track *track)
{
    char prefix[CHECKPOINT_KEY_MAX];
    int code = 0;
    for (const struct window_part *part = track->window.closed;
         part && !code && !window_needs(&track->window, part->index); part = part->next) {
        snprintf(prefix, sizeof prefix, "part/%s/%" PRIu64 "/", track->name, part->index);
        code = batch_forget(batch, prefix);
    }
    return code;
}

int checkpoint_layer(struct run *run, const struct track *track, struct stream *stream,
                     struct store_batch *batch)
{
    struct saving saving = {.run = run, .batch = batch};
    return stream->promises.first ? save_whole(&saving, stream)
                                  : save_layer(&saving, track, stream);
}

int checkpoint_track(struct run *run, const struct track *track, struct store_batch **batch,
                     int code, uint64_t now_ns)
{
    struct saving saving = {.run = run, .batch = *batch};
    if (!*batch) {
        return 0;
    }
    code = code ? code : checkpoint_forget_old(*batch, track);
    code = code ? code : save_about(&saving, now_ns);
    return checkpoint_submit_batch(run, batch, code);
}

static bool has_changed(const struct run *run, const struct stream *stream)
{
    for (uint32_t t = 0; t < run->track_count; t++) {
        if (stream->tracks[t].unsaved || stream->tracks[t].drift_unsaved) {
            return true;
        }
    }
    return false;
}

uint64_t checkpoint_losses(const struct result_sink *sink)
{
    return stats_get(sink->stats, COUNT_STORE_DROPPED) +
           stats_get(sink->stats, COUNT_STORE_REPLACED);
}

/* Begins where the last round ended; a run without changes has none. */
bool checkpoint_step(struct run *run)
{
    if (!run->round_goes_on) {
        /* Records that the store took and could not write after all count as changed again. */
        uint64_t losses = checkpoint_losses(run->sink);
        if (losses != run->store_losses) {
            mark_all_unsaved(run);
        }
        run->store_losses = losses;
        if (!run->unsaved) {
            return false;
        }
        run->unsaved = false;
        run->round_goes_on = true;
        run->round_next = run->streams;
    }
    if (!run->saving) {
        run->saving = checkpoint_begin(run);
    }
    if (!run->saving) {
        return false;
    }
    while (run->round_next && !has_changed(run, run->round_next)) {
        run->round_next = run->round_next->hh.next;
    }
    if (run->round_next) {
        struct saving saving = {.run = run, .batch = run->saving};
        run->saving_code = save_whole(&saving, run->round_next);
        run->saving_bytes += saving.bytes;
        run->round_next = run->round_next->hh.next;
    }
    run->round_goes_on = run->round_next && !run->saving_code;
    return run->round_goes_on;
}

void checkpoint_submit(struct run *run, uint64_t now_ns)
{
    struct saving saving = {.run = run, .batch = run->saving};
    if (!run->saving) {
        return;
    }
    if (!run->saving_code) {
        run->saving_code = save_about(&saving, now_ns);
    }
    crash_point("checkpoint_packed");
    checkpoint_submit_batch(run, &run->saving, run->saving_code);
    run->saving_code = 0;
    run->saving_bytes = 0;
    stats_add(run->sink->stats, COUNT_CHECKPOINTS, 1);
    crash_point("checkpoint_submitted");
}

static void checkpoint_forget_prefix(struct run *run, const char *prefix)
{
    struct store_batch *batch = checkpoint_begin(run);
    if (batch) {
        checkpoint_submit_batch(run, &batch, batch_forget(batch, prefix));
    }
}

void checkpoint_ended(struct run *run, struct store_batch **batch, uint64_t now_ns)
{
    struct saving saving = {.run = run, .batch = *batch};
    if (!*batch) {
        return;
    }
    int code = batch_forget(*batch, "part/");
    code = code ? code : batch_forget(*batch, "sketch/");
    code = code ? code : batch_forget(*batch, "open/");
    for (struct stream *stream = run->streams; stream && !code; stream = stream->hh.next) {
        code = save_whole(&saving, stream);
    }
    if (!code) {
        code = save_about(&saving, now_ns);
    }
    checkpoint_submit_batch(run, batch, code);
}

void checkpoint_forget(struct run *run, uint64_t now_ns)
{
    struct store_batch *batch = run->reliable ? checkpoint_begin(run) : NULL;
    if (!run->reliable) {
        checkpoint_forget_prefix(run, "");
        return;
    }
    if (batch) {
        batch_hold(batch, true);
        /* Its sequences stay, so that what comes of it again is known, and what they are part of;
         * its windows are in the history. */
        static const char *const gone[] = {"alerts", "capture", "drift/",
                                           "open/",  "part/",   "sketch/"};
        struct saving saving = {.run = run, .batch = batch};
        int code = 0;
        for (struct stream *stream = run->streams; stream && !code; stream = stream->hh.next) {
            for (uint32_t t = 0; t < run->track_count && !code; t++) {
                code = save_row(&saving, &run->tracks[t], stream);
            }
        }
        if (!code) {
            code = save_about(&saving, now_ns);
        }
        for (size_t i = 0; i < sizeof gone / sizeof gone[0] && !code; i++) {
            code = batch_forget(batch, gone[i]);
        }
        code = code ? code : batch_keep(batch, CHECKPOINT_FORGOTTEN, "", 0);
        checkpoint_take_promises(run, batch_promises(batch));
        checkpoint_submit_batch(run, &batch, code);
    }
    checkpoint_leave_unanswered(run);
}

void checkpoint_promise(struct run *run, struct promise **promise)
{
    struct store_batch *batch = *promise ? checkpoint_begin(run) : NULL;
    if (batch) {
        promises_add(batch_promises(batch), *promise);
        *promise = NULL;
        checkpoint_submit_batch(run, &batch, 0);
        checkpoint_leave_unanswered(run);
    } else if (*promise) {
        (*promise)->code = ERR_AGAIN;
    }
}

void checkpoint_forget_parts(struct run *run)
{
    checkpoint_forget_prefix(run, "part/");
}
