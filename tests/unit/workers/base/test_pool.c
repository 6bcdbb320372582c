/* SPDX-License-Identifier: MIT */
/* Nothing sleeps here: a gate (semaphore) holds the workers where a test wants them, and every wait
 * ends because something happened. The build's test timeout is the bound. */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/base/pool.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define JOBS 64

/* A job that says when it runs and waits to be let go. */
struct gated {
    struct pool_job job;
    sem_t *entered, *gate; /* NULL = does not wait */
    atomic_uint *ran;
    uint32_t index;
    uint32_t *order; /* where index goes, by count of jobs run */
    char name[16];
};

static void run_gated(struct pool_job *job, struct scratch *scratch)
{
    (void)scratch;
    struct gated *g = (struct gated *)job;
    pthread_getname_np(pthread_self(), g->name, sizeof g->name);
    if (g->entered) {
        sem_post(g->entered);
        sem_wait(g->gate);
    }
    unsigned before = atomic_fetch_add(g->ran, 1);
    if (g->order) {
        g->order[before] = g->index;
    }
}

struct fixture {
    sem_t entered, gate;
    atomic_uint ran;
    struct gated job[JOBS];
    uint32_t order[JOBS];
};

static int pool_set_up(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;
    memset(f, 0, sizeof *f);
    sem_init(&f->entered, 0, 0);
    sem_init(&f->gate, 0, 0);
    for (uint32_t i = 0; i < JOBS; i++) {
        f->job[i] =
            (struct gated){.job.run = run_gated, .ran = &f->ran, .index = i, .order = f->order};
    }
    *state = f;
    return 0;
}

static int pool_tear_down(void **state)
{
    struct fixture *f = *state;
    sem_destroy(&f->entered);
    sem_destroy(&f->gate);
    return 0;
}

#define POOL_TEST(name) TEST_OF(name, struct fixture *f, pool_set_up, pool_tear_down)

static void make_gated(struct fixture *f, uint32_t begin_index, uint32_t end_index)
{
    for (uint32_t i = begin_index; i < end_index; i++) {
        f->job[i].entered = &f->entered;
        f->job[i].gate = &f->gate;
    }
}

static void pool_wait_for(sem_t *semaphore, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        sem_wait(semaphore);
    }
}

static void open_gate(struct fixture *f, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        sem_post(&f->gate);
    }
}

/* Links jobs [first, first + count) and submits them. */
static int test_pool_submit(struct pool *pool, struct fixture *f, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i + 1 < first + count; i++) {
        f->job[i].job.next = &f->job[i + 1].job;
    }
    return pool_submit(pool, NULL, &f->job[first].job, count);
}

static struct pool *new_pool(uint32_t threads, uint32_t capacity)
{
    struct pool *pool = NULL;
    assert_int_equal(pool_new(threads, capacity, &pool), 0);
    return pool;
}

/* One worker, which is inside job 0: the queue is all there is. */
static struct pool *busy_pool(struct fixture *f, uint32_t capacity)
{
    struct pool *pool = new_pool(1, capacity);
    make_gated(f, 0, 1);
    assert_int_equal(test_pool_submit(pool, f, 0, 1), 0);
    pool_wait_for(&f->entered, 1);
    return pool;
}

/* Lets `waiting` jobs go; `ran` have run in the end. */
static void end_after(struct fixture *f, uint32_t waiting, struct pool **pool, unsigned ran)
{
    open_gate(f, waiting);
    pool_free(pool);
    assert_int_equal(atomic_load(&f->ran), ran);
}

POOL_TEST(full_queue_rejects_and_keeps_the_jobs)
{
    struct pool *pool = busy_pool(f, 3);
    assert_int_equal(test_pool_submit(pool, f, 1, 3), 0);
    assert_int_equal(test_pool_submit(pool, f, 4, 1), ERR_AGAIN);
    struct pool_stats stats = pool_stats(pool);
    assert_int_equal(stats.queued, 3);
    assert_int_equal(stats.submitted, 4);
    assert_int_equal(stats.rejected, 1);
    end_after(f, 1, &pool, 4);
    assert_int_equal(f->job[4].name[0], '\0'); /* never ran */
}

POOL_TEST(a_list_goes_in_whole_or_not_at_all)
{
    struct pool *pool = busy_pool(f, 4);
    assert_int_equal(test_pool_submit(pool, f, 1, 2), 0);
    assert_int_equal(test_pool_submit(pool, f, 3, 3), ERR_AGAIN);
    assert_int_equal(pool_stats(pool).queued, 2);
    assert_ptr_equal(f->job[3].job.next, &f->job[4].job); /* the list is as it was */
    assert_int_equal(test_pool_submit(pool, f, 3, 2), 0);
    assert_int_equal(test_pool_submit(pool, f, 0, 5),
                     ERR_AGAIN); /* more than the queue could ever hold */
    end_after(f, 1, &pool, 5);
}

POOL_TEST(jobs_of_one_worker_run_in_order)
{
    struct pool *pool = busy_pool(f, JOBS);
    assert_int_equal(test_pool_submit(pool, f, 1, 10), 0);
    assert_int_equal(test_pool_submit(pool, f, 11, JOBS - 11), 0);
    assert_int_equal(pool_stats(pool).queued_max, JOBS - 1);
    open_gate(f, 1);
    pool_free(&pool);
    for (uint32_t i = 0; i < JOBS; i++) {
        assert_int_equal(f->order[i], i);
    }
}

/* All of them are inside a job at once; with one worker fewer this would never return. */
POOL_TEST(all_workers_run_at_the_same_time)
{
    make_gated(f, 0, 8);
    struct pool *pool = new_pool(8, 8);
    assert_int_equal(pool_stats(pool).threads, 8);
    assert_int_equal(test_pool_submit(pool, f, 0, 3), 0);
    assert_int_equal(test_pool_submit(pool, f, 3, 5), 0);
    pool_wait_for(&f->entered, 8);
    assert_int_equal(atomic_load(&f->ran), 0);
    end_after(f, 8, &pool, 8);
}

POOL_TEST(workers_are_named)
{
    make_gated(f, 0, 2);
    struct pool *pool = new_pool(2, 2);
    assert_int_equal(test_pool_submit(pool, f, 0, 2), 0);
    pool_wait_for(&f->entered, 2);
    open_gate(f, 2);
    pool_free(&pool);
    assert_memory_equal(f->job[0].name, "attnd-worker-", 13);
    assert_memory_equal(f->job[1].name, "attnd-worker-", 13);
    assert_string_not_equal(f->job[0].name, f->job[1].name);
}

/* Running jobs do not wait, and jobs of low priority do not count as waiting. */
POOL_TEST(patient_jobs_are_not_counted_as_waiting)
{
    struct pool *pool;
    make_gated(f, 0, 1);
    f->job[1].job.low_priority = true;
    assert_int_equal(pool_new(1, JOBS, &pool), 0);
    struct pool_tenant *tenant;
    assert_int_equal(pool_tenant_new(&tenant), 0);
    assert_int_equal(pool_submit(pool, tenant, &f->job[0].job, 1), 0);
    pool_wait_for(&f->entered, 1);
    assert_int_equal(pool_waiting(tenant), 0);
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(pool_submit(pool, tenant, &f->job[i].job, 1), 0);
    }
    assert_int_equal(pool_waiting(tenant), 2);
    open_gate(f, 1);
    pool_free(&pool);
    pool_tenant_free(&tenant);
    assert_int_equal(atomic_load(&f->ran), 4);
}

/* One of two workers is kept free of them, however many there are. */
POOL_TEST(background_jobs_leave_a_worker_free)
{
    make_gated(f, 0, 3);
    struct pool *pool = new_pool(2, JOBS);
    for (uint32_t i = 0; i < 3; i++) {
        f->job[i].job.background = f->job[i].job.low_priority = true;
    }
    assert_int_equal(test_pool_submit(pool, f, 0, 3), 0);
    pool_wait_for(&f->entered, 1);
    make_gated(f, 3, 4);
    assert_int_equal(test_pool_submit(pool, f, 3, 1), 0);
    pool_wait_for(&f->entered, 1); /* the second one to enter is the one submitted last */
    assert_string_not_equal(f->job[3].name, "");
    assert_string_equal(f->job[1].name, "");
    end_after(f, 4, &pool, 4);
}

/* They wait for others, but not for ever. */
POOL_TEST(background_jobs_get_their_turn)
{
    struct pool *pool = busy_pool(f, 2 * POOL_BACKGROUND_TURN);
    f->job[1].job.background = true;
    assert_int_equal(test_pool_submit(pool, f, 1, JOBS - 1), 0);
    open_gate(f, 1);
    pool_free(&pool);
    assert_int_equal(f->order[JOBS - 1], 1); /* the others first: they are fewer than a turn */
}

POOL_TEST(shutdown_runs_everything)
{
    struct pool *pool = new_pool(3, JOBS);
    assert_int_equal(test_pool_submit(pool, f, 0, JOBS), 0);
    pool_free(&pool);
    assert_null(pool);
    assert_int_equal(atomic_load(&f->ran), JOBS);
}

POOL_TEST(pool_stats_add_up)
{
    make_gated(f, 0, JOBS);
    struct pool *pool = new_pool(2, JOBS);
    assert_int_equal(test_pool_submit(pool, f, 0, 2), 0);
    pool_wait_for(&f->entered, 2);
    assert_int_equal(test_pool_submit(pool, f, 2, 10), 0);
    struct pool_stats stats = pool_stats(pool);
    assert_int_equal(stats.submitted, 12);
    assert_int_equal(stats.completed, 0);
    assert_int_equal(stats.queued, 10);
    open_gate(f, 10);
    pool_wait_for(&f->entered, 10); /* the last two are inside: ten are done */
    stats = pool_stats(pool);
    assert_int_equal(stats.queued, 0);
    assert_in_range(stats.completed, 9, 10); /* the tenth may be on its way out */
    end_after(f, 2, &pool, 12);
}

/* A job that frees itself and, while it lasts, submits a successor: also during shutdown. */
struct chain {
    struct pool_job job;
    struct pool *pool;
    atomic_uint *ran;
    unsigned left;
};

static void run_chain(struct pool_job *job, struct scratch *scratch)
{
    struct chain *c = (struct chain *)job;
    assert_non_null(scratch_take(scratch, 1000));
    if (c->left > 0) {
        struct chain *next = malloc(sizeof *next);
        assert_non_null(next);
        *next = *c;
        next->left--;
        assert_int_equal(pool_submit(c->pool, NULL, &next->job, 1), 0);
    }
    atomic_fetch_add(c->ran, 1);
    free(c);
}

TEST(jobs_may_free_themselves_and_submit_more)
{
    atomic_uint ran = 0;
    struct pool *pool = new_pool(2, 4);
    struct chain *c = malloc(sizeof *c);
    assert_non_null(c);
    *c = (struct chain){.job.run = run_chain, .pool = pool, .ran = &ran, .left = 100};
    assert_int_equal(pool_submit(pool, NULL, &c->job, 1), 0);
    pool_free(&pool);
    assert_int_equal(atomic_load(&ran), 101);
}

/* Several threads test_pool_submit one job at a time and try again when the queue is full. */
struct submitter {
    pthread_t thread;
    struct pool *pool;
    struct gated *job;
};

static void *submit_all(void *argument)
{
    struct submitter *s = argument;
    for (uint32_t i = 0; i < JOBS / 4; i++) {
        while (pool_submit(s->pool, NULL, &s->job[i].job, 1) == ERR_AGAIN) {
            sched_yield();
        }
    }
    return NULL;
}

POOL_TEST(many_submitters_lose_nothing)
{
    struct pool *pool = new_pool(2, 3);
    struct submitter s[4];
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = (struct submitter){.pool = pool, .job = f->job + i * (JOBS / 4)};
        assert_int_equal(pthread_create(&s[i].thread, NULL, submit_all, &s[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(s[i].thread, NULL), 0);
    }
    assert_int_equal(pool_stats(pool).submitted, JOBS);
    assert_in_range(pool_stats(pool).queued_max, 1, 3);
    pool_free(&pool);
    assert_int_equal(atomic_load(&f->ran), JOBS);
}

TEST(arguments_out_of_range_are_refused)
{
    OWNED(pool_free) struct pool *pool = NULL;
    assert_int_equal(pool_new(0, 1, &pool), ERR_ARGUMENT);
    assert_int_equal(pool_new(257, 1, &pool), ERR_ARGUMENT);
    assert_int_equal(pool_new(1, 0, &pool), ERR_ARGUMENT);
    assert_null(pool);
}

TEST(largest_pool_starts_and_stops)
{
    OWNED(pool_free) struct pool *pool = new_pool(256, 1);
    assert_int_equal(pool_stats(pool).threads, 256);
}

TEST(pool_out_of_memory_is_reported)
{
    struct pool *pool = NULL;
    heap_fail_at(1);
    assert_int_equal(pool_new(1, 1, &pool), ERR_MEMORY);
    heap_fail_at(0);
    assert_null(pool);
}

TEST(submitting_nothing_is_no_error)
{
    OWNED(pool_free) struct pool *pool = new_pool(1, 1);
    assert_int_equal(pool_submit(pool, NULL, NULL, 0), 0);
}

/* Tenants. */

/* A job that works until something has happened, and lets others have the thread meanwhile. */
struct patient {
    struct pool_job job;
    atomic_uint *until; /* reaches `least` */
    unsigned least;
    atomic_uint *then; /* is counted up */
    bool kept;         /* its scratch is as it was */
};

static void run_patient(struct pool_job *job, struct scratch *scratch)
{
    struct patient *p = (struct patient *)job;
    char *memory = scratch_take(scratch, 4096);
    memset(memory, (int)p->least + 1, 4096);
    while (p->until && atomic_load(p->until) < p->least) {
        scratch_pause(scratch);
    }
    p->kept = scratch->memory == memory && memory[0] == (char)(p->least + 1) &&
              memory[4095] == (char)(p->least + 1);
    if (p->then) {
        atomic_fetch_add(p->then, 1);
    }
}

static struct pool_tenant *new_tenant(void)
{
    struct pool_tenant *tenant = NULL;
    assert_int_equal(pool_tenant_new(&tenant), 0);
    return tenant;
}

static void submit_patient(struct pool *pool, struct pool_tenant *tenant, struct patient *p)
{
    p->job.run = run_patient;
    assert_int_equal(pool_submit(pool, tenant, &p->job, 1), 0);
}

POOL_TEST(a_newcomer_is_next_however_many_wait)
{
    make_gated(f, 0, 1);
    struct pool *pool = new_pool(1, JOBS);
    OWNED(pool_tenant_free) struct pool_tenant *many = new_tenant(), *one = new_tenant();
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(pool_submit(pool, many, &f->job[i].job, 1), 0);
    }
    pool_wait_for(&f->entered, 1);
    assert_int_equal(pool_submit(pool, one, &f->job[20].job, 1), 0);
    open_gate(f, 1);
    pool_free(&pool);
    assert_int_equal(f->order[0], 0);
    assert_int_equal(f->order[1], 20);
    assert_int_equal(f->order[2], 1); /* first in, first out */
    assert_int_equal(f->order[20], 19);
}

/* It would never end if it did not. */
TEST(a_long_job_pauses_for_another_tenant)
{
    atomic_uint done = 0;
    struct pool *pool = new_pool(1, JOBS);
    OWNED(pool_tenant_free) struct pool_tenant *a = new_tenant(), *b = new_tenant();
    struct patient waits = {.until = &done, .least = 1}, ends = {.then = &done};
    submit_patient(pool, a, &waits);
    submit_patient(pool, b, &ends);
    pool_free(&pool);
    assert_true(waits.kept && ends.kept);
}

/* Each has to get on for the other to get on. */
TEST(long_jobs_of_two_tenants_alternate)
{
    atomic_uint a_done = 0, b_done = 0;
    struct patient a_job[5], b_job[5];
    struct pool *pool = new_pool(1, JOBS);
    OWNED(pool_tenant_free) struct pool_tenant *a = new_tenant(), *b = new_tenant();
    for (unsigned i = 0; i < 5; i++) {
        a_job[i] = (struct patient){.until = &b_done, .least = i, .then = &a_done};
        submit_patient(pool, a, &a_job[i]);
    }
    for (unsigned i = 0; i < 5; i++) {
        b_job[i] = (struct patient){.until = &a_done, .least = i + 1, .then = &b_done};
        submit_patient(pool, b, &b_job[i]);
    }
    pool_free(&pool);
    assert_int_equal(atomic_load(&a_done), 5);
    assert_int_equal(atomic_load(&b_done), 5);
}

TEST(there_is_a_thread_for_one_more_tenant)
{
    enum { TENANTS = 5, EACH = 4 };
    atomic_uint done = 0;
    struct patient job[TENANTS][EACH], last = {.then = &done};
    struct pool *pool = new_pool(1, JOBS);
    struct pool_tenant *tenant[TENANTS + 1];
    for (unsigned t = 0; t < TENANTS; t++) {
        tenant[t] = new_tenant();
        for (unsigned i = 0; i < EACH; i++) {
            job[t][i] = (struct patient){.until = &done, .least = 1};
            submit_patient(pool, tenant[t], &job[t][i]);
        }
    }
    tenant[TENANTS] = new_tenant();
    submit_patient(pool, tenant[TENANTS], &last);
    pool_free(&pool);
    assert_int_equal(atomic_load(&done), 1);
    for (unsigned t = 0; t <= TENANTS; t++) {
        pool_tenant_free(&tenant[t]);
    }
}

/* A job of low priority need not pause: beside it the only worker does another tenant's. */
POOL_TEST(a_job_that_does_not_pause_has_one_beside_it)
{
    make_gated(f, 0, 2);
    f->job[0].job.low_priority = true;
    struct pool *pool = new_pool(1, JOBS);
    OWNED(pool_tenant_free) struct pool_tenant *a = new_tenant(), *b = new_tenant();
    assert_int_equal(pool_submit(pool, a, &f->job[0].job, 1), 0);
    pool_wait_for(&f->entered, 1);
    assert_int_equal(pool_submit(pool, a, &f->job[2].job, 1), 0); /* has to wait */
    assert_int_equal(pool_submit(pool, b, &f->job[1].job, 1), 0);
    pool_wait_for(&f->entered, 1);
    assert_int_equal(atomic_load(&f->ran), 0);
    assert_int_equal(pool_stats(pool).queued, 1);
    end_after(f, 2, &pool, 3);
}

POOL_TEST(a_full_queue_is_its_tenants_own)
{
    make_gated(f, 0, 1);
    struct pool *pool = new_pool(1, 1);
    OWNED(pool_tenant_free) struct pool_tenant *a = new_tenant(), *b = new_tenant();
    assert_int_equal(pool_submit(pool, a, &f->job[0].job, 1), 0);
    pool_wait_for(&f->entered, 1);
    assert_int_equal(pool_submit(pool, a, &f->job[1].job, 1), 0);
    assert_int_equal(pool_submit(pool, a, &f->job[2].job, 1), ERR_AGAIN);
    assert_int_equal(pool_submit(pool, b, &f->job[3].job, 1), 0);
    end_after(f, 1, &pool, 3);
}

struct last_job {
    struct pool_job job;
    struct pool_tenant *tenant;
};

static void run_last(struct pool_job *job, struct scratch *scratch)
{
    (void)scratch;
    pool_tenant_free(&((struct last_job *)job)->tenant);
}

TEST(a_tenant_may_end_with_its_last_job)
{
    struct pool *pool = new_pool(1, 1);
    struct last_job last = {.job = {.run = run_last}, .tenant = new_tenant()};
    assert_int_equal(pool_submit(pool, last.tenant, &last.job, 1), 0);
    pool_free(&pool);
    assert_null(last.tenant);
}
