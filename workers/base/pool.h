/* SPDX-License-Identifier: MIT */
/* pool: a fixed number of worker threads and one bounded first-in first-out queue.
 *
 * Background jobs stand apart: they may take seconds, so they never run on all threads at once (if
 * there is more than one), and run when nothing else waits, or every POOL_BACKGROUND_TURN-th time.
 *
 * Overflow policy: reject; the submitter keeps the job and decides. Counters: pool_stats.
 * Shutdown: pool_free finishes every queued job first. */
#ifndef WORKERS_BASE_POOL_H
#define WORKERS_BASE_POOL_H

#include "workers/base/scratch.h"
#include <stdbool.h>
#include <stdint.h>

/* So often a job that waits in the background is preferred. */
#define POOL_BACKGROUND_TURN 64

/* Bytes of scratch that a thread keeps from job to job; more than most messages need. */
#define POOL_SCRATCH_KEPT ((size_t)16 << 20)

struct pool;

/* Embed as the first member, or use `container`. Caller-owned; must live until `run` has returned.
 */
struct pool_job {
    /* Called on a worker thread, with that worker's scratch. It may free the job: the pool does not
     * touch it again. */
    void (*run)(struct pool_job *job, struct scratch *scratch);
    bool low_priority;     /* not counted by pool_waiting; its turn comes all the same */
    bool background;       /* may take long: see above */
    struct pool_job *next; /* the pool's */
};

/* Jobs, not lists of jobs. Once the queue is empty and nothing runs: submitted = completed. */
struct pool_stats {
    uint64_t submitted, rejected, completed; /* rejected ones are not in submitted */
    uint32_t queued, queued_max, threads;
};

/* Starts `threads` (1..256) workers with a queue of `capacity` (>= 1) jobs; returns once all of
 * them run. Returns 0, ERR_ARGUMENT, ERR_MEMORY, or -errno of a thread that could not start. */
int pool_new(uint32_t threads, uint32_t capacity, struct pool **ret_pool);
/* All or none of a list of jobs linked by `next`. Any thread. Returns 0, or ERR_AGAIN when they do
 * not fit: the caller still owns them. */
int pool_submit(struct pool *pool, struct pool_job *first, uint32_t count);
struct pool_stats pool_stats(struct pool *pool);
/* Jobs that wait for a worker now and are not of low priority; without a lock: it may be a moment
 * old. */
uint32_t pool_waiting(struct pool *pool);
/* Runs what is queued, joins the threads, nulls the pointer. Accepts a NULL pool. Not from a
 * worker; nobody but running jobs may submit meanwhile. */
void pool_free(struct pool **pool);

#endif
