/* SPDX-License-Identifier: MIT */
/* store_outbox: the rows of a node's history that go to hubs (proto/FLEET.md). batch_out writes
 * them; one other thread reads them here, says which a server has taken, and removes old ones. Each
 * call may wait for a transaction of the store's thread, and the store's thread for a few rows.
 *
 * Every row has a number that grows and is never given twice, not even after a power failure or by
 * a history that was restored from a backup: each opening of a file begins at numbers of its own.
 *
 * The history may be replaced at any time: the new one is of another node. Callers say which
 * opening of a file they mean; for another one calls do nothing. */
#ifndef DAEMON_STORE_OUTBOX_H
#define DAEMON_STORE_OUTBOX_H

#include "daemon/store/store.h"
#include "proto/fleet.h"

struct outbox_range {
    uint64_t first, last;
};

struct outbox_status {
    uint8_t node[FLEET_ID_BYTES];
    uint64_t opened; /* counts openings; 0: there is no history now */
    uint64_t newest; /* number that was given; 0: none yet */
    uint64_t taken;  /* all up to here were taken, or fell out */
    uint64_t rows, bytes;
    uint64_t unsent, unsent_bytes; /* of them, not taken by a server yet */
    uint64_t lost;                 /* rows that fell out before a server took them */
    struct outbox_range skipped;   /* numbers that this opening left out; first beyond last: none */
    const char *trouble;           /* why the history cannot be written; NULL: it can */
    int64_t oldest_unsent_s;       /* how long it is there; 0: there is none */
};

/* Returns 0, or ERR_HISTORY_UNREAD. */
int outbox_status(struct store *store, struct outbox_status *ret_status);

struct outbox_row {
    uint64_t seq, turn;
    uint8_t run[RUN_BYTES];
    uint8_t *body; /* owned; used again by the next call */
    size_t size, capacity;
};

/* The first row after `after` that no server took. Returns 1, 0: there is none, or
 * ERR_HISTORY_UNREAD or ERR_MEMORY. */
int outbox_next(struct store *store, uint64_t opened, uint64_t after, struct outbox_row *row);
void outbox_row_clear(struct outbox_row *row);

struct outbox_taken {
    uint64_t seq, turn;
};

/* A server has taken these. One that was asked for again since stays unsent. Returns 0, or
 * ERR_HISTORY_UNREAD: it could not be written, and they are sent again. */
int outbox_take(struct store *store, uint64_t opened, const struct outbox_taken *taken,
                size_t count);

/* A hub asks for all of `range`: rows that are there are to be sent again, and the next number to
 * go on with is in range->first, beyond range->last when that was all. The rows that are not there
 * any more are given as at most `gone_max` ranges. Returns how many, or ERR_HISTORY_UNREAD. */
int outbox_again(struct store *store, uint64_t opened, struct outbox_range *range,
                 struct outbox_range *ret_gone, int gone_max);

/* Removes some of what a server took `keep_s` ago; then, beyond `bytes_max`, the oldest, those that
 * no server took last. Returns whether there is more to remove. */
bool outbox_prune(struct store *store, uint64_t opened, uint64_t keep_s, uint64_t bytes_max);

/* `wake` is called when rows were written, by the store's thread, which has its lock: it calls
 * nothing of the store. NULL: nobody any more. */
void outbox_set_wake(struct store *store, void (*wake)(void *data), void *data);

#endif
