/* SPDX-License-Identifier: MIT */
#include "daemon/run/registry.h"

#include "daemon/run/checkpoint.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/run/closing.h"
#include "daemon/run/hold.h"
#include "daemon/run/past.h"
#include "daemon/run/queue.h"
#include "daemon/run/restore.h"
#include "proto/key.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct job {
    char name[JOB_NAME_MAX + 1];
    struct run *runs; /* newest first */
    struct work_queue work;
    char sender[KEY_LENGTH + 1]; /* of its newest message, as there; "": NULL */
    UT_hash_handle hh;
};

struct registry {
    const struct config *config;
    const struct result_sink *sink;
    void (*forget)(void *data, const char *job);
    void *data;
    struct job *jobs;
    struct state_budget budget;
    struct pasts pasts;
};

struct registry *registry_new(const struct config *config, const struct result_sink *sink,
                              void (*forget)(void *data, const char *job), void *data)
{
    struct registry *registry = calloc(1, sizeof *registry);
    if (!registry) {
        return NULL;
    }
    registry->config = config;
    registry->sink = sink;
    registry->forget = forget;
    registry->data = data;
    registry->budget.limit = config->limits_state_memory;
    return registry;
}

static void remove_job(struct registry *registry, struct job *job)
{
    HASH_DEL(registry->jobs, job);
    while (job->runs) {
        struct run *run = job->runs;
        job->runs = run->next;
        run_free(&run);
    }
    work_queue_clear(&job->work);
    free(job);
}

void registry_free(struct registry **registry_p)
{
    struct registry *registry = *registry_p;
    if (!registry) {
        return;
    }
    while (registry->jobs) {
        remove_job(registry, registry->jobs);
    }
    past_forget_all(&registry->pasts);
    free(registry);
    *registry_p = NULL;
}

/* Making room */

static uint64_t last_heard(const struct job *job)
{
    uint64_t last = 0;
    for (const struct run *run = job->runs; run; run = run->next) {
        last = run->last_ns > last ? run->last_ns : last;
    }
    return last;
}

static bool job_at_rest(const struct job *job)
{
    for (const struct run *run = job->runs; run; run = run->next) {
        if (run->state == JOB_ACTIVE || run_busy(run)) {
            return false;
        }
    }
    return true;
}

static bool registry_run_has_tensors(const struct run *run)
{
    bool any = false;
    for (const struct stream *stream = run->streams; stream && !any; stream = stream->hh.next) {
        any = stream->measured;
    }
    return any;
}

/* Nothing of it would be missed: it has sent no tensors, and none wait to be measured. */
static bool registry_run_is_empty(const struct run *run)
{
    return !run_busy(run) && !registry_run_has_tensors(run);
}

static bool registry_job_is_empty(const struct job *job)
{
    for (const struct run *run = job->runs; run; run = run->next) {
        if (!registry_run_is_empty(run)) {
            return false;
        }
    }
    return true;
}

static bool registry_job_has_tensors(const struct job *job)
{
    const struct run *run = job->runs;
    while (run && !registry_run_has_tensors(run)) {
        run = run->next;
    }
    return run;
}

static struct job *registry_longest_silent(struct registry *registry, const struct job *but,
                                           bool (*may_go)(const struct job *))
{
    struct job *longest = NULL;
    for (struct job *job = registry->jobs; job; job = job->hh.next) {
        if (job != but && may_go(job) && (!longest || last_heard(job) < last_heard(longest))) {
            longest = job;
        }
    }
    return longest;
}

/* It has a place that it does not make for others. */
static bool registry_job_stays(const struct job *job)
{
    return !job_at_rest(job) && !registry_job_is_empty(job);
}

/* A key that may publish some jobs only has at most half of the places that other keys leave: it
 * cannot keep their jobs out. `known` as below. */
static int registry_check_share(const struct registry *registry, const struct job *known,
                                const char *sender)
{
    uint64_t own = 0, others = 0, limit = registry->config->limits_jobs;
    if (!sender || (known && registry_job_stays(known))) {
        return 0;
    }
    for (const struct job *job = registry->jobs; job; job = job->hh.next) {
        if (job != known && registry_job_stays(job)) {
            *(strcmp(job->sender, sender) == 0 ? &own : &others) += 1;
        }
    }
    return 2 * own + others < limit ? 0 : ERR_JOB_LIMIT;
}

/* The place that a message may claim. A hello takes the one place beyond the limit: its tensors,
 * which come next, are what others make room for. Other events of strangers have nothing to
 * follow. */
enum claim { CLAIM_NONE, CLAIM_ONE_BEYOND, CLAIM_ROOM };

static enum claim claim_of(const struct header *header)
{
    if (header->type != MESSAGE_EVENT) {
        return CLAIM_ROOM;
    }
    return header->event == EVENT_HELLO ? CLAIM_ONE_BEYOND : CLAIM_NONE;
}

/* `known`: the job that the message is of; NULL when it is a new one. */
static int make_room_for_job(struct registry *registry, const struct job *known, enum claim claim,
                             uint64_t now_ns)
{
    uint64_t limit = registry->config->limits_jobs, count = HASH_COUNT(registry->jobs);
    if (count + !known <= limit) {
        return 0;
    }
    /* It has its place, or stays in the one beyond the limit; not with tensors whose hello is still
     * queued: nobody would make room for them later, and every other hello be refused. */
    if (known && (claim != CLAIM_ROOM || registry_job_has_tensors(known))) {
        return 0;
    }
    struct job *job = registry_longest_silent(registry, known, registry_job_is_empty);
    if (!job && claim == CLAIM_ONE_BEYOND && count == limit) {
        return 0;
    }
    /* A hello, too, when the place beyond is taken by a job whose first messages are queued. */
    if (!job && claim != CLAIM_NONE) {
        job = registry_longest_silent(registry, known, job_at_rest);
    }
    if (!job) {
        return ERR_JOB_LIMIT;
    }
    log_event(LOG_INFO, "job_forgotten", LOG_STR("job", job->name));
    registry->forget(registry->data, job->name);
    for (struct run *run = job->runs; run; run = run->next) {
        checkpoint_forget(run, now_ns);
    }
    remove_job(registry, job);
    return 0;
}

/* A run that is over, or silent for so long that it may be a trainer that was killed. */
static bool run_may_go(const struct registry *registry, const struct run *run, uint64_t now_ns)
{
    bool silent = clock_since_ns(run->last_ns, now_ns) >= registry->config->window_timeout;
    return !run_busy(run) && (run->state != JOB_ACTIVE || silent);
}

/* `known`: the run that the message is of; NULL when it is a new one. */
static int make_room_for_run(struct registry *registry, struct job *job, const struct run *known,
                             enum claim claim, uint64_t now_ns)
{
    uint64_t limit = registry->config->limits_runs, count = 0;
    struct run *empty = NULL, *longest = NULL;
    for (struct run *run = job->runs; run; run = run->next) {
        count++;
    }
    if (count + !known <= limit ||
        (known && (claim != CLAIM_ROOM || registry_run_has_tensors(known)))) {
        return 0;
    }
    for (struct run *run = job->runs; run; run = run->next) {
        if (run != known && registry_run_is_empty(run) &&
            (!empty || run->last_ns < empty->last_ns)) {
            empty = run;
        }
        if (run != known && run_may_go(registry, run, now_ns) &&
            (!longest || run->last_ns < longest->last_ns)) {
            longest = run;
        }
    }
    if (!empty && claim == CLAIM_ONE_BEYOND && count == limit) {
        return 0;
    }
    struct run *run = empty ? empty : claim != CLAIM_NONE ? longest : NULL;
    if (!run) {
        return ERR_RUN_LIMIT;
    }
    int code = run->state == JOB_ACTIVE ? closing_go_idle(run) : 0;
    if (code) {
        return code;
    }
    checkpoint_forget(run, now_ns);
    LL_DELETE(job->runs, run);
    run_free(&run);
    return 0;
}

/* Finding */

static struct job *registry_find_job(const struct registry *registry, const char *name)
{
    struct job *job = NULL;
    HASH_FIND_STR(registry->jobs, name, job);
    return job;
}

static int add_job(struct registry *registry, const char *name, struct job **ret_job)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        return ERR_MEMORY;
    }
    if (work_queue_init(&job->work) != 0) {
        free(job);
        return ERR_MEMORY;
    }
    strcpy(job->name, name);
    HASH_ADD_STR(registry->jobs, name, job);
    if (!job->hh.tbl) {
        work_queue_clear(&job->work);
        free(job);
        return ERR_MEMORY;
    }
    *ret_job = job;
    return 0;
}

static struct run *registry_find_run(const struct job *job, const uint8_t *id)
{
    struct run *run = job->runs;
    while (run && memcmp(run->id, id, RUN_BYTES) != 0) {
        run = run->next;
    }
    return run;
}

static int registry_add_run(struct registry *registry, struct job *job, const struct header *header,
                            uint64_t now_ns, struct run **ret_run)
{
    char hex[2 * RUN_BYTES + 1];
    /* Windows of seconds cannot be had where the clock does not tell when a message was sent, nor
     * where clocks of nodes differ: the run is cut as the config says, and its hellos are refused.
     */
    const struct own_window *own = &header->own_window;
    bool can = own->unit != WINDOW_SECOND ||
               (registry->config->fleet_role == CONFIG_ROLE_OFF && !registry->sink->is_replay);
    uint64_t length = can ? own->length : 0;
    struct config_cut cut = {
        .capture_every = config_capture_every(registry->config, header->job, header->own_every),
        .own = {.unit = (enum config_unit)own->unit, .length = length, .every = length}};
    struct run *run = past_take(&registry->pasts, header);
    run = run ? run
              : run_new(job->name, header->run, &cut, registry->config, registry->sink,
                        &registry->budget, now_ns);
    if (!run) {
        return ERR_MEMORY;
    }
    run->work = &job->work;
    run->next = job->runs;
    job->runs = run;
    run_hex(run->id, hex);
    log_event(LOG_INFO, "run_started", LOG_STR("job", job->name), LOG_STR("run", hex),
              LOG_NUM("world", header->world));
    *ret_run = run;
    return 0;
}

static uint64_t registry_memory_of(const struct job *job)
{
    uint64_t used = 0;
    for (const struct run *run = job->runs; run; run = run->next) {
        used += run->budget.used;
    }
    return used;
}

/* A job, or all jobs of a key that may publish some only, has at most eight times the memory that
 * is free, so that it does not keep the windows of others out. With more, its messages are refused
 * until windows are closed. */
static void registry_share_memory(const struct registry *registry, const struct job *job,
                                  struct run *run)
{
    uint64_t limit = registry->budget.limit, used = registry->budget.used;
    run->budget.limit = limit / RUN_SHARE;
    if (used <= limit / 2) { /* with all that one run may use, enough stays free */
        return;
    }
    uint64_t own = registry_memory_of(job), left = used < limit ? limit - used : 0;
    for (const struct job *other = registry->jobs; other; other = other->hh.next) {
        if (other != job && *job->sender && strcmp(other->sender, job->sender) == 0) {
            own += registry_memory_of(other);
        }
    }
    /* It may grow by x, with own + x <= 8 (left - x). This holds until its next message. */
    uint64_t most = own > 8 * left ? 0 : run->budget.used + (8 * left - own) / 9;
    run->budget.limit = most < run->budget.limit ? most : run->budget.limit;
}

static int find_or_add(struct registry *registry, struct message *message, enum claim claim,
                       uint64_t now_ns, struct run **ret_run)
{
    const struct header *header = &message->header;
    struct job *job = registry_find_job(registry, header->job);
    if (!job || !registry_find_run(job, header->run)) {
        struct run *past;
        int unread = past_look(&registry->pasts, header, registry->config, registry->sink,
                               &registry->budget, now_ns, &past);
        if (unread) {
            return unread;
        }
        if (past && queue_is_repeated(past, header)) {
            if (message->promise) {
                promise_took(message->promise, ERR_REPEATED);
            }
            checkpoint_promise(past, &message->promise);
            return ERR_REPEATED;
        }
        /* It has tensors already: it does not stay in the place beyond the limit. */
        if (past && claim == CLAIM_ONE_BEYOND && registry_run_has_tensors(past)) {
            claim = CLAIM_ROOM;
        }
    }
    int code = registry_check_share(registry, job, message->sender);
    if (!code) {
        code = make_room_for_job(registry, job, claim, now_ns);
    }
    if (!code && !job) {
        code = add_job(registry, header->job, &job);
    }
    if (code) {
        return code;
    }
    strcpy(job->sender, message->sender ? message->sender : "");
    *ret_run = registry_find_run(job, header->run);
    code = make_room_for_run(registry, job, *ret_run, claim, now_ns);
    if (!code && !*ret_run) {
        code = registry_add_run(registry, job, header, now_ns, ret_run);
    }
    if (!code) {
        registry_share_memory(registry, job, *ret_run);
    } else if (!job->runs) {
        remove_job(registry, job);
    }
    return code;
}

int registry_arrive(struct registry *registry, struct message *message, uint64_t now_ns,
                    bool *ret_compute)
{
    struct run *run;
    int code = find_or_add(registry, message, claim_of(&message->header), now_ns, &run);
    if (code || run->merged) {
        return code ? code : queue_refuse(run, ERR_HUB);
    }
    int held = hold_put(run, message, now_ns);
    if (held < 0) {
        return queue_refuse(run, held);
    }
    *ret_compute = !held && queue_put(run, message, now_ns);
    return 0;
}

/* All tracks know the same ranks by the same index. */
static int registry_merge_ranks(struct run *run, const struct merged *merged, uint64_t now_ns)
{
    for (uint32_t i = 0; i < merged->rank_count; i++) {
        for (uint32_t t = 0; t < run->track_count; t++) {
            struct window *window = &run->tracks[t].window;
            uint32_t index;
            int code = window_rank(window, merged->ranks[i], merged->world,
                                   run->config->limits_ranks, now_ns, &index);
            if (code) {
                return code;
            }
            window->ranks[index].bye = merged->state == JOB_ENDED;
        }
    }
    run_charge_kept(run);
    return 0;
}

int registry_merge(struct registry *registry, const struct merged *merged, uint64_t now_ns,
                   struct run **ret_run)
{
    struct message message = {.header = {.world = merged->world}};
    struct run *run;
    strcpy(message.header.job, merged->job);
    memcpy(message.header.run, merged->run, RUN_BYTES);
    message.header.own_window = merged->own_window;
    int code = find_or_add(registry, &message, CLAIM_ROOM, now_ns, &run);
    if (!code && (run_closes(run) || (!run->merged && run_busy(run)))) {
        code = ERR_AGAIN;
    }
    if (!code && !run->merged && run->tracks[0].window.rank_count > 0) {
        /* Trainers have sent of it to this attnd: from now on what nodes say counts alone. */
        log_event(LOG_WARNING, "run_given_to_hub", LOG_STR("job", run->job),
                  LOG_STR("detail",
                          "trainers have sent of this run to the hub itself, and not to a node: "
                          "that is dropped"));
        for (uint32_t t = 0; t < run->track_count; t++) {
            track_free_parts(&run->tracks[t]);
            window_forget_ranks(&run->tracks[t].window, 0);
            run->tracks[t].window.next_index = 0;
        }
    }
    if (!code) {
        run_be_merged(run);
        code = registry_merge_ranks(run, merged, now_ns);
    }
    if (code) {
        return code;
    }
    run_heard(run, false, now_ns);
    run->unsaved = true;
    bool goes_on = merged->state == JOB_ACTIVE || run->state != JOB_ENDED;
    run->dirty |= goes_on && run->state != JOB_ACTIVE;
    run->state = goes_on ? JOB_ACTIVE : run->state;
    run->epoch = merged->epoch;
    run->step = merged->step;
    run->time_ns = merged->time_ns;
    run->counts = (struct counts){merged->received, merged->processed, merged->tally};
    *ret_run = run;
    return 0;
}

void registry_refused(struct registry *registry, const char *name, int code)
{
    struct run *run = registry_find(registry, name, "");
    if (run) {
        queue_refuse(run, code);
    }
}

void registry_drop_run(struct registry *registry, struct run *run)
{
    struct job *job = registry_find_job(registry, run->job);
    if (registry_find(registry, run->job, "") == run) {
        registry->forget(registry->data, run->job);
    }
    past_forget_all(&registry->pasts);
    LL_DELETE(job->runs, run);
    run_free(&run);
    if (!job->runs) {
        remove_job(registry, job);
    }
}

/* All runs */

struct run *registry_next(const struct registry *registry, const struct run *run)
{
    struct run *next = run ? run->next : NULL;
    struct job *job = run ? registry_find_job(registry, run->job)->hh.next : registry->jobs;
    for (; !next && job; job = job->hh.next) {
        next = job->runs;
    }
    return next;
}

/* Costs */

const struct capture_cost *registry_cost(const struct registry *registry, const char *name)
{
    const struct job *job = registry_find_job(registry, name);
    const struct capture_cost *largest = NULL;
    for (const struct run *run = job ? job->runs : NULL; run; run = run->next) {
        const struct capture_cost *cost = costs_largest(&run->costs);
        if (cost && run->state != JOB_ENDED && run->own_every == 0 &&
            (!largest || cost_ratio(cost) > cost_ratio(largest))) {
            largest = cost;
        }
    }
    return largest;
}

/* Checkpoints */

static bool adopt_run(void *data, struct run *run)
{
    struct registry *registry = data;
    struct job *job = registry_find_job(registry, run->job);
    if (!job && make_room_for_job(registry, NULL,
                                  registry_run_has_tensors(run) ? CLAIM_ROOM : CLAIM_ONE_BEYOND,
                                  run->last_ns) != 0) {
        return false;
    }
    if (!job && add_job(registry, run->job, &job) != 0) {
        return false;
    }
    run->work = &job->work;
    run->next = job->runs;
    job->runs = run;
    return true;
}

void registry_restore(struct registry *registry, uint64_t now_ns)
{
    struct restore restore = {.config = registry->config,
                              .sink = registry->sink,
                              .budget = &registry->budget,
                              .adopt = adopt_run,
                              .data = registry,
                              .now_ns = now_ns};
    store_each_kept(registry->sink->store, restore_value, &restore);
    restore_finish(&restore);
    /* The newest run of each job first, then those before them, while there is room. */
    bool room = registry->sink->recall != NULL, any = true;
    for (uint32_t age = 0; room && any; age++) {
        any = false;
        for (const struct job *job = registry->jobs; job && room; job = job->hh.next) {
            struct run *run = job->runs;
            for (uint32_t i = 0; run && i < age; i++) {
                run = run->next;
            }
            any = any || run;
            room = !run || recall_run(run);
        }
    }
}

bool registry_knows(const struct registry *registry, const char *job)
{
    return registry_find_job(registry, job) != NULL;
}

struct run *registry_find(const struct registry *registry, const char *name, const char *prefix)
{
    const struct job *job = registry_find_job(registry, name);
    struct run *last = NULL;
    for (struct run *run = job ? job->runs : NULL; run; run = run->next) {
        char hex[2 * RUN_BYTES + 1];
        run_hex(run->id, hex);
        if (strncmp(hex, prefix, strlen(prefix)) != 0) {
            continue;
        }
        if (run_shown(run) == JOB_ACTIVE) {
            return run;
        }
        last = !last || run->last_ns > last->last_ns ? run : last;
    }
    return last;
}

const struct run *registry_get(const struct registry *registry, const char *job, const uint8_t *id)
{
    const struct job *found = registry_find_job(registry, job);
    return found ? registry_find_run(found, id) : NULL;
}

uint32_t registry_jobs(const struct registry *registry)
{
    return HASH_COUNT(registry->jobs);
}
