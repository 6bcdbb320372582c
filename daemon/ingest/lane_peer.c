/* SPDX-License-Identifier: MIT */
/* A peer is known from its join until it is found to be gone, or as long as something of it is
 * here: a message, a promise, or an answer that it has not been told. A stranger who connects and
 * says nothing costs nothing. */
#include "daemon/ingest/lane_internal.h"
#include "daemon/ingest/message.h"

#include <stdlib.h>
#include <string.h>

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
