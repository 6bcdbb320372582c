/* SPDX-License-Identifier: MIT */
/* jobs: the list of runs with their layers, which may be a million. It is made in turns of a few
 * milliseconds, run by run, between other work of the loop; a list that one turn makes is answered
 * at once. It has the runs that were known when it began and are still there when their turn comes.
 * One list is made at a time, first come, first served. Whoever asks for the same list before it
 * begins gets it as well, so that askers in great number do not keep others waiting. */
#include "daemon/control/internal.h"

#include "daemon/base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define TURN_NS UINT64_C(5000000)
/* Lists of some jobs that wait; that of all always may. */
#define LISTS_MAX 16
/* Questions that wait, and those of a key, a connection, or HTTP. */
#define ASKED_MAX  1024
#define ASKED_EACH 16

struct listed_run {
    char job[JOB_NAME_MAX + 1];
    uint8_t id[RUN_BYTES];
};

struct jobs_question {
    struct pending *pending;
    uint64_t asker;
    struct jobs_question *next;
};

struct jobs_list {
    struct jobs_question *asked; /* owned */
    char jobs[ACCESS_JOBS_MAX];  /* patterns of those to list; "": all */
    bool begun, made;
    struct listed_run *runs; /* [count]; owned */
    uint32_t count, done;
    bool takes_job; /* whether the job of the run before is listed */
    struct mpk_writer result;
    struct mpk_open array;
    struct jobs_list *next, *previous;
};

/* Answers the one that has waited longest. */
static void jobs_answer(struct jobs_list *list, int code)
{
    struct jobs_question *question = list->asked;
    pending_answer(&question->pending, code, NULL, &list->result);
    LL_DELETE(list->asked, question);
    free(question);
}

static void jobs_free(struct jobs_lists *lists, struct jobs_list *list)
{
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
        list->begun = true;
        for (struct run *run = NULL; (run = registry_next(lists->registry, run));) {
            list->count++;
        }
        list->runs = calloc(list->count + 1, sizeof *list->runs);
        list->count = list->runs ? list->count : 0;
        struct run *run = NULL;
        for (uint32_t i = 0; i < list->count; i++) {
            run = registry_next(lists->registry, run);
            strcpy(list->runs[i].job, run->job);
            memcpy(list->runs[i].id, run->id, RUN_BYTES);
        }
        list->array = mpk_open(&list->result, NULL);
        list->result.failed = list->result.failed || !list->runs;
    }
    while (!list->made && clock_monotonic_ns() < until_ns) {
        if (list->done < list->count) {
            const struct listed_run *next = &list->runs[list->done];
            bool same = list->done > 0 && strcmp(next[-1].job, next->job) == 0;
            list->done++;
            if (!same) {
                list->takes_job = !*list->jobs || access_jobs_match(list->jobs, next->job);
            }
            const struct run *run =
                list->takes_job ? registry_get(lists->registry, next->job, next->id) : NULL;
            if (run) {
                run_encode(run, &list->result);
            }
        } else {
            mpk_close_array(&list->result, &list->array);
            list->made = true;
        }
    }
    while (list->made && list->asked && clock_monotonic_ns() < until_ns) {
        jobs_answer(list, mpk_writer_ok(&list->result) ? 0 : ERR_MEMORY);
    }
    if (!list->asked) {
        jobs_free(lists, list);
    }
    if (!lists->first) {
        uv_idle_stop(turn);
    }
}

static bool jobs_may_ask(const struct jobs_lists *lists, uint64_t asker)
{
    int all = 0, own = 0;
    for (const struct jobs_list *list = lists->first; list; list = list->next) {
        const struct jobs_question *question;
        LL_FOREACH(list->asked, question)
        {
            all++;
            own += question->asker == asker;
        }
    }
    return all < ASKED_MAX && own < ASKED_EACH;
}

/* One of these jobs that has not begun, made when there is none. Returns 0, ERR_AGAIN or
 * ERR_MEMORY. */
static int jobs_find_list(struct jobs_lists *lists, const char *jobs, struct jobs_list **ret_list)
{
    struct jobs_list *list;
    int count = 0;
    DL_FOREACH2(lists->first, list, next)
    {
        if (!list->begun && strcmp(list->jobs, jobs) == 0) {
            *ret_list = list;
            return 0;
        }
        count++;
    }
    if (*jobs && count >= LISTS_MAX) {
        return ERR_AGAIN;
    }
    list = calloc(1, sizeof *list);
    if (!list) {
        return ERR_MEMORY;
    }
    strcpy(list->jobs, jobs);
    mpk_writer_init(&list->result);
    DL_APPEND2(lists->first, list, previous, next);
    *ret_list = list;
    return 0;
}

int method_jobs(struct control_request *request)
{
    struct jobs_lists *lists = request->lists;
    struct jobs_list *list;
    char jobs[ACCESS_JOBS_MAX];
    if (!string_param(request, "jobs", "", jobs, sizeof jobs)) {
        return ERR_ARGUMENT;
    }
    bool alone = !lists->first;
    int code = jobs_may_ask(lists, request->asker) ? jobs_find_list(lists, jobs, &list) : ERR_AGAIN;
    if (code) {
        return code;
    }
    struct jobs_question *question = calloc(1, sizeof *question);
    struct pending *pending = question ? request_defer(request) : NULL;
    if (!pending) {
        free(question);
        if (!list->asked) {
            jobs_free(lists, list);
        }
        return ERR_MEMORY;
    }
    *question = (struct jobs_question){.pending = pending, .asker = request->asker};
    LL_APPEND(list->asked, question);
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
        while (lists->first->asked) {
            jobs_answer(lists->first, ERR_CLOSED);
        }
        jobs_free(lists, lists->first);
    }
    uv_idle_stop(&lists->turn);
}
