/* SPDX-License-Identifier: MIT */
#include "spectra.h"

#include "err.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Every member of struct spectrum is a double. */
static void fill_nan(struct spectrum *spectra, uint32_t heads)
{
    double *numbers = (double *)spectra;
    for (size_t i = 0; i < heads * (sizeof *spectra / sizeof *numbers); i++) {
        numbers[i] = NAN;
    }
}

int spectra_init(struct spectra *s, const struct attention *attention,
                 const struct spectra_plan *plan)
{
    uint32_t heads = attention->heads;
    *s = (struct spectra){.attention = attention, .plan = *plan};
    s->leading = malloc(heads * sizeof *s->leading);
    s->best = malloc(heads * sizeof *s->best);
    if (s->leading == NULL || s->best == NULL) {
        spectra_clear(s);
        return ERR_MEMORY;
    }
    fill_nan(s->leading, heads);
    fill_nan(s->best, heads);
    return 0;
}

/* Two rounds, leading values and then everything, only make sense under a budget. */
static bool has_two_rounds(const struct spectra *s)
{
    return s->plan.budget_ns > 0 && s->plan.effort == SPECTRUM_FULL;
}

static bool may_begin(const struct spectra *s)
{
    if (s->plan.budget_ns == 0) {
        return true;
    }
    bool hurry = s->plan.hurry != NULL && s->plan.hurry(s->plan.hurry_data);
    return !hurry && atomic_load(&s->spent_ns) < s->plan.budget_ns;
}

static int take_turn(struct spectra *s, uint32_t turn, struct scratch *scratch)
{
    uint32_t heads = s->attention->heads;
    uint32_t head = (uint32_t)(((uint64_t)s->plan.first + turn) % heads);
    bool leading = has_two_rounds(s) && turn < heads;
    uint64_t begin = now_ns();
    int rc = spectrum_compute(s->attention, s->plan.sample, head,
                              leading ? SPECTRUM_LEADING : s->plan.effort, scratch,
                              leading ? &s->leading[head] : &s->best[head]);
    atomic_fetch_add(&s->spent_ns, now_ns() - begin);
    atomic_fetch_add(leading ? &s->leading_done : &s->best_done, 1);
    return rc;
}

int spectra_run(struct spectra *s, struct scratch *scratch)
{
    uint32_t turns = s->attention->heads * (has_two_rounds(s) ? 2 : 1);
    int rc = 0;
    while (rc == 0 && may_begin(s)) {
        uint32_t turn = atomic_fetch_add(&s->turn, 1);
        if (turn >= turns) {
            break;
        }
        rc = take_turn(s, turn, scratch);
    }
    return rc;
}

const struct spectrum *spectra_of(const struct spectra *s, uint32_t head)
{
    return isnan(s->best[head].spectral_norm) ? &s->leading[head] : &s->best[head];
}

uint32_t spectra_next(const struct spectra *s)
{
    uint32_t heads = s->attention->heads, leading = atomic_load(&s->leading_done);
    bool short_of_leading = has_two_rounds(s) && leading < heads;
    uint32_t done = short_of_leading ? leading : atomic_load(&s->best_done);
    return (uint32_t)(((uint64_t)s->plan.first + done) % heads);
}

void spectra_clear(struct spectra *s)
{
    free(s->leading);
    free(s->best);
    s->leading = s->best = NULL;
}
