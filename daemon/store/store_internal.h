/* SPDX-License-Identifier: MIT */
/* store_internal: what the thread (store.c) and those who hand it batches (submit.c) share. */
#ifndef DAEMON_STORE_STORE_INTERNAL_H
#define DAEMON_STORE_STORE_INTERNAL_H

#include "daemon/store/clock.h"
#include "daemon/store/db.h"
#include "daemon/store/internal.h"
#include "daemon/store/retention.h"

#include <pthread.h>

/* Queued bytes that are worth a commit before its time; bytes of one transaction, about. */
#define COMMIT_BYTES (UINT64_C(16) << 20)

enum store_damage_state { DAMAGE_NONE, DAMAGE_MET, DAMAGE_STAYS };

struct store_queue {
    struct store_batch *first, **last;
};

/* Records of a run that were dropped in a trouble, and how many of them are windows of a layer. */
#define STORE_ROOM_RUNS 16
struct room_run {
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    uint64_t windows, records;
};

struct store {
    uint64_t commit_ns, queue_bytes, keep_states;
    struct retention_rule rule;
    bool trust_clock;
    struct stats *stats;
    void (*settle)(void *data, struct promises *promises);
    void *settle_data;
    void (*wait)(void *data, const char *why);
    void *wait_data;
    uint64_t refused;              /* batches; the loop thread's */
    uint64_t unreadable;           /* runs that were asked for; the loop thread's */
    struct sql reader;             /* the loop thread's; its db NULL: not open */
    char reason[STORE_REASON_MAX]; /* why it is off; written once, before `off` is set */
    atomic_bool off;
    pthread_t thread;
    bool thread_runs;
    struct pulse pulse;

    pthread_mutex_t lock; /* guards until the next empty line */
    pthread_cond_t wake;
    struct store_queue queue;
    struct store_batch *writing;       /* the thread's, until they are in the database; nobody else
                                          changes them */
    uint64_t queued_bytes, held_bytes; /* held: queued, or being written */
    uint64_t promised_bytes;           /* of messages whose promises are in the queue */
    uint32_t changes;                  /* in the queue: somebody waits for each */
    pthread_cond_t changed;            /* such a batch is done */
    bool stopping;

    pthread_mutex_t db_lock; /* guards the rest: the thread's, but for read.c */
    struct store_db db;
    struct store_place *full; /* that have windows for a chunk; owned */
    uint32_t full_count, full_capacity;
    uint64_t age_next_ns, log_next_ns;
    bool size_due, age_due, hidden_due;
    struct store_clock clock;
    _Atomic uint64_t saving_ns; /* store_saving_ns */
    atomic_int trouble;    /* SQLite's code of the last commit, if it failed; read by any thread */
    _Atomic uint64_t lost; /* store_lost, without the files */
    uint64_t trouble_dropped, trouble_bytes, room_next_ns;
    struct room_run trouble_run[STORE_ROOM_RUNS]; /* of trouble_dropped, the runs that came first */
    uint32_t trouble_runs;
    atomic_int damage; /* store_damage: an enum store_damage_state */
    bool repaired;     /* or tried, once: a repair that did not help does not help again */
    int told_code;     /* of trouble whose end was not told yet; it is when it was calm until... */
    uint64_t calm_ns, calm_until_ns;
    struct outbox outbox;
};

/* Queue locked: tells those who wait for changes in these batches, whose commit had this code. */
void change_finish(struct store *store, const struct store_batch *batches, int code);

/* Lock held: batches in the queue are worth a commit before its time. */
static inline bool store_is_enough(const struct store *store)
{
    return store->queued_bytes >= COMMIT_BYTES || store->promised_bytes >= PROMISES_WORTH ||
           store->changes > 0;
}

static inline bool store_is_off(const struct store *store)
{
    return atomic_load_explicit(&store->off, memory_order_acquire);
}

/* room.c: the disk is full, or fails: from when to when, what waits for it, and what the log says.
 * The store's thread, the database locked. */

/* This batch could not be written, and is dropped; room_lost follows for all of them. */
void room_drop(struct store *store, const struct store_batch *batch);
/* A commit failed with this code, and `records` of `bytes` in all were dropped. */
void room_lost(struct store *store, uint64_t records, uint64_t bytes, int code);
/* There is none yet: those who wait are told. */
void room_tell_wait(struct store *store);
/* A commit did not fail. `is_kept`: it had records. */
void room_found(struct store *store, bool is_kept);
/* Says that trouble is over when it is, and what was not written. */
void room_tell_end(struct store *store, uint64_t now);
/* The same when attnd ends, and also if the trouble goes on. */
void room_tell_stop(struct store *store);
/* When there is something to do about it; UINT64_MAX: never. */
uint64_t room_next(const struct store *store);

#endif
