/* SPDX-License-Identifier: MIT */
/* store: the thread that writes the history, and owns the one SQLite connection that does.
 *
 * Records that belong together travel as one batch: it is committed whole or not at all, and
 * batches are committed in the order in which they were submitted, so after a kill the database
 * holds the first so many batches. Several batches share a transaction (history.commit). Loop
 * thread, except the thread itself; nothing here waits for the disk except store_new and
 * store_free.
 *
 * History never keeps attnd from running: a database that cannot be opened, is of a newer version
 * or in use by another attnd is left alone, and history is off; one that is corrupt is renamed to
 * PATH.corrupt-<time> and a new one begun; when the disk is full, records are dropped and counted
 * until there is room; when the file is removed or replaced, a new one is begun, or the one that is
 * there goes on. All of it is logged and shown by store_status. */
#ifndef DAEMON_STORE_STORE_H
#define DAEMON_STORE_STORE_H

#include "config/config.h"
#include "proto/header.h"
#include "daemon/base/pulse.h"
#include "proto/result.h"
#include "daemon/base/stats.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

/* Opens, repairs, migrates and starts the thread. Always gives a store; without history it takes
 * batches and drops them, counted. Returns 0, or ERR_MEMORY. */
int store_new(const struct config *config, struct stats *stats, struct store **ret_store);
/* The file in use, or NULL when history is off; *ret_reason then says why. */
const char *store_path(const struct store *store, const char **ret_reason);
/* Why the history in use cannot be written at the moment, or NULL: the last commit failed. Any
 * thread. */
const char *store_trouble(const struct store *store);
/* Commits what was submitted, closes cleanly and frees. Accepts NULL. */
void store_free(struct store **store);

/* The thread's turns: at least one per transaction. Lives as long as the store; NULL when history
 * has been off from the start and there is no thread. */
const struct pulse *store_pulse(const struct store *store);
/* Loop thread: asks for a turn. `data` is the store. */
void store_ask(void *data);

/* Calls back with the records kept (batch_keep) for runs that had not ended, by job, runs as they
 * began, and key: at start, before anything is submitted. */
void store_each_kept(struct store *store,
                     void (*visit)(void *data, const char *job, const uint8_t *run, const char *key,
                                   const void *value, size_t size),
                     void *data);

/* Batches */

struct store_batch;

/* One run of a job. `run` is RUN_BYTES. */
struct store_run {
    const char *job;
    const uint8_t *run;
    enum job_state state;
    uint32_t world;
    uint64_t epoch, step, time_ns; /* newest */
};

/* One layer's window. A window that is already there (same run, layer, unit, length, every, last)
 * is replaced. */
struct store_window {
    struct layer_id layer;
    uint32_t heads;
    struct result_window window;
    bool final; /* closed; else shown while still open, to be replaced */
    uint64_t epoch, step, time_ns, messages, lost;
    const void *state; /* layer_state_pack */
    size_t state_size;
};

/* A layer's head-mean map, average-pooled to rows x columns, of one message. */
struct store_map {
    struct layer_id layer;
    struct result_window window;
    uint64_t epoch, step, time_ns;
    uint32_t queries, keys; /* of the message */
    uint32_t rows, columns; /* at most 128 */
    const uint16_t *values; /* [rows][columns] IEEE half precision */
};

/* For one run; everything is copied. NULL when out of memory. */
struct store_batch *batch_new(const struct store_run *run);
/* Each returns 0 or ERR_MEMORY. */
int batch_window(struct store_batch *batch, const struct store_window *window);
int batch_map(struct store_batch *batch, const struct store_map *map);
int batch_alert(struct store_batch *batch, const struct alert_result *alert);
/* Keeps a value under a key of this run, until it is replaced or forgotten: checkpoints. */
int batch_keep(struct store_batch *batch, const char *key, const void *value, size_t size);
/* Forgets all keys that begin with `prefix`; "" = all. */
int batch_forget(struct store_batch *batch, const char *prefix);
void batch_free(struct store_batch **batch);

/* Takes the batch. When history.queue is used up it is dropped, and its records are counted; a
 * batch without windows and alerts (a checkpoint) gives way earlier, at half of it. One that is
 * larger than that is taken when nothing else waits. Returns whether it was taken; *batch is NULL
 * afterwards. */
bool store_submit(struct store *store, struct store_batch **batch);
/* Bytes that are not on the disk yet. */
uint64_t store_waiting(struct store *store);
/* Whether a checkpoint of so many bytes would be taken now. */
bool store_has_room(struct store *store, size_t bytes);

#endif
