/* SPDX-License-Identifier: MIT */
/* jobs: the list of runs with their layers, which may be a million. It is made in turns of a few
 * milliseconds, run by run, between other work of the loop; a list that one turn makes is answered
 * at once. It has the runs that were known when it began and are still there when their turn comes.
 * One list is made at a time, first come, first served; at most LISTS_MAX wait. */
#include "daemon/control/internal.h"

#include "daemon/base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define TURN_NS   UINT64_C(5000000)
#define LISTS_MAX 64
/* A key, a connection, or HTTP may have so many of them. */
#define LISTS_EACH 16

struct listed_run {
    char job[JOB_NAME_MAX + 1];
    uint8_t id[RUN_BYTES];
};

struct jobs_list {
    struct pending *pending;
    uint64_t asker;
    char jobs[ACCESS_JOBS_MAX]; /* patterns of those to list; "": all */
    bool begun;
    struct listed_run *runs; /* [count]; owned */
    uint32_t count, done;
    bool takes_job; /* whether the job of the run before is listed */
    struct mpk_writer result;
    struct mpk_open array;
    struct jobs_list *next, *previous;
};

static void jobs_begin(struct jobs_list *list, const struct registry *registry)
{
    list->begun = true;
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        list->count++;
    }
    list->runs = calloc(list->count + 1, sizeof *list->runs);
    list->count = list->runs ? list->count : 0;
    struct run *run = NULL;
    for (uint32_t i = 0; i < list->count; i++) {
        run = registry_next(registry, run);
        strcpy(list->runs[i].job, run->job);
        memcpy(list->runs[i].id, run->id, RUN_BYTES);
    }
    list->array = mpk_open(&list->result, NULL);
    list->result.failed = list->result.failed || !list->runs;
}

static void jobs_put_next(struct jobs_list *list, const struct registry *registry)
{
    const struct listed_run *next = &list->runs[list->done];
    bool same = list->done > 0 && strcmp(next[-1].job, next->job) == 0;
    list->done++;
    if (!same) {
        list->takes_job = !*list->jobs || access_jobs_match(list->jobs, next->job);
    }
    const struct run *run = list->takes_job ? registry_get(registry, next->job, next->id) : NULL;
    if (run) {
        run_encode(run, &list->result);
    }
}

static void jobs_free(struct jobs_lists *lists, struct jobs_list *list, int code)
{
    pending_answer(&list->pending, code, NULL, &list->result);
    DL_DELETE2(lists->first, list, previous, next);
    mpk_writer_clear(&list->result);
    free(list->runs);
    free(list);
}

static void jobs_on_turn(uv_idle_t *turn)
{
    struct jobs_lists *lists = turn->data;
    uint64_t until_ns = clock_monotonic_ns() + TURN_NS;
    struct jobs_list *list = lists->first;
    if (!list->begun) {
        jobs_begin(list, lists->registry);
    }
    while (list->done < list->count && clock_monotonic_ns() < until_ns) {
        jobs_put_next(list, lists->registry);
    }
    if (list->done == list->count) {
        mpk_close_array(&list->result, &list->array);
        jobs_free(lists, list, mpk_writer_ok(&list->result) ? 0 : ERR_MEMORY);
    }
    if (!lists->first) {
        uv_idle_stop(turn);
    }
}

static bool jobs_may_wait(const struct jobs_lists *lists, uint64_t asker)
{
    int all = 0, own = 0;
    for (const struct jobs_list *list = lists->first; list; list = list->next) {
        all++;
        own += list->asker == asker;
    }
    return all < LISTS_MAX && own < LISTS_EACH;
}

int method_jobs(struct control_request *request)
{
    struct jobs_lists *lists = request->lists;
    if (!jobs_may_wait(lists, request->asker)) {
        return ERR_AGAIN;
    }
    struct jobs_list *list = calloc(1, sizeof *list);
    if (!list) {
        return ERR_MEMORY;
    }
    if (!string_param(request, "jobs", "", list->jobs, sizeof list->jobs)) {
        free(list);
        return ERR_ARGUMENT;
    }
    list->asker = request->asker;
    list->pending = request_defer(request);
    if (!list->pending) {
        free(list);
        return ERR_MEMORY;
    }
    mpk_writer_init(&list->result);
    bool alone = !lists->first;
    DL_APPEND2(lists->first, list, previous, next);
    if (alone) {
        uv_idle_start(&lists->turn, jobs_on_turn);
        jobs_on_turn(&lists->turn);
    }
    return CONTROL_WAIT;
}

void jobs_start(struct jobs_lists *lists, uv_loop_t *loop, const struct registry *registry)
{
    uv_idle_init(loop, &lists->turn);
    lists->turn.data = lists;
    lists->registry = registry;
}

void jobs_stop(struct jobs_lists *lists)
{
    while (lists->first) {
        jobs_free(lists, lists->first, ERR_CLOSED);
    }
    uv_idle_stop(&lists->turn);
}
