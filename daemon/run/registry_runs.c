/* SPDX-License-Identifier: MIT */
/* Calls that go through all runs of the registry. */
#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/queue.h"
#include "daemon/run/registry.h"
#include "daemon/run/tick.h"

#include <string.h>

static void registry_mark_run(void *data, struct run *run)
{
    (void)data;
    run->in_round = true;
}

void registry_begin_round(struct registry *registry)
{
    registry_each(registry, registry_mark_run, NULL);
}

static void step_run(void *data, struct run *run)
{
    bool *stepped = data;
    if (!run->in_round || *stepped) {
        return;
    }
    run->in_round = checkpoint_step(run);
    *stepped = run->in_round || run->saving;
}

bool registry_step(struct registry *registry)
{
    bool stepped = false;
    registry_each(registry, step_run, &stepped);
    return stepped;
}

static void add_collected(void *data, struct run *run)
{
    *(uint64_t *)data += run->saving_bytes;
}

uint64_t registry_collected(const struct registry *registry)
{
    uint64_t bytes = 0;
    registry_each(registry, add_collected, &bytes);
    return bytes;
}

static void submit_run(void *data, struct run *run)
{
    checkpoint_submit(run, *(uint64_t *)data);
}

void registry_submit(struct registry *registry, uint64_t now_ns)
{
    registry_each(registry, submit_run, &now_ns);
}

struct registry_ticked {
    uint64_t now_ns;
    bool active;
};

static void registry_tick_run(void *data, struct run *run)
{
    struct registry_ticked *tick = data;
    tick_run(run, tick->now_ns);
    tick->active = tick->active || tick_wanted(run);
}

bool registry_tick(struct registry *registry, uint64_t now_ns)
{
    struct registry_ticked tick = {.now_ns = now_ns};
    registry_each(registry, registry_tick_run, &tick);
    return tick.active;
}

static void registry_show_run(void *data, struct run *run)
{
    (void)data;
    closing_show(run);
}

void registry_show(struct registry *registry)
{
    registry_each(registry, registry_show_run, NULL);
}

struct registry_flush {
    const char *job; /* NULL: all */
    int waiting;
};

static void flush_run(void *data, struct run *run)
{
    struct registry_flush *flush = data;
    if (!flush->job || strcmp(run->job, flush->job) == 0) {
        flush->waiting += queue_flush(run);
    }
}

int registry_flush(struct registry *registry, const char *job)
{
    struct registry_flush flush = {.job = job};
    if (job && !registry_knows(registry, job)) {
        return ERR_JOB_UNKNOWN;
    }
    registry_each(registry, flush_run, &flush);
    return flush.waiting;
}

static void count_flushing(void *data, struct run *run)
{
    uint32_t *count = data;
    *count += run->flushing;
}

uint32_t registry_flushing(const struct registry *registry)
{
    uint32_t count = 0;
    registry_each(registry, count_flushing, &count);
    return count;
}

static void count_waiting(void *data, struct run *run)
{
    uint64_t *count = data;
    *count += run->waiting;
}

uint64_t registry_waiting(const struct registry *registry)
{
    uint64_t count = 0;
    registry_each(registry, count_waiting, &count);
    return count;
}

struct registry_search {
    const char *job, *prefix;
    struct run *found;
};

static void visit_searched(void *data, struct run *run)
{
    struct registry_search *search = data;
    char hex[2 * RUN_BYTES + 1];
    run_hex(run->id, hex);
    bool fits = strcmp(run->job, search->job) == 0 &&
                strncmp(hex, search->prefix, strlen(search->prefix)) == 0;
    if (fits && !search->found) {
        search->found = run;
    }
}

struct run *registry_find(const struct registry *registry, const char *job, const char *prefix)
{
    struct registry_search search = {job, prefix, NULL};
    registry_each(registry, visit_searched, &search);
    return search.found;
}
