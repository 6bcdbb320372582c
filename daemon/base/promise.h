/* SPDX-License-Identifier: MIT */
/* promise: attnd owes the sender of a reliable message an answer. The promise follows the message,
 * then what the message has changed, and ends with whoever answers it (ingest/lane.h). One owner at
 * a time; no locks. */
#ifndef DAEMON_BASE_PROMISE_H
#define DAEMON_BASE_PROMISE_H

#include <stdbool.h>
#include <stdint.h>

/* Promises of messages of this many bytes are not kept waiting for more to save at once: a client
 * keeps 16 times as much by default. */
#define PROMISES_WORTH (UINT64_C(4) << 20)

struct lane_peer;

struct promise {
    struct promise *next;
    struct lane_peer *peer; /* the lane's */
    uint64_t id, bytes;     /* of the message; the id is the sender's */
    uint64_t join;          /* the lane's: how often the sender had joined */
    int code;               /* 0: its effect is there for good; ERR_AGAIN, ERR_HISTORY_UNREAD or
                               ERR_MEMORY: nobody can say, it is to be sent again; else why it is
                               refused */
    int dropped;            /* why its message was dropped in its turn; 0 if it was not: with code
                               0 it is refused by this, whatever it is */
    bool repeated;          /* one with its number had come before: said with its acknowledgement */
    void *owner;            /* the loop's: the layer that it changed; NULL = the run alone */
};

/* A list; zeroed it is empty. */
struct promises {
    struct promise *first, *last;
    uint64_t bytes; /* of their messages */
};

/* Takes the promise over, which is in no list. */
void promises_add(struct promises *promises, struct promise *promise);
/* Takes the oldest one out, or returns NULL. */
struct promise *promises_take(struct promises *promises);
/* Appends all of them; `from` is empty then. */
void promises_move(struct promises *into, struct promises *from);
/* Its message had its turn, and this code. One that came before, ERR_REPEATED, is not dropped, but
 * `repeated`. */
void promise_took(struct promise *promise, int code);
/* Gives all of them this code. */
void promises_mark(struct promises *promises, int code);
/* Nobody answers them any more. */
void promises_free(struct promises *promises);

#endif
