/* SPDX-License-Identifier: MIT */
/* pool: threads that wait on one condition, and two lists of jobs linked through the jobs.
 *
 * One mutex guards everything but a worker's own scratch. A job runs with the mutex released and is
 * not touched after `run` was entered, because `run` may hand it back to its owner or free it.
 *
 * Waking: a submit signals as many sleepers as it brought jobs, no more. A worker looks at the list
 * before it sleeps, so a busy one needs no signal. An idle pool makes no system call at all.
 *
 * Shutdown: `closing` is set and everybody is woken; a worker leaves when closing is set and the
 * list is empty. A job may still submit further jobs while the pool closes: its own worker comes
 * back for them.
 *
 * Signals are blocked in the workers, so that they reach the thread that expects them.
 *
 * A failing pthread call on an initialised mutex or condition is a bug, not a run-time condition:
 * `must` stops the process. Failures at run time (starting threads, memory) are returned. */
#include "workers/base/pool.h"
#include "proto/err.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS_MAX  256
#define NAME_MAX_LEN 15 /* Linux: without the NUL */

struct queue {
    struct pool_job *first, **end; /* end: where the next job is linked */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;  /* a job came, or closing */
    pthread_cond_t ready; /* `running` went up */

    /* under lock */
    struct queue queue, background;
    uint32_t background_running, turn; /* turn: jobs begun since the last background job */
    struct pool_stats stats;
    uint32_t idle;    /* workers inside a wait for `work`, signalled or not */
    uint32_t running; /* workers that have started */
    bool closing;

    _Atomic uint32_t waiting; /* queued and not of low priority; written under lock */

    /* fixed by pool_new */
    uint32_t capacity;
    uint32_t threads; /* created */
    pthread_t thread[];
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

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static void pool_queue_put(struct queue *queue, struct pool_job *job)
{
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

static struct pool_job *queue_take(struct queue *queue)
{
    struct pool_job *job = queue->first;
    queue->first = job->next;
    if (!queue->first) {
        queue->end = &queue->first;
    }
    return job;
}

/* Whether a background job is next. Called locked. */
static bool prefers_background(const struct pool *pool)
{
    uint32_t threads = pool->stats.threads, most = threads > 1 ? threads - 1 : 1;
    return pool->background.first && pool->background_running < most &&
           (!pool->queue.first || pool->turn >= POOL_BACKGROUND_TURN);
}

static struct pool_job *pool_take(struct pool *pool)
{
    if (prefers_background(pool)) {
        pool->turn = 0;
        pool->background_running++;
        return queue_take(&pool->background);
    }
    if (!pool->queue.first) {
        return NULL;
    }
    pool->turn++;
    return queue_take(&pool->queue);
}

static bool pool_is_empty(const struct pool *pool)
{
    return !pool->queue.first && !pool->background.first;
}

/* Waits for a job and unlinks it; NULL when the pool closes and all is done. Called locked. */
static struct pool_job *next_job(struct pool *pool)
{
    struct pool_job *job;
    while ((job = pool_take(pool)) == NULL && !(pool->closing && pool_is_empty(pool))) {
        pool->idle++;
        pool_must(pthread_cond_wait(&pool->work, &pool->lock));
        pool->idle--;
    }
    if (job) {
        pool->stats.queued--;
        pool->waiting -= !job->low_priority;
    }
    return job;
}

static void name_thread(uint32_t index)
{
    char name[32];
    snprintf(name, sizeof name, "attnd-worker%s%u", index < 100 ? "-" : "", index);
    name[NAME_MAX_LEN] = '\0';
    pthread_setname_np(pthread_self(), name); /* only for people who look: failing is no harm */
}

/* The next background job may begin; a worker may have gone to sleep over it. Called locked. */
static void end_background(struct pool *pool)
{
    pool->background_running--;
    if (pool->background.first || pool->closing) {
        pool_must(pthread_cond_broadcast(&pool->work));
    }
}

static void *work_loop(void *argument)
{
    struct pool *pool = argument;
    struct scratch scratch = {0};
    lock(pool);
    name_thread(pool->running++);
    pool_must(pthread_cond_signal(&pool->ready));
    for (struct pool_job *job; (job = next_job(pool)) != NULL;) {
        bool background = job->background; /* the job may be gone afterwards */
        unlock(pool);
        job->run(job, &scratch);
        scratch_trim(&scratch, POOL_SCRATCH_KEPT);
        lock(pool);
        pool->stats.completed++;
        if (background) {
            end_background(pool);
        }
    }
    unlock(pool);
    scratch_clear(&scratch);
    return NULL;
}

static void close_and_join(struct pool *pool)
{
    lock(pool);
    pool->closing = true;
    pool_must(pthread_cond_broadcast(&pool->work));
    unlock(pool);
    for (uint32_t i = 0; i < pool->threads; i++) {
        pool_must(pthread_join(pool->thread[i], NULL));
    }
}

static void pool_destroy(struct pool *pool)
{
    pool_must(pthread_cond_destroy(&pool->ready));
    pool_must(pthread_cond_destroy(&pool->work));
    pool_must(pthread_mutex_destroy(&pool->lock));
    free(pool);
}

/* Returns 0 or an errno, with what was started left to close_and_join. */
static int create_threads(struct pool *pool, uint32_t threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pool_must(pthread_sigmask(SIG_SETMASK, &all, &before));
    int rc = 0;
    while (rc == 0 && pool->threads < threads) {
        rc = pthread_create(&pool->thread[pool->threads], NULL, work_loop, pool);
        pool->threads += rc == 0;
    }
    pool_must(pthread_sigmask(SIG_SETMASK, &before, NULL));
    return rc;
}

static void wait_until_running(struct pool *pool)
{
    lock(pool);
    while (pool->running < pool->threads) {
        pool_must(pthread_cond_wait(&pool->ready, &pool->lock));
    }
    unlock(pool);
}

static struct pool *pool_allocate(uint32_t threads, uint32_t capacity)
{
    struct pool *pool = calloc(1, sizeof *pool + threads * sizeof pool->thread[0]);
    if (!pool) {
        return NULL;
    }
    queue_init(&pool->queue);
    queue_init(&pool->background);
    pool->capacity = capacity;
    pool->stats.threads = threads;
    pool_must(pthread_mutex_init(&pool->lock, NULL));
    pool_must(pthread_cond_init(&pool->work, NULL));
    pool_must(pthread_cond_init(&pool->ready, NULL));
    return pool;
}

int pool_new(uint32_t threads, uint32_t capacity, struct pool **ret_pool)
{
    if (threads < 1 || threads > THREADS_MAX || capacity < 1) {
        return ERR_ARGUMENT;
    }
    struct pool *pool = pool_allocate(threads, capacity);
    if (!pool) {
        return ERR_MEMORY;
    }
    int rc = create_threads(pool, threads);
    if (rc != 0) {
        close_and_join(pool);
        pool_destroy(pool);
        return -rc;
    }
    wait_until_running(pool);
    *ret_pool = pool;
    return 0;
}

static void pool_append(struct pool *pool, struct pool_job *first, uint32_t count)
{
    for (struct pool_job *job = first, *next; job != NULL; job = next) {
        next = job->next;
        pool->waiting += !job->low_priority;
        pool_queue_put(job->background ? &pool->background : &pool->queue, job);
    }
    pool->stats.submitted += count;
    pool->stats.queued += count;
    if (pool->stats.queued > pool->stats.queued_max) {
        pool->stats.queued_max = pool->stats.queued;
    }
    for (uint32_t i = 0; i < count && i < pool->idle; i++) {
        pool_must(pthread_cond_signal(&pool->work));
    }
}

int pool_submit(struct pool *pool, struct pool_job *first, uint32_t count)
{
    if (count == 0) {
        return 0;
    }
    struct pool_job *last = first;
    for (uint32_t i = 1; i < count; i++) {
        last = last->next;
    }
    lock(pool);
    bool fits = count <= pool->capacity - pool->stats.queued;
    if (fits) {
        last->next = NULL;
        pool_append(pool, first, count);
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

uint32_t pool_waiting(struct pool *pool)
{
    return atomic_load_explicit(&pool->waiting, memory_order_relaxed);
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
