/* SPDX-License-Identifier: MIT */
/* store/internal: how a batch is made, and how it becomes rows. Others see store.h. */
#ifndef DAEMON_STORE_INTERNAL_H
#define DAEMON_STORE_INTERNAL_H

#include "daemon/store/chunk.h"
#include "daemon/store/store.h"
#include "proto/fleet.h"

enum record_kind {
    RECORD_WINDOW,
    RECORD_MAP,
    RECORD_ALERT,
    RECORD_POINT,
    RECORD_SKETCH,
    RECORD_SETTINGS,
    RECORD_FAILURE,
    RECORD_KEEP,
    RECORD_FORGET,
    RECORD_OUT
};

struct record_kept {
    const char *key;   /* FORGET: the prefix; SETTINGS, FAILURE: none */
    const void *value; /* KEEP, SETTINGS, FAILURE, OUT */
    size_t size;
};

/* One record; what its pointers point to is in `bytes`. */
struct record {
    struct record *next;
    enum record_kind kind;
    union {
        struct store_window window;
        struct store_map map;
        struct alert_result alert; /* common.job and common.run are not set */
        struct store_point point;
        struct store_sketch sketch;
        struct record_kept kept;
    } of;
    _Alignas(max_align_t) uint8_t bytes[];
};

struct store_batch {
    struct store_batch *next; /* the queue's */
    struct store_run run;     /* points into the batch */
    uint8_t run_id[RUN_BYTES];
    struct record *first, **last;
    uint64_t bytes;              /* memory */
    uint64_t records;            /* calls of batch_*, or 1 for the run alone */
    bool precious;               /* has windows, alerts, points, sketches or what goes to hubs */
    bool held;                   /* batch_hold */
    bool is_last;                /* of its run */
    bool tried;                  /* held, and could not be committed yet */
    bool is_change;              /* it has no records, and changes a run that is there, or */
    bool drops;                  /* deletes it: */
    struct store_change *change; /* NULL: nobody waits for it any more, and nothing is changed */
    struct promises promises;
    uint64_t queued_ns; /* monotonic; when it was submitted */
    char job[];
};

/* The outbox (outbox.h). */
struct outbox_totals {
    uint64_t rows, bytes;
    uint64_t unsent, unsent_bytes; /* of them, not taken by a server yet */
};

/* One batch as rows. Store thread, inside a transaction. */
struct store_writer {
    const struct sql *sql;
    int64_t now_s; /* since 1970 */
    struct stats *stats;
    /* Called for a layer and track that has enough windows for a chunk. */
    void (*full)(void *data, struct store_place which);
    void *data;
    struct outbox_totals *out; /* what is written is added */
};

/* change.c: inside the transaction of the batch; a refusal is in the change. Returns an SQLite
 * code. */
int change_write(const struct sql *sql, struct store_change *change);

/* Returns an SQLite code. */
int write_batch(const struct store_writer *writer, const struct store_batch *batch);

struct outbox {
    bool on;         /* this is a node */
    bool is_open;    /* the file has an id, and numbers that no earlier opening gave */
    uint64_t opened; /* so often */
    uint8_t node[FLEET_ID_BYTES];
    uint64_t lost;
    uint64_t skipped_first, skipped_last;
    struct outbox_totals totals;
    void (*wake)(void *data);
    void *data;
};

/* The database locked: before the first row of a file that was opened. Returns an SQLite code. */
int outbox_open(struct store *store);
/* These were committed. */
void outbox_add(struct store *store, const struct outbox_totals *added);
/* Bytes of the file that the outbox takes, about. */
uint64_t outbox_file_bytes(const struct store *store);

/* The connection, for reading while nobody writes; NULL when there is none. Each begin has its
 * end. */
const struct sql *store_begin_read(struct store *store);
void store_end_read(struct store *store);

#endif
