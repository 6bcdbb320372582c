/* SPDX-License-Identifier: MIT */
/* spectra: the spectra of the heads of one message, within a budget of thread time.
 *
 * Threads take heads in turn, beginning with `first`. Under a budget nothing new is begun once it
 * is used up or others wait for the thread, and the next message goes on with the head that this
 * one ended at: so heads take turns, and row metrics are late by one head's spectrum at most. */
#ifndef WORKERS_LINEAR_SPECTRA_H
#define WORKERS_LINEAR_SPECTRA_H

#include "workers/linear/spectrum.h"

#include <stdatomic.h>

/* spectrum_compute, or qk_spectrum_at. */
typedef int (*spectra_compute)(const struct attention *a, uint32_t sample, uint32_t head,
                               enum spectrum_effort effort, enum isa isa, struct scratch *scratch,
                               struct spectrum *ret_spectrum);

struct spectra_plan {
    spectra_compute compute;
    enum isa isa;
    enum spectrum_effort effort;
    uint32_t sample, first;
    uint64_t budget_ns; /* 0 = none */
    bool (*should_yield)(void *data);
    void *yield_data;
};

struct spectra {
    const struct attention *attention;
    struct spectra_plan plan;
    struct spectrum *head;       /* [heads]; all NaN when its turn did not come; owned */
    _Atomic uint32_t turn, done; /* next turn to take; heads that had theirs */
    _Atomic uint64_t spent_ns;
};

/* Returns 0 or ERR_MEMORY. `attention` is borrowed. */
int spectra_init(struct spectra *s, const struct attention *attention,
                 const struct spectra_plan *plan);
/* Takes turns until there are none left or none may be begun. Any number of threads at once.
 * Returns 0 or ERR_MEMORY. */
int spectra_run(struct spectra *s, struct scratch *scratch);
/* The head that the next message should begin with. */
uint32_t spectra_next(const struct spectra *s);
void spectra_clear(struct spectra *s);

#endif
