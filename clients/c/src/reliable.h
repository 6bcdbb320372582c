/* SPDX-License-Identifier: MIT */
/* reliable: the lane that loses nothing (PROTOCOL.md, section 7): a DEALER beside the XPUB of a
 * publisher.
 *
 * A message is kept, in memory or in a spool, until attnd has said that it is in the history. attnd
 * says how many bytes it takes; what it has not acknowledged when a connection ends is sent again,
 * in its order and by its id, over the next one. A message that finds no room waits in the sender's
 * queue as long as answers come; else it is refused, and counted by the sender.
 *
 * The sending thread's alone, but for what says otherwise. */
#ifndef CLIENTS_C_SRC_RELIABLE_H
#define CLIENTS_C_SRC_RELIABLE_H

#include "clients/c/include/attn/attn.h"
#include "clients/c/src/kept.h"
#include "clients/c/src/message.h"
#include "clients/c/src/warner.h"
#include "proto/address.h"
#include "proto/key.h"

#include <msgpack.h>

#define KEPT_BUCKETS 1024

struct kept_list {
    struct kept *first, *last;
    struct kept *unsent; /* the first that is not sent; those after it are not, either */
};

/* Calls of the sender. */
struct kept_events {
    /* A message of the publisher's own was acknowledged or refused, or the disk has lost it. */
    void (*settled)(void *sender, const struct kept *entry, bool lost);
    /* attnd refuses a message because of the key that it came with. */
    void (*denied)(void *sender);
    void *sender;
};

struct reliable {
    struct kept_events events;
    struct warner *warner; /* the publisher's */
    uint64_t bytes_max;
    char *directory; /* of the spool, owned; NULL: in memory */
    struct spool *spool;
    const struct key_client *keys;
    void *context;

    bool joined;             /* attnd has answered, once */
    bool full;               /* the newest found no room, and nothing was acknowledged since */
    bool awaited;            /* the next waits for room, and nothing was acknowledged since */
    uint64_t answered_ms;    /* or began to be waited for */
    uint64_t unacknowledged; /* messages of the publisher's own that are counted */
    uint64_t tensors;        /* messages of the publisher's own with tensors */
    uint64_t in_memory;      /* of these: not in files */
    uint64_t spooled;        /* messages in files, of others too */
    uint64_t refused;        /* messages */
    uint64_t in_doubt;       /* messages that attnd had: ours, or another's, should one show */
    bool shared;             /* another process has our run and rank */
    uint64_t spool_errors; /* messages that could not be written or read; files that were damaged */

    uint64_t number; /* of the newest */
    uint64_t bytes, left_bytes;
    struct kept_list own, left;
    struct kept *sent[KEPT_BUCKETS];

    char endpoint[ADDRESS_MAX]; /* "": attnd is not there, or has no lane */
    void *socket, *monitor;
    uint64_t announced_ms, again_ms, pause_ms; /* again_ms 0: not */
    int64_t credit, first_credit;              /* 0: not joined on this connection */
};

/* The lane of the daemon at an endpoint of ingest that has announced this port: false when it has
 * none there. */
bool reliable_endpoint(const char *ingest, uint64_t port, char ret_endpoint[ADDRESS_MAX]);

/* attnd is there, and its lane at this endpoint; "": it has none, or attnd has gone. */
void reliable_announce(struct reliable *lane, const char *endpoint);

/* Whether the first answer may come at any moment. */
bool reliable_is_joining(const struct reliable *lane);

/* Takes in what attnd says, and sends what it has room for. Does not block. */
void reliable_tend(struct reliable *lane);

/* Its sockets, to be polled; it has something to do at `again_ms`, too. Returns how many. */
int reliable_items(const struct reliable *lane, zmq_pollitem_t ret_items[2]);

/* Whether a message of so many bytes has no room, but will soon: attnd is there and answers. */
bool reliable_must_wait(struct reliable *lane, uint64_t bytes);

/* Keeps a message until it is acknowledged; its tensors are shared. Returns 0, ATTN_E_DROPPED when
 * there is no room, or ATTN_E_MEMORY. */
int reliable_keep(struct reliable *lane, struct wire_message *message, zmq_msg_t *topic,
                  zmq_msg_t *header, bool counted);

/* Warns of what is lost with the end, and of what stays in the spool. `away`: attnd is not there,
 * and misses no event. */
void reliable_tell_end(struct reliable *lane, bool away, uint32_t linger_ms);

/* attnd refuses a message by this reason: the setting that says for how much it has room, and may
 * have later; NULL: it never takes the message. */
const char *reliable_setting(const char *reason);
void reliable_tell_refused(struct reliable *lane, const char *reason);
/* Another process has the same run and rank. */
void reliable_tell_repeated(struct reliable *lane);
/* Messages that another process has left are refused. */
void reliable_tell_left(struct reliable *lane, const struct kept *refused, const char *reason);
/* Why attnd acknowledges nothing, or that it does again; each NULL when the answer has it not. */
void reliable_tell_waits(struct reliable *lane, const msgpack_object *acknowledged,
                         const msgpack_object *why);

/* Disconnects, and forgets what is kept in memory; the rest stays in the spool. */
void reliable_close(struct reliable *lane);

#endif
