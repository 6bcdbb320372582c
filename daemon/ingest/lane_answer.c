/* SPDX-License-Identifier: MIT */
/* Credit counts bytes that were received and that the peer has not been told to be free. It is told
 * when a quarter of its credit has come together, or when nothing of it is left here; so a peer
 * that has sent all it may hears of it, and answers stay few. One that does not read its answers
 * gets no further credit, which bounds what waits for it.
 *
 * ROUTER_MANDATORY makes sending fail for a peer that is gone: one that comes back asks anew. */
#include "daemon/ingest/lane_internal.h"

#include "proto/err.h"
#include "daemon/ingest/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Entries of one answer. */
#define ANSWER_MAX 4096

/* The lists of an answer. A repeated message is in two of them: it is acknowledged, too. */
enum told { TOLD_ACK, TOLD_REFUSED, TOLD_REPEATED, TOLD_COUNT };

static const char *const told_keys[TOLD_COUNT] = {"ack", "refused", "repeated"};

void lane_have_say(struct lane *lane, struct lane_peer *peer)
{
    if (!peer->speaks) {
        peer->speaks = true;
        peer->speaks_next = lane->speaks;
        lane->speaks = peer;
    }
}

void lane_have_again(struct lane *lane, struct lane_peer *peer, int why)
{
    peer->again = true;
    peer->cut = why;
    lane_have_say(lane, peer);
}

static bool lane_is_told(const struct promise *promise, enum told list)
{
    bool refused = promise->code != 0;
    return list == TOLD_REFUSED ? refused : !refused && (list == TOLD_ACK || promise->repeated);
}

/* How many the next answer has in each list. */
static void lane_count_told(const struct lane_peer *peer, uint32_t ret_counts[TOLD_COUNT])
{
    const struct promise *p = peer->told.first;
    memset(ret_counts, 0, TOLD_COUNT * sizeof ret_counts[0]);
    for (uint32_t all = 0; p && all < ANSWER_MAX; p = p->next, all++) {
        for (enum told list = 0; list < TOLD_COUNT; list++) {
            ret_counts[list] += lane_is_told(p, list);
        }
    }
}

static void lane_put_told(struct mpk_writer *writer, const struct lane_peer *peer, enum told list,
                          uint32_t count)
{
    if (count == 0) {
        return;
    }
    mpk_pair_array(writer, told_keys[list], count);
    for (const struct promise *p = peer->told.first; count > 0; p = p->next) {
        if (!lane_is_told(p, list)) {
            continue;
        }
        count--;
        if (list == TOLD_REFUSED) {
            mpk_put_array(writer, 2);
        }
        mpk_put_u64(writer, p->id);
        if (list == TOLD_REFUSED) {
            mpk_put_str(writer, err_slug(p->code));
        }
    }
}

int lane_send(struct lane *lane, const struct lane_peer *peer, const struct mpk_writer *writer)
{
    zmq_msg_t body;
    if (!mpk_writer_ok(writer) || zmq_msg_init_size(&body, writer->buffer.size) != 0) {
        return ERR_AGAIN;
    }
    memcpy(zmq_msg_data(&body), writer->buffer.data, writer->buffer.size);
    int rc = zmq_send(lane->socket, peer->routing, peer->routing_size, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    int code = rc >= 0 ? 0 : zmq_errno() == EHOSTUNREACH ? ERR_CLOSED : ERR_AGAIN;
    while (!code && zmq_msg_send(&body, lane->socket, ZMQ_DONTWAIT) < 0) {
        code = zmq_errno() == EINTR ? 0 : ERR_AGAIN; /* the context has ended */
    }
    zmq_msg_close(&body);
    return code;
}

/* After `count` promises were told. */
static void lane_strike(struct lane_peer *peer, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(promises_take(&peer->told));
    }
}

/* Whether enough is free to be worth telling. */
static bool lane_is_due(const struct lane_peer *peer)
{
    return peer->asked ||
           (peer->free > 0 && (peer->free >= lane_allows(peer) / 4 || !peer->messages));
}

/* The credit that one has that asks for it anew; what is still here it gets back later. */
static uint64_t lane_credit_of(const struct lane_peer *peer)
{
    uint64_t held = peer->held - peer->free, most = lane_allows(peer);
    return !peer->asked ? peer->free : held < most ? most - held : 0;
}

/* Says one thing. Returns as lane_send. */
static int lane_say(struct lane *lane, struct lane_peer *peer)
{
    bool due = lane_is_due(peer);
    uint32_t told[TOLD_COUNT];
    struct mpk_writer writer;
    lane_count_told(peer, told);
    bool waits = peer->why && !told[TOLD_ACK]; /* what was answered before is said before */
    mpk_writer_init(&writer);
    struct mpk_open map = mpk_open(&writer, NULL);
    if (due) {
        mpk_pair_u64(&writer, "credit", lane_credit_of(peer));
    }
    if (peer->again) {
        mpk_pair_bool(&writer, "again", true);
    }
    for (enum told list = 0; list < TOLD_COUNT; list++) {
        lane_put_told(&writer, peer, list, told[list]);
    }
    if (waits) {
        mpk_pair_str(&writer, "waits", peer->why);
    }
    mpk_close_map(&writer, &map);
    int code = lane_send(lane, peer, &writer);
    mpk_writer_clear(&writer);
    if (!code && due) {
        peer->held -= peer->free;
        peer->free = 0;
        peer->asked = false;
    }
    if (!code && (waits || told[TOLD_ACK] > 0)) {
        peer->waits = waits;
        peer->why = waits ? NULL : peer->why;
    }
    if (!code) {
        peer->again = false;
        lane_strike(peer, told[TOLD_ACK] + told[TOLD_REFUSED]);
    }
    return code;
}

static bool lane_has_say(const struct lane_peer *peer)
{
    return peer->told.first || peer->again || peer->why || lane_is_due(peer);
}

void lane_speak(struct lane *lane)
{
    struct lane_peer *list = lane->speaks;
    lane->speaks = NULL;
    while (list) {
        struct lane_peer *peer = list;
        int code = peer->gone ? ERR_CLOSED : 0;
        list = peer->speaks_next;
        peer->speaks = false;
        while (!code && lane_has_say(peer)) {
            code = lane_say(lane, peer);
        }
        if (code == ERR_AGAIN) {
            lane_have_say(lane, peer);
        } else if (code) {
            lane_lose(lane, peer);
        }
        lane_forget_idle(lane, peer);
    }
}

/* A peer is known from its join until it is found to be gone, or as long as something of it is
 * here: a message, a promise, or an answer that it has not been told. A stranger who connects and
 * says nothing costs nothing. */

struct lane_peer *lane_know(struct lane *lane, const void *routing, size_t size)
{
    struct lane_peer *peer = NULL;
    HASH_FIND(hh, lane->peers, routing, size, peer);
    if (peer || size > ROUTING_MAX) {
        return peer;
    }
    peer = calloc(1, sizeof *peer);
    if (!peer) {
        return NULL;
    }
    memcpy(peer->routing, routing, size);
    peer->routing_size = (uint32_t)size;
    peer->waiting_last = &peer->waiting;
    HASH_ADD(hh, lane->peers, routing, size, peer);
    if (!peer->hh.tbl) {
        free(peer);
        return NULL;
    }
    return peer;
}

uint64_t lane_allows(const struct lane_peer *peer)
{
    return peer->credit ? peer->credit : CREDIT_MIN;
}

void lane_lose(struct lane *lane, struct lane_peer *peer)
{
    lane->shared -= peer->credit;
    peer->credit = 0;
    peer->gone = true;
    peer->asked = peer->again = peer->waits = false;
    peer->why = NULL;
    peer->held -= peer->free;
    peer->free = 0;
    promises_free(&peer->told);
}

void lane_forget_idle(struct lane *lane, struct lane_peer *peer)
{
    if (peer->credit || peer->messages || peer->promises || peer->told.first || peer->speaks) {
        return;
    }
    HASH_DEL(lane->peers, peer);
    free(peer);
}

void lane_free_peer(struct lane_peer *peer)
{
    while (peer->waiting) {
        struct message *message = peer->waiting;
        peer->waiting = message->next;
        message_free(&message);
    }
    promises_free(&peer->told);
    free(peer);
}
