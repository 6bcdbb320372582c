/* SPDX-License-Identifier: MIT */
/* pool: threads, and tenants that take turns with them.
 *
 * Turns: a tenant is charged for the time that its jobs run, measured, not estimated, and whoever
 * has used least is next. A tenant that was away does not save up what it did not use: it comes
 * back at most POOL_CREDIT_NS ahead of the others. That much is done without interruption, so a
 * small message beside a large one takes little longer than alone; and a tenant that sends more
 * than its share has no credit left, so that nobody starves.
 *
 * Pauses: a long job asks scratch_pause() every fraction of a millisecond. When another tenant is
 * due, its thread waits there, with the stack and the scratch of the half-done job, and another
 * thread begins the other's. So a job is cut where the time has passed, wherever that is in its
 * loops, and its parts, its sums and their order stay as they are. Decided against: smaller parts,
 * whose sums would be other sums, and their number without a limit; jobs that save where they are,
 * in every kernel. The price is a thread for each paused job. A paused job of a tenant goes on
 * before another of its own begins, so it has at most as many as there are workers; and a tenant
 * begins a job only while fewer of its own are in progress than threads are left (the rule of
 * dynamic thresholds, Choudhury and Hahne 1998), so that a newcomer finds one.
 *
 * Jobs of low priority need not pause. While all workers are busy with such, one more job may run,
 * of a tenant that has none in progress.
 *
 * One mutex guards everything but a worker's own scratch. A job runs with the mutex released and is
 * not touched after `run` was entered, because `run` may hand it back to its owner or free it.
 *
 * Waking: a job is handed to an idle worker, which has a condition of its own; the one that fell
 * idle last goes first. An idle pool makes no system call at all. A pause costs nothing while one
 * tenant is alone: `contended` is read without the lock.
 *
 * Shutdown: a worker leaves when closing is set and no tenant has anything left. A job may still
 * submit further jobs while the pool closes.
 *
 * Signals are blocked in the workers, so that they reach the thread that expects them.
 *
 * A failing pthread call on an initialised mutex or condition is a bug, not a run-time condition:
 * `pool_must` stops the process. Failures at run time (starting threads, memory) are returned; a
 * thread that cannot be started later on is done without. */
#include "workers/base/pool.h"
#include "proto/err.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <utlist.h>

#define THREADS_MAX  256
#define NAME_MAX_LEN 15 /* Linux: without the NUL */

/* Threads for jobs that are paused. */
#define POOL_SPARE(threads) (3 * (threads) + 8)

/* How far a tenant that comes back may be ahead; how far one may fall behind before another pauses
 * for it; and how often that is looked at. */
#define POOL_CREDIT_NS UINT64_C(50000000)
#define POOL_GRAIN_NS  UINT64_C(4000000)
#define POOL_LOOK_NS   UINT64_C(500000)

struct worker {
    struct pool *pool;
    uint32_t index;
    pthread_t thread;
    struct scratch scratch;
    pthread_cond_t go; /* it has a job; it may go on; closing */
    /* under lock */
    struct pool_job *job;       /* not begun */
    struct pool_tenant *tenant; /* whose job is in progress; NULL = idle */
    bool background, low_priority, paused;
    uint64_t since_ns;              /* up to when the tenant is charged */
    struct worker *next, *previous; /* idle, or paused */
    /* the thread's */
    uint64_t look_ns; /* when a pause is next considered */
};

/* Active while it has jobs, queued or in progress. */
struct pool_tenant {
    atomic_uint refs;         /* the owner, and workers with its jobs */
    _Atomic uint32_t waiting; /* queued and not of low priority; written under lock */
    /* under lock */
    struct pool_job *queue, *background;
    struct worker *paused;        /* first come, first to go on */
    uint32_t queued, in_progress; /* in_progress: running and paused */
    uint64_t used_ns;
    bool active;
    struct pool_tenant *next, *previous; /* active ones, in the order in which they came */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t ready; /* `started` went up */

    /* under lock */
    struct pool_tenant *active;
    struct pool_tenant own; /* of jobs without a tenant */
    struct worker *idle;
    uint32_t running, low_running, in_progress; /* jobs; low_running: of low priority */
    uint32_t background_running, turn;          /* turn: jobs begun since the last background job */
    uint64_t reached_ns;                        /* what every active tenant has used, at least */
    struct pool_stats stats;
    uint32_t created, started; /* threads */
    bool closing;

    _Atomic uint32_t contended; /* more than one tenant is active; written under lock */

    /* fixed by pool_new, but for threads_max when a thread cannot be started */
    uint32_t capacity, threads_max;
    struct worker worker[];
};

static void pool_must(int rc)
{
    if (rc != 0) {
        abort();
    }
}

static void lock(struct pool *pool)
{
    pool_must(pthread_mutex_lock(&pool->lock));
}

static void unlock(struct pool *pool)
{
    pool_must(pthread_mutex_unlock(&pool->lock));
}

static uint64_t pool_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Tenants; all called locked */

static void pool_charge(struct worker *worker, uint64_t now_ns)
{
    worker->tenant->used_ns += now_ns - worker->since_ns;
    worker->since_ns = now_ns;
}

/* Charges the jobs that run, and finds out how far all have come. */
static void pool_catch_up(struct pool *pool)
{
    uint64_t now_ns = pool_now_ns(), least = UINT64_MAX;
    for (uint32_t i = 0; i < pool->created; i++) {
        struct worker *worker = &pool->worker[i];
        if (worker->tenant && !worker->paused) {
            pool_charge(worker, now_ns);
        }
    }
    for (const struct pool_tenant *t = pool->active; t; t = t->next) {
        least = t->used_ns < least ? t->used_ns : least;
    }
    if (pool->active && least > pool->reached_ns) {
        pool->reached_ns = least;
    }
}

static void tenant_enter(struct pool *pool, struct pool_tenant *tenant)
{
    pool_catch_up(pool);
    uint64_t least = pool->reached_ns - POOL_CREDIT_NS;
    tenant->used_ns = tenant->used_ns < least ? least : tenant->used_ns;
    tenant->active = true;
    DL_APPEND2(pool->active, tenant, previous, next);
    atomic_store(&pool->contended, pool->active->next != NULL);
}

static void tenant_leave(struct pool *pool, struct pool_tenant *tenant)
{
    pool_catch_up(pool);
    DL_DELETE2(pool->active, tenant, previous, next);
    tenant->active = false;
    atomic_store(&pool->contended, pool->active && pool->active->next);
}

int pool_tenant_new(struct pool_tenant **ret_tenant)
{
    struct pool_tenant *tenant = calloc(1, sizeof *tenant);
    if (!tenant) {
        return ERR_MEMORY;
    }
    atomic_init(&tenant->refs, 1);
    *ret_tenant = tenant;
    return 0;
}

static void tenant_unref(struct pool_tenant *tenant)
{
    if (atomic_fetch_sub(&tenant->refs, 1) == 1) {
        free(tenant);
    }
}

void pool_tenant_free(struct pool_tenant **tenant)
{
    if (*tenant) {
        tenant_unref(*tenant);
    }
    *tenant = NULL;
}

/* Turns; all called locked */

/* Whether there is a thread for another job of the tenant. */
static bool pool_has_thread(const struct pool *pool, const struct pool_tenant *tenant)
{
    return pool->in_progress < pool->threads_max &&
           tenant->in_progress < pool->threads_max - pool->in_progress;
}

/* The tenant that is due, among those that have a job to begin or to go on with; NULL = none. */
static struct pool_tenant *pool_due(const struct pool *pool, bool background)
{
    struct pool_tenant *due = NULL;
    for (struct pool_tenant *t = pool->active; t; t = t->next) {
        const struct pool_job *job = background ? t->background : t->queue;
        bool has = (!background && t->paused) || (job && pool_has_thread(pool, t));
        if (has && (!due || t->used_ns < due->used_ns)) {
            due = t;
        }
    }
    return due;
}

/* Whether a job of the tenant may run now. */
static bool pool_may_run(const struct pool *pool, const struct pool_tenant *tenant)
{
    uint32_t threads = pool->stats.threads;
    bool rigid = pool->running == threads && pool->low_running == threads;
    return pool->running < threads || (rigid && tenant->in_progress == 0);
}

static int start_thread(struct pool *pool);

/* The idle worker that takes the next job; NULL when there is none and no thread can be started. */
static struct worker *pool_take_idle(struct pool *pool)
{
    struct worker *worker = pool->idle;
    if (worker) {
        pool->idle = worker->next;
        return worker;
    }
    if (start_thread(pool) != 0) {
        pool->threads_max = pool->created;
        return NULL;
    }
    return &pool->worker[pool->created - 1];
}

static void pool_go(struct pool *pool, struct worker *worker)
{
    pool->running++;
    pool->low_running += worker->low_priority;
    worker->since_ns = pool_now_ns();
    pool_must(pthread_cond_signal(&worker->go));
}

static void pool_halt(struct pool *pool, struct worker *worker)
{
    pool_charge(worker, pool_now_ns());
    pool->running--;
    pool->low_running -= worker->low_priority;
}

static void pool_begin_job(struct pool *pool, struct pool_tenant *tenant, bool background)
{
    struct worker *worker = pool_take_idle(pool);
    if (!worker) {
        return;
    }
    struct pool_job **queue = background ? &tenant->background : &tenant->queue, *job = *queue;
    DL_DELETE2(*queue, job, previous, next);
    worker->job = job;
    worker->tenant = tenant;
    worker->background = background;
    worker->low_priority = job->low_priority;
    atomic_fetch_add(&tenant->refs, 1);
    tenant->queued--;
    tenant->in_progress++;
    tenant->waiting -= !job->low_priority;
    pool->stats.queued--;
    pool->in_progress++;
    pool->background_running += background;
    pool->turn = background ? 0 : pool->turn + 1;
    pool_go(pool, worker);
}

static void pool_resume(struct pool *pool, struct pool_tenant *tenant)
{
    struct worker *worker = tenant->paused;
    DL_DELETE2(tenant->paused, worker, previous, next);
    worker->paused = false;
    pool_go(pool, worker);
}

/* Lets jobs run as long as there is room for them. */
static void pool_dispatch(struct pool *pool)
{
    uint32_t threads = pool->stats.threads, most = threads > 1 ? threads - 1 : 1;
    for (;;) {
        struct pool_tenant *due = pool_due(pool, false);
        struct pool_tenant *behind = pool->background_running < most ? pool_due(pool, true) : NULL;
        if (behind && (!due || pool->turn >= POOL_BACKGROUND_TURN) && pool->running < threads) {
            pool_begin_job(pool, behind, true);
        } else if (due && pool_may_run(pool, due)) {
            if (due->paused) {
                pool_resume(pool, due);
            } else {
                pool_begin_job(pool, due, false);
            }
        } else {
            return;
        }
    }
}

/* The pause of a job, on its thread. */
static void pool_pause(void *data)
{
    struct worker *worker = data;
    struct pool *pool = worker->pool;
    uint64_t now_ns = pool_now_ns();
    if (now_ns < worker->look_ns) {
        return;
    }
    lock(pool);
    pool_charge(worker, now_ns);
    struct pool_tenant *tenant = worker->tenant, *due = pool_due(pool, false);
    if (due && due != tenant && due->used_ns + POOL_GRAIN_NS < tenant->used_ns) {
        worker->paused = true;
        DL_APPEND2(tenant->paused, worker, previous, next);
        pool_halt(pool, worker);
        pool_dispatch(pool);
        while (worker->paused) {
            pool_must(pthread_cond_wait(&worker->go, &pool->lock));
        }
        now_ns = worker->since_ns;
    }
    unlock(pool);
    worker->look_ns = now_ns + POOL_LOOK_NS;
}

/* Threads */

static void name_thread(uint32_t index)
{
    char name[32];
    snprintf(name, sizeof name, "attnd-worker%s%u", index < 100 ? "-" : "", index);
    name[NAME_MAX_LEN] = '\0';
    pthread_setname_np(pthread_self(), name); /* only for people who look: failing is no harm */
}

/* Wakes the idle ones to leave. Called locked. */
static void pool_end_if_done(struct pool *pool)
{
    if (!pool->closing || pool->active) {
        return;
    }
    for (struct worker *worker = pool->idle; worker; worker = worker->next) {
        pool_must(pthread_cond_signal(&worker->go));
    }
}

static void pool_fall_idle(struct pool *pool, struct worker *worker)
{
    worker->next = pool->idle;
    pool->idle = worker;
    pool_dispatch(pool);
    pool_end_if_done(pool);
}

/* The job has run. Called locked. */
static void pool_end_job(struct pool *pool, struct worker *worker)
{
    struct pool_tenant *tenant = worker->tenant;
    pool_halt(pool, worker);
    pool->stats.completed++;
    pool->in_progress--;
    pool->background_running -= worker->background;
    tenant->in_progress--;
    worker->tenant = NULL;
    if (tenant->queued == 0 && tenant->in_progress == 0) {
        tenant_leave(pool, tenant);
    }
    tenant_unref(tenant);
    pool_fall_idle(pool, worker);
}

static void *work_loop(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    worker->scratch.pause = pool_pause;
    worker->scratch.pause_data = worker;
    worker->scratch.contended = &pool->contended;
    name_thread(worker->index);
    lock(pool);
    pool->started++;
    pool_must(pthread_cond_signal(&pool->ready));
    if (!worker->job) {
        pool_fall_idle(pool, worker);
    }
    for (;;) {
        while (!worker->job && !(pool->closing && !pool->active)) {
            pool_must(pthread_cond_wait(&worker->go, &pool->lock));
        }
        struct pool_job *job = worker->job;
        if (!job) {
            break;
        }
        worker->job = NULL;
        worker->look_ns = worker->since_ns + POOL_LOOK_NS;
        unlock(pool);
        job->run(job, &worker->scratch);
        bool spare = worker->index >= pool->stats.threads && !atomic_load(&pool->contended);
        scratch_trim(&worker->scratch, spare ? 0 : POOL_SCRATCH_KEPT);
        lock(pool);
        pool_end_job(pool, worker);
    }
    unlock(pool);
    scratch_clear(&worker->scratch);
    return NULL;
}

static void close_and_join(struct pool *pool)
{
    lock(pool);
    pool->closing = true;
    pool_end_if_done(pool);
    for (uint32_t i = 0; i < pool->created; i++) { /* the first one leaves when no more can come */
        unlock(pool);
        pool_must(pthread_join(pool->worker[i].thread, NULL));
        lock(pool);
    }
    unlock(pool);
}

static void pool_destroy(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->created; i++) {
        pool_must(pthread_cond_destroy(&pool->worker[i].go));
    }
    pool_must(pthread_cond_destroy(&pool->ready));
    pool_must(pthread_mutex_destroy(&pool->lock));
    free(pool);
}

/* Starts one more. Called locked; returns 0 or an errno. */
static int start_thread(struct pool *pool)
{
    struct worker *worker = &pool->worker[pool->created];
    if (pool->created == pool->threads_max) {
        return EAGAIN;
    }
    sigset_t all, before;
    *worker = (struct worker){.pool = pool, .index = pool->created};
    pool_must(pthread_cond_init(&worker->go, NULL));
    sigfillset(&all);
    pool_must(pthread_sigmask(SIG_SETMASK, &all, &before));
    int rc = pthread_create(&worker->thread, NULL, work_loop, worker);
    pool_must(pthread_sigmask(SIG_SETMASK, &before, NULL));
    if (rc != 0) {
        pool_must(pthread_cond_destroy(&worker->go));
        return rc;
    }
    pool->created++;
    return 0;
}

int pool_new(uint32_t threads, uint32_t capacity, struct pool **ret_pool)
{
    if (threads < 1 || threads > THREADS_MAX || capacity < 1) {
        return ERR_ARGUMENT;
    }
    uint32_t most = threads + POOL_SPARE(threads);
    struct pool *pool = calloc(1, sizeof *pool + most * sizeof pool->worker[0]);
    if (!pool) {
        return ERR_MEMORY;
    }
    atomic_init(&pool->own.refs, 1);
    pool->capacity = capacity;
    pool->threads_max = most;
    pool->reached_ns = POOL_CREDIT_NS;
    pool->stats.threads = threads;
    pool_must(pthread_mutex_init(&pool->lock, NULL));
    pool_must(pthread_cond_init(&pool->ready, NULL));
    int rc = 0;
    lock(pool);
    while (rc == 0 && pool->created < threads) {
        rc = start_thread(pool);
    }
    while (rc == 0 && pool->started < threads) {
        pool_must(pthread_cond_wait(&pool->ready, &pool->lock));
    }
    unlock(pool);
    if (rc != 0) {
        close_and_join(pool);
        pool_destroy(pool);
        return -rc;
    }
    *ret_pool = pool;
    return 0;
}

int pool_submit(struct pool *pool, struct pool_tenant *tenant, struct pool_job *first,
                uint32_t count)
{
    if (count == 0) {
        return 0;
    }
    lock(pool);
    tenant = tenant ? tenant : &pool->own;
    bool fits = count <= pool->capacity - tenant->queued;
    if (fits) {
        if (!tenant->active) {
            tenant_enter(pool, tenant);
        }
        for (uint32_t i = 0; i < count; i++) {
            struct pool_job *job = first, **queue;
            first = job->next;
            tenant->waiting += !job->low_priority;
            queue = job->background ? &tenant->background : &tenant->queue;
            DL_APPEND2(*queue, job, previous, next);
        }
        tenant->queued += count;
        pool->stats.submitted += count;
        pool->stats.queued += count;
        if (pool->stats.queued > pool->stats.queued_max) {
            pool->stats.queued_max = pool->stats.queued;
        }
        pool_dispatch(pool);
    } else {
        pool->stats.rejected += count;
    }
    unlock(pool);
    return fits ? 0 : ERR_AGAIN;
}

struct pool_stats pool_stats(struct pool *pool)
{
    lock(pool);
    struct pool_stats stats = pool->stats;
    unlock(pool);
    return stats;
}

uint32_t pool_waiting(const struct pool_tenant *tenant)
{
    return atomic_load_explicit(&tenant->waiting, memory_order_relaxed);
}

void pool_free(struct pool **pool)
{
    if (!*pool) {
        return;
    }
    close_and_join(*pool);
    pool_destroy(*pool);
    *pool = NULL;
}
