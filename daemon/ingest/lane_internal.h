/* SPDX-License-Identifier: MIT */
/* lane_internal: the lane and its peers, for receiving (lane.c), answering (lane_answer.c) and the
 * thread that owns it (ingest.c). Others see lane.h. */
#ifndef DAEMON_INGEST_LANE_INTERNAL_H
#define DAEMON_INGEST_LANE_INTERNAL_H

#include "daemon/base/endpoint.h"
#include "daemon/base/hash.h"
#include "daemon/ingest/lane.h"
#include "proto/mpk.h"

#include <pthread.h>
#include <stdatomic.h>

/* ZeroMQ's bound of a routing id. */
#define ROUTING_MAX 255
/* The least credit: of one that has not joined. */
#define CREDIT_MIN UINT64_C(65536)

struct lane_peer {
    uint8_t routing[ROUTING_MAX];
    uint32_t routing_size;
    bool gone;            /* it cannot be told anything */
    uint64_t credit;      /* shared out to it; 0: it has not joined */
    uint64_t held;        /* bytes received, and not told to be free */
    uint64_t free;        /* of these: to be told */
    uint64_t messages;    /* here */
    uint64_t promises;    /* made, and not answered */
    struct promises told; /* to be told; no longer counted in `promises` */
    bool asked;           /* it has joined, and not heard of its credit */
    bool again;           /* it is to be told to send again what has no answer */
    int cut;              /* why it was, or is to be, since it joined; 0: it was not */
    uint64_t joins;
    uint64_t passed_join; /* the loop's: of the message that lane_pass_over was about */
    int passed;           /* the loop's: and why; 0: there is none */
    const char *why;      /* to be told: why nothing is answered now; or NULL */
    bool waits;           /* it was told, and nothing was acknowledged since */
    bool speaks;          /* it is in the list of those that are to be told something */
    struct lane_peer *speaks_next;
    struct message *waiting, **waiting_last;
    struct lane_peer *waits_next; /* of those that have messages waiting */
    /* by other threads, under the lock */
    uint64_t returned, returned_messages;
    bool returns; /* it is in the list of those that get something back */
    struct lane_peer *returns_next;
    UT_hash_handle hh;
};

struct lane {
    void *socket;
    struct endpoint_file file;
    struct keyring *keys; /* that it asks its senders for; NULL: none */
    struct stats *stats;
    uint64_t share;  /* of all; beyond it CREDIT_MIN of each */
    uint64_t shared; /* what peers have of it */
    uint64_t look_next_ns;
    /* Whether promises may be made now, before each message is taken: not while the history is
     * full; `gate` is its data. Set before the ingest thread starts; NULL: always. */
    bool (*is_open)(void *data);
    void *gate;
    struct lane_peer *peers;  /* by routing id */
    struct lane_peer *speaks; /* have something to be told */
    struct lane_peer *waits;  /* have messages waiting */
    uint64_t promises;
    _Atomic uint64_t waiting;  /* bytes: what the messages that wait cost */
    _Atomic(const char *) why; /* of lane_say_wait, until peers were looked at for it */
    pthread_mutex_t lock;      /* guards the rest */
    struct lane_peer *returns;
    struct promises settled;
};

/* The peer of this routing id, from now on; NULL when out of memory, or for an id that no client of
 * ZeroMQ has. */
struct lane_peer *lane_know(struct lane *lane, const void *routing, size_t size);
/* Bytes that it may have on their way. */
uint64_t lane_allows(const struct lane_peer *peer);
/* Nobody is there to be told. */
void lane_lose(struct lane *lane, struct lane_peer *peer);
/* Frees the peer when nothing of it is here and no list has it. */
void lane_forget_idle(struct lane *lane, struct lane_peer *peer);
/* At the end, with what waits. */
void lane_free_peer(struct lane_peer *peer);

/* It is to be told something, or may be forgotten: lane_speak looks at it. */
void lane_have_say(struct lane *lane, struct lane_peer *peer);
/* A message of it will never have an answer, unless it is sent again. */
void lane_have_again(struct lane *lane, struct lane_peer *peer, int why);
/* Tells each peer what there is; those that cannot take it now stay in the list. */
void lane_speak(struct lane *lane);
/* Nothing may fail between the two frames: what is sent next would go to this peer. Returns 0,
 * ERR_AGAIN when it is to be tried again, ERR_CLOSED when nobody is there. */
int lane_send(struct lane *lane, const struct lane_peer *peer, const struct mpk_writer *writer);

#endif
