/* SPDX-License-Identifier: MIT */
/* pool: a fixed number of worker threads, and the jobs of tenants that share them fairly.
 *
 * A tenant's jobs begin first in, first out. Tenants take turns by the time that they have used,
 * whatever the number and the length of their jobs: a long job pauses for another tenant's at its
 * next scratch_pause (scratch.h), and goes on in its turn. pool.c has the rules.
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

/* So often a job that waits in the background is preferred. */
#define POOL_BACKGROUND_TURN 64

/* Bytes of scratch that a thread keeps from job to job; more than most messages need. */
#define POOL_SCRATCH_KEPT ((size_t)16 << 20)

struct pool;
struct pool_tenant;

/* Embed as the first member, or use `container`. Caller-owned; must live until `run` has returned.
 */
struct pool_job {
    /* Called on a worker thread, with that worker's scratch. It may free the job: the pool does not
     * touch it again. */
    void (*run)(struct pool_job *job, struct scratch *scratch);
    bool low_priority;                /* not counted by pool_waiting; its turn comes all the same */
    bool background;                  /* may take long: see above */
    struct pool_job *next, *previous; /* the pool's */
};

/* Jobs, not lists of jobs. Once the queue is empty and nothing runs: submitted = completed. */
struct pool_stats {
    uint64_t submitted, rejected, completed; /* rejected ones are not in submitted */
    uint32_t queued, queued_max, threads;
};

/* Starts `threads` (1..256) workers with a queue of `capacity` (>= 1) jobs for each tenant; returns
 * once all of them run. Threads for paused jobs are started when they are needed, 3 for each worker
 * and 8 at most. Returns 0, ERR_ARGUMENT, ERR_MEMORY, or -errno of a thread that could not start.
 */
int pool_new(uint32_t threads, uint32_t capacity, struct pool **ret_pool);

/* Somebody with a share of his own, of one pool. Returns 0 or ERR_MEMORY. */
int pool_tenant_new(struct pool_tenant **ret_tenant);
/* No job of it may be queued or in `run`, unless that has nothing left to do but return. Nulls the
 * pointer; accepts a NULL tenant. */
void pool_tenant_free(struct pool_tenant **tenant);

/* All or none of a list of jobs linked by `next`; without a tenant they are the pool's own. Any
 * thread. Returns 0, or ERR_AGAIN when they do not fit: the caller still owns them. */
int pool_submit(struct pool *pool, struct pool_tenant *tenant, struct pool_job *first,
                uint32_t count);
struct pool_stats pool_stats(struct pool *pool);
/* The tenant's jobs that wait for a worker now and are not of low priority; without a lock: it may
 * be a moment old. */
uint32_t pool_waiting(const struct pool_tenant *tenant);
/* Runs what is queued, joins the threads, nulls the pointer. Accepts a NULL pool. Not from a
 * worker; nobody but running jobs may submit meanwhile. */
void pool_free(struct pool **pool);

#endif
