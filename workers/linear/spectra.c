/* SPDX-License-Identifier: MIT */
#include "workers/linear/spectra.h"

#include "proto/err.h"
#include <stdlib.h>
#include <time.h>

/* The time of this thread: work of others meanwhile is not taken from the budget. */
static uint64_t spectra_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int spectra_init(struct spectra *s, const struct attention *attention,
                 const struct spectra_plan *plan)
{
    uint32_t heads = attention->heads;
    *s = (struct spectra){.attention = attention, .plan = *plan};
    s->head = malloc(heads * sizeof *s->head);
    if (!s->head) {
        return ERR_MEMORY;
    }
    for (uint32_t h = 0; h < heads; h++) {
        spectrum_none(&s->head[h]);
    }
    return 0;
}

static bool may_begin(const struct spectra *s)
{
    if (s->plan.budget_ns == 0) {
        return true;
    }
    bool should_yield = s->plan.should_yield && s->plan.should_yield(s->plan.yield_data);
    return !should_yield && atomic_load(&s->spent_ns) < s->plan.budget_ns;
}

static int take_turn(struct spectra *s, uint32_t turn, struct scratch *scratch)
{
    uint32_t head = (uint32_t)(((uint64_t)s->plan.first + turn) % s->attention->heads);
    uint64_t begin = spectra_now_ns();
    int rc = s->plan.compute(s->attention, s->plan.sample, head, s->plan.effort, s->plan.isa,
                             scratch, &s->head[head]);
    atomic_fetch_add(&s->spent_ns, spectra_now_ns() - begin);
    atomic_fetch_add(&s->done, 1);
    return rc;
}

int spectra_run(struct spectra *s, struct scratch *scratch)
{
    int rc = 0;
    while (rc == 0 && may_begin(s)) {
        uint32_t turn = atomic_fetch_add(&s->turn, 1);
        if (turn >= s->attention->heads) {
            break;
        }
        rc = take_turn(s, turn, scratch);
        scratch_pause(scratch);
    }
    return rc;
}

uint32_t spectra_next(const struct spectra *s)
{
    return (uint32_t)(((uint64_t)s->plan.first + atomic_load(&s->done)) % s->attention->heads);
}

void spectra_clear(struct spectra *s)
{
    free(s->head);
    s->head = NULL;
}
