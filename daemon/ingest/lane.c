/* SPDX-License-Identifier: MIT */
/* All that peers have credit for could wait here at once, while ingest.budget is used up. So joins
 * share out as much again: each gets a part of what is left, and CREDIT_MIN at least, which one has
 * that never joined, too. It stays what it is, since credit cannot be taken back from a peer that
 * does not use it. ROUTER does not say who has gone: when half is shared out, joins have those
 * asked who say nothing. */
#include "daemon/ingest/lane.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/unfinished.h"
#include "daemon/ingest/lane_internal.h"
#include "daemon/ingest/refused.h"
#include "proto/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ID_BYTES 8
/* The part of what is left that a join gets; how often it is looked who has gone. */
#define CREDIT_PART  16
#define LOOK_EACH_NS UINT64_C(1000000000)
/* Promises of one peer, and of all. */
#define PEER_PROMISES_MAX UINT64_C(65536)
#define PROMISES_MAX      (UINT64_C(1) << 20)
/* Answers that wait in ZeroMQ for one peer. */
#define SEND_QUEUE 1000
/* So much is received at most before others have their turn, when none of it is to be taken. */
#define SETS_PER_TURN 64

/* Answers */

/* Its sender is to send it again. */
static bool lane_is_transient(const struct promise *promise)
{
    return promise->code == ERR_AGAIN || promise->code == ERR_MEMORY ||
           promise->code == ERR_HISTORY_UNREAD;
}

void lane_pass_over(const struct promise *promise)
{
    bool no_room = promise->code == ERR_JOB_LIMIT || promise->code == ERR_RUN_LIMIT;
    if (no_room || lane_is_transient(promise)) {
        promise->peer->passed = promise->code;
        promise->peer->passed_join = promise->join;
    }
}

int lane_is_behind(const struct promise *promise)
{
    return promise && promise->peer->passed_join == promise->join ? promise->peer->passed : 0;
}

static void lane_tell(struct lane *lane, struct promise *promise)
{
    struct lane_peer *peer = promise->peer;
    peer->promises--;
    lane->promises--;
    if (lane_is_transient(promise)) {
        lane_have_again(lane, peer, promise->code);
        free(promise);
        return;
    }
    promise->code = promise->code ? promise->code : promise->dropped;
    stats_add(lane->stats, promise->code ? COUNT_RELIABLE_REFUSED : COUNT_RELIABLE_ACKNOWLEDGED, 1);
    promises_add(&peer->told, promise);
    lane_have_say(lane, peer);
}

/* After all answers that came before it. */
static void lane_take_wait(struct lane *lane, const char *why)
{
    struct lane_peer *peer, *next;
    HASH_ITER(hh, lane->peers, peer, next)
    {
        if (peer->promises > 0 && peer->credit && !peer->waits) {
            peer->why = why;
            lane_have_say(lane, peer);
        }
    }
}

bool lane_go_on(struct lane *lane)
{
    const char *why = atomic_exchange(&lane->why, NULL);
    /* Takes in what other threads handed back. */
    pthread_mutex_lock(&lane->lock);
    struct lane_peer *returns = lane->returns;
    struct promises settled = lane->settled;
    lane->returns = NULL;
    lane->settled = (struct promises){0};
    for (struct lane_peer *peer = returns; peer; peer = peer->returns_next) {
        peer->returns = false;
        peer->free += peer->returned;
        peer->messages -= peer->returned_messages;
        peer->returned = peer->returned_messages = 0;
        lane_have_say(lane, peer);
    }
    pthread_mutex_unlock(&lane->lock);
    struct promise *promise;
    while ((promise = promises_take(&settled))) {
        lane_tell(lane, promise);
    }
    if (why) {
        lane_take_wait(lane, why);
    }
    lane_speak(lane);
    return lane->speaks || lane->waits;
}

/* A message takes CHARGE_MIN of its credit at least: about what one costs here while it waits. */
static uint64_t lane_charge(uint64_t bytes)
{
    return bytes > CHARGE_MIN ? bytes : CHARGE_MIN;
}

bool lane_return(struct lane *lane, struct lane_peer *peer, uint64_t bytes)
{
    pthread_mutex_lock(&lane->lock);
    bool wake = !lane->returns && !lane->settled.first;
    peer->returned += lane_charge(bytes);
    peer->returned_messages++;
    if (!peer->returns) {
        peer->returns = true;
        peer->returns_next = lane->returns;
        lane->returns = peer;
    }
    pthread_mutex_unlock(&lane->lock);
    return wake;
}

bool lane_settle(struct lane *lane, struct promises *promises)
{
    if (!promises->first) {
        return false;
    }
    pthread_mutex_lock(&lane->lock);
    bool wake = !lane->returns && !lane->settled.first;
    promises_move(&lane->settled, promises);
    pthread_mutex_unlock(&lane->lock);
    return wake;
}

void lane_say_wait(struct lane *lane, const char *why)
{
    atomic_store(&lane->why, why);
}

/* Receiving */

static void lane_count_refused(struct lane *lane, uint64_t bytes, int code)
{
    stats_received(lane->stats, bytes);
    refused_log(NULL, code, NULL, stats_drop(lane->stats, code));
}

/* Makes the promise, unless that is more than the peer may have on its way. */
static int lane_accept(struct lane *lane, struct lane_peer *peer, uint64_t id,
                       struct message *message)
{
    uint64_t held = peer->held, most = lane_allows(peer), charge = lane_charge(message->bytes);
    if (held > 0 && (held > most || charge > most - held)) {
        return ERR_OVER_CREDIT;
    }
    message->promise = calloc(1, sizeof *message->promise);
    if (!message->promise) {
        return ERR_MEMORY;
    }
    message->promise->peer = message->peer = peer;
    message->promise->id = id;
    message->promise->bytes = message->bytes;
    message->promise->join = peer->joins;
    peer->held += charge;
    peer->messages++;
    peer->promises++;
    lane->promises++;
    stats_add(lane->stats, COUNT_RELIABLE_RECEIVED, 1);
    return 0;
}

/* The credit of one that joins. */
static uint64_t lane_share_out(struct lane *lane)
{
    uint64_t now_ns = clock_monotonic_ns();
    if (lane->shared > lane->share / 2 && now_ns >= lane->look_next_ns) {
        lane->look_next_ns = now_ns + LOOK_EACH_NS;
        /* Whoever has gone leaves its credit to others; the answer that tells says nothing. */
        struct lane_peer *peer, *next;
        struct mpk_writer nothing;
        mpk_writer_init(&nothing);
        mpk_put_map(&nothing, 0);
        HASH_ITER(hh, lane->peers, peer, next)
        {
            bool asks = peer->credit && !peer->speaks;
            if (asks && lane_send(lane, peer, &nothing) == ERR_CLOSED) {
                lane_lose(lane, peer);
                lane_forget_idle(lane, peer);
            }
        }
        mpk_writer_clear(&nothing);
    }
    uint64_t left = lane->share > lane->shared ? lane->share - lane->shared : 0;
    uint64_t part = left / CREDIT_PART;
    return part > CREDIT_MIN ? part : CREDIT_MIN;
}

/* The number in the frame after the routing id. */
static bool lane_read_id(zmq_msg_t *frame, uint64_t *ret_id)
{
    const uint8_t *bytes = zmq_msg_data(frame);
    *ret_id = 0;
    for (size_t i = 0; zmq_msg_size(frame) == ID_BYTES && i < ID_BYTES; i++) {
        *ret_id |= (uint64_t)bytes[i] << 8 * i;
    }
    return zmq_msg_size(frame) == ID_BYTES;
}

/* Receives what follows the id; of a message without a form, or without memory, nothing is left. */
static int lane_take_rest(struct lane *lane, struct lane_peer *peer, bool valid, uint64_t id,
                          bool more, struct message **ret_message)
{
    struct message *message = NULL;
    int code = more ? message_receive_rest(lane->socket, &message) : ERR_FRAMES_MISSING;
    if (code == ERR_CLOSED) {
        return code;
    }
    code = code ? code : !peer ? ERR_MEMORY : valid && id ? 0 : ERR_FRAMES_MISSING;
    code = code ? code : peer->cut; /* it comes again, behind what has no answer */
    if (!code) {
        code = lane_accept(lane, peer, id, message);
    }
    if (code) {
        lane_count_refused(lane, message ? message->bytes : 0, code);
        message_free(&message);
        if (code == ERR_MEMORY && peer) {
            lane_have_again(lane, peer, code);
        }
        return ERR_AGAIN;
    }
    *ret_message = message;
    return 0;
}

/* There is no memory to know this peer: it is to come again, and hears so at once or never. */
static void lane_turn_away(struct lane *lane, const void *routing, size_t size)
{
    struct lane_peer stranger = {.routing_size = (uint32_t)size};
    struct mpk_writer writer;
    memcpy(stranger.routing, routing, size);
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_bool(&writer, "again", true);
    (void)lane_send(lane, &stranger, &writer);
    mpk_writer_clear(&writer);
}

/* Returns 0 with a message, or without one when that was none to be taken; else as lane_receive. */
static int lane_receive_one(struct lane *lane, struct message **ret_message)
{
    zmq_msg_t routing, frame;
    uint64_t id = 0;
    zmq_msg_init(&routing);
    if (zmq_msg_recv(&routing, lane->socket, ZMQ_DONTWAIT) < 0) {
        int error = zmq_errno();
        zmq_msg_close(&routing);
        return error == EAGAIN || error == EINTR ? ERR_AGAIN : ERR_CLOSED;
    }
    zmq_msg_init(&frame);
    if (!zmq_msg_more(&routing) || message_receive_frame(&frame, lane->socket) < 0) {
        zmq_msg_close(&routing);
        zmq_msg_close(&frame);
        return ERR_CLOSED;
    }
    struct lane_peer *peer = lane_know(lane, zmq_msg_data(&routing), zmq_msg_size(&routing));
    bool valid = lane_read_id(&frame, &id), more = zmq_msg_more(&frame);
    unfinished_taken(&frame);
    if (peer) {
        peer->gone = false; /* it is back, under the routing id that it chose */
    } else if (zmq_msg_size(&routing) <= ROUTING_MAX) {
        lane_turn_away(lane, zmq_msg_data(&routing), zmq_msg_size(&routing));
    }
    zmq_msg_close(&routing);
    zmq_msg_close(&frame);
    int code = 0;
    *ret_message = NULL;
    if (peer && valid && id == 0 && !more) {
        /* As long as it has not heard, it may ask as often as it likes: one answer is for all of
         * it. */
        if (!peer->credit) {
            peer->credit = lane_share_out(lane);
            lane->shared += peer->credit;
        }
        if (!peer->asked) {
            peer->asked = true;
            peer->cut = 0;
            peer->joins++;
            lane_have_say(lane, peer);
        }
    } else {
        code = lane_take_rest(lane, peer, valid, id, more, ret_message);
    }
    if (peer && !*ret_message) {
        lane_forget_idle(lane, peer);
    }
    return code == ERR_AGAIN ? 0 : code;
}

int lane_receive(struct lane *lane, struct message **ret_message)
{
    int code = 0;
    *ret_message = NULL;
    for (int left = SETS_PER_TURN; !code && !*ret_message && left > 0; left--) {
        code = lane_receive_one(lane, ret_message);
    }
    return code;
}

/* Waiting */

bool lane_is_open(struct lane *lane, const struct message *message)
{
    const struct lane_peer *peer = message->peer;
    return !peer->waiting && peer->promises <= PEER_PROMISES_MAX &&
           lane->promises <= PROMISES_MAX && (!lane->is_open || lane->is_open(lane->gate));
}

void lane_wait(struct lane *lane, struct message *message)
{
    struct lane_peer *peer = message->peer;
    if (!peer->waiting) {
        peer->waits_next = lane->waits;
        lane->waits = peer;
    }
    atomic_fetch_add(&lane->waiting, message->cost);
    message->next = NULL;
    *peer->waiting_last = message;
    peer->waiting_last = &message->next;
}

/* Returns whether some wait on. */
static bool lane_retry_peer(struct lane *lane, struct lane_peer *peer,
                            bool (*take)(void *data, struct message *message), void *data)
{
    struct message *list = peer->waiting;
    peer->waiting = NULL;
    while (list) {
        struct message *next = list->next;
        uint64_t cost = list->cost;
        if (!take(data, list)) {
            break;
        }
        atomic_fetch_sub(&lane->waiting, cost);
        list = next;
    }
    peer->waiting = list;
    if (!list) {
        peer->waiting_last = &peer->waiting;
    }
    return list;
}

void lane_retry(struct lane *lane, bool (*take)(void *data, struct message *message), void *data)
{
    struct lane_peer **link = &lane->waits;
    while (*link) {
        struct lane_peer *peer = *link;
        if (lane_retry_peer(lane, peer, take, data)) {
            link = &peer->waits_next;
        } else {
            *link = peer->waits_next;
        }
    }
}

void lane_refuse(struct lane *lane, struct message *message, int code)
{
    struct promise *promise = message->promise;
    message->promise = NULL;
    promise->code = code;
    lane_tell(lane, promise);
}

/* Life */

int lane_new(void *zmq_context, struct keyring *keys, struct config *config, struct stats *stats,
             struct lane **ret_lane, char *reterr)
{
    struct lane *lane = calloc(1, sizeof *lane);
    int mandatory = 1;
    if (!lane) {
        snprintf(reterr, CONFIG_ERROR_MAX, "reliable.endpoint: %s", err_text(ERR_MEMORY));
        return -1;
    }
    struct endpoint_options options = {
        .key = "reliable.endpoint",
        .endpoint = config->reliable_endpoint.text,
        .type = ZMQ_ROUTER,
        .send_queue = SEND_QUEUE,
        .max_message = 2 * (int64_t)config->ingest_max_message, /* as ingest's */
        .keys = keys,
        .ret_file = &lane->file,
    };
    pthread_mutex_init(&lane->lock, NULL); /* cannot fail for a default mutex on Linux */
    lane->stats = stats;
    lane->share = config->ingest_budget;
    lane->socket = endpoint_bind(zmq_context, &options, reterr);
    if (!lane->socket) {
        lane_free(&lane);
        return -1;
    }
    zmq_setsockopt(lane->socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory);
    lane->keys = endpoint_is_secured(keys, options.endpoint) ? keys : NULL;
    *ret_lane = lane;
    return 0;
}

void lane_close(struct lane *lane)
{
    if (lane->socket) {
        zmq_close(lane->socket);
    }
    lane->socket = NULL;
}

void lane_log_unanswered(struct lane *lane)
{
    uint64_t count = lane->promises;
    pthread_mutex_lock(&lane->lock);
    for (const struct promise *p = lane->settled.first; p; p = p->next) {
        count -= p->code == 0;
    }
    pthread_mutex_unlock(&lane->lock);
    if (count > 0) {
        log_event(LOG_WARNING, "reliable_unanswered", LOG_NUM("messages", count),
                  LOG_STR("detail", "not in the history: trainers or their spools have them"));
    }
}

void lane_free(struct lane **lane_p)
{
    struct lane *lane = *lane_p;
    struct lane_peer *peer, *next;
    if (!lane) {
        return;
    }
    lane_log_unanswered(lane);
    lane_close(lane);
    promises_free(&lane->settled);
    HASH_ITER(hh, lane->peers, peer, next)
    {
        HASH_DEL(lane->peers, peer);
        lane_free_peer(peer);
    }
    pthread_mutex_destroy(&lane->lock);
    free(lane);
    *lane_p = NULL;
}
