/* SPDX-License-Identifier: MIT */
/* Calls that go through all runs of the registry. */
#include "daemon/run/checkpoint.h"
#include "daemon/run/closing.h"
#include "daemon/run/queue.h"
#include "daemon/run/registry.h"
#include "daemon/run/tick.h"

#include <string.h>

void registry_begin_round(struct registry *registry)
{
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        run->in_round = true;
    }
}

bool registry_step(struct registry *registry)
{
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        if (run->in_round && !run->deleting && !run_closes(run)) {
            run->in_round = checkpoint_step(run);
            if (run->in_round || run->saving) {
                return true;
            }
        }
    }
    return false;
}

uint64_t registry_collected(const struct registry *registry)
{
    uint64_t bytes = 0;
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        bytes += run->saving_bytes;
    }
    return bytes;
}

void registry_submit(struct registry *registry, uint64_t now_ns)
{
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        if (!run->deleting) {
            checkpoint_submit(run, now_ns);
        }
    }
}

bool registry_tick(struct registry *registry, uint64_t now_ns)
{
    bool active = false;
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        tick_run(run, now_ns);
        active = active || tick_wanted(run);
    }
    return active;
}

int registry_flush(struct registry *registry, const char *job)
{
    int waiting = 0;
    if (job && !registry_knows(registry, job)) {
        return ERR_JOB_UNKNOWN;
    }
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        if (!job || strcmp(run->job, job) == 0) {
            waiting += queue_flush(run);
        }
    }
    return waiting;
}

uint32_t registry_flushing(const struct registry *registry)
{
    uint32_t count = 0;
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        count += run->flushing || run->shows;
    }
    return count;
}

uint64_t registry_waiting(const struct registry *registry)
{
    uint64_t count = 0;
    for (struct run *run = NULL; (run = registry_next(registry, run));) {
        count += run->waiting;
    }
    return count;
}
