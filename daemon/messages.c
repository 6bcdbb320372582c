/* SPDX-License-Identifier: MIT */
/* A message's life on the loop thread: NOTE_ARRIVED (the registry finds its run, which says whether
 * to compute it) -> work_new -> pool; when its job's queue there is full it waits in the job's
 * work_queue, bounded by the byte budget, and goes on when messages of the job finish. NOTE_DONE ->
 * work_finish -> the run is ready, and takes it in its turn, and its results come back to
 * messages_put_result -> it is counted and freed, and its bytes are released to ingest. Parts of
 * matrices are taken first, and computed with the last of them.
 *
 * Taking a message may merge a thousand heads and close windows. Runs that are ready take turns of
 * TURN_NS, or of one message, or one layer of a window that closes, if that is longer, so that a
 * job with much to take is late itself, and others are not. After ROUND_NS the loop has a look at
 * everything else. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/internal.h"
#include "daemon/run/assembly.h"
#include "daemon/run/closing.h"
#include "daemon/run/hold.h"
#include "daemon/run/live.h"
#include "daemon/run/queue.h"

#include <stdlib.h>

#define TURN_NS  UINT64_C(1000000)
#define ROUND_NS UINT64_C(10000000)
/* Outside of turns, for windows that close or are shown as time goes by, or to make room. */
#define REST_NS UINT64_C(50000000)

/* The end: it is counted by its code, and so are those that it stands for. */
static void messages_account(struct daemon *daemon, struct message *message)
{
    struct stats *stats = &daemon->stats;
    const struct header *header = &message->header;
    for (struct message *part; (part = message_others(message));) {
        message->parts = part->queued_next;
        part->code = message->code;
        messages_account(daemon, part);
    }
    bool is_event = header->type == MESSAGE_EVENT, reserved = message->reserved;
    bool leaves = is_event && header->event == EVENT_BYE; /* and waits for its answers, not long */
    struct ingest_share *share = message->share;
    struct lane_peer *peer = message->peer;
    uint64_t cost = message->cost, bytes = message->bytes;
    /* Nothing is kept of it, or its run could not be had, or the other parts of its matrices: its
     * sender hears so now. */
    struct promises promises = {0};
    if (message->promise) {
        promise_took(message->promise, message->code);
        promises_add(&promises, message->promise);
        message->promise = NULL;
        ingest_settle(daemon->ingest, &promises);
    }
    stats_add(stats, COUNT_LOST, message->losses.lost);
    stats_add(stats, COUNT_FOUND, message->losses.found);
    stats_add(stats, COUNT_SOURCE_DROPPED, message->losses.source - message->losses.known);
    if (message->code) {
        uint64_t before = stats_drop(stats, message->code);
        if (log_is_round(before)) {
            bool repeated = message->code == ERR_REPEATED; /* and so no loss */
            log_event(repeated ? LOG_INFO : LOG_WARNING, "message_dropped",
                      LOG_STR("reason", err_slug(message->code)),
                      LOG_STR("detail", err_text(message->code)), LOG_STR("job", header->job),
                      LOG_NUM("rank", header->rank), LOG_NUM("epoch", header->epoch),
                      LOG_NUM("step", header->step), LOG_NUM("count", before + 1));
        }
    } else {
        if (!is_event) {
            latency_add_between(&stats->latency[LATENCY_PROCESSING], message->received_ns,
                                clock_monotonic_ns());
        }
        stats_add(stats, COUNT_PROCESSED, 1);
        stats_add(stats, COUNT_EVENTS, is_event);
    }
    work_free(&message->work);
    message_free(&message);
    ingest_release(daemon->ingest, share, cost, reserved);
    if (peer) {
        ingest_return(daemon->ingest, peer, bytes);
        rounds_promise(daemon, leaves ? bytes + PROMISES_WORTH : bytes);
    }
}

/* Has it computed, once its job's queue in the pool has room. Whether that goes on now; else it is
 * finished with a code. */
static bool messages_compute(struct daemon *daemon, struct message *message)
{
    struct run *run = message->run;
    message->code = work_new(message, run->job_config, &daemon->machine,
                             queue_spectrum_turn(run, message), run->work, &daemon->inbox);
    if (message->code) {
        queue_finish(run, message);
        return false;
    }
    daemon->in_flight++;
    work_submit(run->work, daemon->pool);
    return true;
}

static void messages_account_lost(struct daemon *daemon, struct run *run)
{
    struct message *message;
    while ((message = assembly_take_lost(run))) {
        messages_account(daemon, message);
    }
}

/* Takes messages in their turn, as far as they are finished, until the turn ends. Returns whether
 * there may be more. */
static bool messages_take(struct daemon *daemon, struct run *run)
{
    uint64_t until_ns = daemon->turn_ends_ns;
    struct message *message;
    bool in_time = true;
    for (; in_time && (message = queue_take(run)); in_time = clock_monotonic_ns() < until_ns) {
        bool whole = message->stage == STAGE_DETACHED; /* the last part of matrices */
        if (whole && daemon->finished) {               /* nobody computes it any more */
            message->code = ERR_INCOMPLETE;
        }
        if (message->stage == STAGE_PART ||
            (whole && !message->code && messages_compute(daemon, message))) {
            continue;
        }
        if (whole) {
            queue_join(run, message, inbox_now_ns(&daemon->inbox));
        }
        messages_account(daemon, message);
    }
    messages_account_lost(daemon, run);
    return !in_time;
}

static void messages_on_turn(uv_idle_t *turns);

/* It takes messages in the run's next turn. */
static void messages_make_ready(struct daemon *daemon, struct run *run)
{
    if (run->ready) {
        return;
    }
    run->ready = true;
    run->ready_next = NULL;
    *daemon->ready_last = run;
    daemon->ready_last = &run->ready_next;
    uv_idle_start(&daemon->turns, messages_on_turn);
}

static struct run *messages_next_ready(struct daemon *daemon)
{
    struct run *run = daemon->ready;
    daemon->ready = run->ready_next;
    if (!daemon->ready) {
        daemon->ready_last = &daemon->ready;
    }
    run->ready = false;
    return run;
}

/* The run takes what has its turn, now that this message is finished. */
static void messages_settle(struct daemon *daemon, struct message *message)
{
    struct run *run = message->run;
    bool uncomputed =
        !message->code && (message->header.in_parts || !header_is_measured(&message->header));
    if (message->stage == STAGE_DETACHED) {
        queue_join(run, message, inbox_now_ns(&daemon->inbox));
        messages_account(daemon, message);
    } else if (message != run->queue && !uncomputed) {
        /* it has to wait for its turn: its numbers are enough */
        uint64_t bytes = message_free_tensors(message);
        message->cost -= bytes;
        ingest_release(daemon->ingest, message->share, bytes, message->reserved);
    }
    messages_make_ready(daemon, run);
}

/* Goes on with messages that had to wait for messages that have been taken now, or for long enough.
 * Recorders get them in this order, too: a `bye` ends a recording. */
static void messages_release(struct daemon *daemon, struct run *run)
{
    struct message *message;
    while ((message = hold_take(run, inbox_now_ns(&daemon->inbox)))) {
        if (!message->code) {
            tap_message(daemon->tap, message);
        }
        bool compute = queue_put(run, message, inbox_now_ns(&daemon->inbox));
        if (!compute || !messages_compute(daemon, message)) {
            messages_settle(daemon, message);
        }
    }
}

void messages_stop_if_drained(struct daemon *daemon)
{
    if (daemon->ingest_stopped && inbox_depth(&daemon->inbox) == 0 && daemon->in_flight == 0 &&
        !daemon->ready) {
        daemon->drained = true;
        uv_timer_stop(&daemon->deadline);
        uv_stop(&daemon->loop);
    }
}

/* Runs that are ready take their turns until a time. */
static void messages_take_turns(struct daemon *daemon, uint64_t end_ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    for (; daemon->ready && now_ns < end_ns; now_ns = clock_monotonic_ns()) {
        struct run *run = messages_next_ready(daemon);
        daemon->turn_ends_ns = now_ns + TURN_NS;
        if (messages_take(daemon, run)) {
            messages_make_ready(daemon, run);
        }
        messages_release(daemon, run);
    }
    daemon->turn_ends_ns = 0;
}

bool messages_pause(void *data, struct run *run)
{
    struct daemon *daemon = data;
    uint64_t rest_ns = uv_now(&daemon->loop) * 1000000 + REST_NS;
    if (clock_monotonic_ns() < (daemon->turn_ends_ns ? daemon->turn_ends_ns : rest_ns)) {
        return false;
    }
    messages_make_ready(daemon, run);
    return true;
}

static void messages_on_turn(uv_idle_t *turns)
{
    struct daemon *daemon = turns->data;
    messages_take_turns(daemon, clock_monotonic_ns() + ROUND_NS);
    if (!daemon->ready) {
        uv_idle_stop(turns);
    }
    control_settle(daemon->control);
    messages_stop_if_drained(daemon);
}

void messages_on_arrived(struct daemon *daemon, struct message *message)
{
    bool compute, whole = !message->code; /* else its tensors are gone */
    stats_received(&daemon->stats, message->bytes);
    int behind = lane_is_behind(message->promise), code = behind;
    if (!behind) {
        code = registry_arrive(daemon->registry, message, message->received_ns, &compute);
    }
    if (whole && (code || message->stage != STAGE_HELD)) {
        tap_message(daemon->tap, message);
    }
    if (code) {
        message->code = code;
        bool repeated = code == ERR_REPEATED;
        stats_add(&daemon->stats, COUNT_RELIABLE_DUPLICATES, repeated);
        if (message->promise && !repeated) {
            message->promise->code = behind ? ERR_AGAIN : code;
        }
        if (message->promise && !behind) {
            lane_pass_over(message->promise);
        }
        messages_account(daemon, message);
        return;
    }
    struct run *run = message->run;
    if (message->stage != STAGE_HELD && (!compute || !messages_compute(daemon, message))) {
        messages_settle(daemon, message);
    }
    messages_release(daemon, run);
}

void messages_on_done(struct daemon *daemon, struct message *message)
{
    struct stats *stats = &daemon->stats;
    struct run *run = message->run;
    struct work_queue *work = run->work;
    daemon->in_flight--;
    latency_add_between(&stats->latency[LATENCY_WAITING], message->received_ns, message->begun_ns);
    latency_add_between(&stats->latency[LATENCY_COMPUTING], message->begun_ns,
                        message->computed_ns);
    int code = work_finish(message->work, &message->measured);
    message->code = message->code ? message->code : code; /* it may have been refused meanwhile */
    queue_finish(message->run, message);
    if (!code) {
        stats_add(stats, COUNT_SPECTRA, message->measured->spectra);
        stats_add(stats, COUNT_SPECTRA_SKIPPED, message->measured->spectra_skipped);
    }
    messages_settle(daemon, message);
    messages_release(daemon, run);
    work_submit(work, daemon->pool);
}

void messages_give_up(struct daemon *daemon)
{
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        messages_release(daemon, run);
    }
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        messages_account_lost(daemon, run);
    }
}

void messages_finish(struct daemon *daemon, uint64_t deadline_ns)
{
    uint64_t left = 0;
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        /* Nothing more is computed: what waits for it, or for its place, is left. */
        struct message *message;
        while ((message = hold_take(run, UINT64_MAX))) {
            if (!message->code) {
                tap_message(daemon->tap, message);
            }
            if (!header_is_measured(&message->header) || message->code) {
                queue_put(run, message, inbox_now_ns(&daemon->inbox));
            } else {
                message_free(&message); /* nobody computes it any more: it will be sent again */
            }
        }
        queue_skip_unfinished(run);
        messages_make_ready(daemon, run);
    }
    messages_take_turns(daemon, deadline_ns);
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        assembly_give_up(run, UINT64_MAX);
        messages_account_lost(daemon, run);
        closing_show(run);
    }
    messages_take_turns(daemon, deadline_ns);
    for (struct run *run = NULL; (run = registry_next(daemon->registry, run));) {
        left += run_busy(run);
        if (run->closer) {
            messages_account(daemon, run->closer);
            run->closer = NULL;
        }
    }
    if (left > 0) {
        log_event(LOG_WARNING, "windows_left", LOG_NUM("runs", left),
                  LOG_STR("detail", "shutdown.timeout was too short to publish all their windows"));
    }
}

void messages_settle_promises(void *data, struct promises *promises)
{
    struct daemon *daemon = data;
    ingest_settle(daemon->ingest, promises);
}

void messages_put_result(void *data, const struct run *run, const char *topic, uint32_t track,
                         struct mpk_writer *writer, enum result_kind kind)
{
    struct daemon *daemon = data;
    stats_add(&daemon->stats, COUNT_SUMMARIES, kind == RESULT_SUMMARY || kind == RESULT_CORRECTION);
    char held[TOPIC_MAX];
    /* Events of one topic take each other's place; what is kept under a track of its own does not.
     */
    if (kind == RESULT_OTHER && track > 0) {
        snprintf(held, sizeof held, "%s%u", topic, track);
    } else {
        snprintf(held, sizeof held, "%s", topic);
    }
    /* The page knows no sketches: it would show one in the place of the newest of attention. */
    bool shown = kind != RESULT_OTHER || track != LIVE_SKETCHES;
    if (mpk_writer_ok(writer) && shown) {
        http_put(daemon->http, held, writer->buffer.data, writer->buffer.size);
    }
    if (kind == RESULT_ALERT) {
        publisher_send(daemon->publisher, topic, writer);
        notify_put(daemon->notify, writer->buffer.data, writer->buffer.size);
    } else if (kind == RESULT_CORRECTION) {
        publisher_send(daemon->publisher, topic, writer);
    } else {
        publisher_put(daemon->publisher, run->id, topic, track, writer, kind == RESULT_SUMMARY);
    }
}

bool messages_recall(void *data, const struct run *run, const char *topic, uint32_t track,
                     struct mpk_writer *writer)
{
    struct daemon *daemon = data;
    return publisher_recall(daemon->publisher, run->id, topic, track, writer);
}
