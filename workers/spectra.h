/* SPDX-License-Identifier: MIT */
/* spectra: the spectra of the heads of one message, within a budget of thread time.
 *
 * Threads take heads in turn, beginning with `first`. Without a budget every head gets the effort
 * asked for. With one, every head gets its leading values first, which are cheap, and then, while
 * there is budget left, heads get everything; the next message goes on with the head this one ended
 * at. Nothing new is begun once the budget is used up or others wait for the thread. */
#ifndef WORKERS_SPECTRA_H
#define WORKERS_SPECTRA_H

#include "spectrum.h"

#include <stdatomic.h>
#include <stdbool.h>

struct spectra_plan {
    enum spectrum_effort effort;
    uint32_t sample, first;
    uint64_t budget_ns; /* 0 = none */
    bool (*hurry)(void *data);
    void *hurry_data;
};

struct spectra {
    const struct attention *attention;
    struct spectra_plan plan;
    struct spectrum *leading, *best; /* [heads] each; owned */
    _Atomic uint32_t turn;           /* next one to take: all heads leading, then all in full */
    _Atomic uint32_t leading_done, best_done;
    _Atomic uint64_t spent_ns;
};

/* Returns 0 or ERR_MEMORY. `attention` is borrowed. */
int spectra_init(struct spectra *s, const struct attention *attention,
                 const struct spectra_plan *plan);
/* Takes turns until there are none left or none may be begun. Any number of threads at once.
 * Returns 0 or ERR_MEMORY. */
int spectra_run(struct spectra *s, struct scratch *scratch);
/* After all threads: the best there is of a head; all NaN when its turn did not come. */
const struct spectrum *spectra_of(const struct spectra *s, uint32_t head);
/* The head that the next message should begin with. */
uint32_t spectra_next(const struct spectra *s);
void spectra_clear(struct spectra *s);

#endif
