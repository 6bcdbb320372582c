/* SPDX-License-Identifier: MIT */
/* position: where in its training a message belongs. It decides what is newest: the later epoch,
 * then the later step, microbatch, and the higher rank. Nothing in it is local to one attnd, so
 * that states agree wherever they are merged.
 *
 * A zeroed struct is none, which is before all others. */
#ifndef DAEMON_STATE_POSITION_H
#define DAEMON_STATE_POSITION_H

#include "proto/header.h"

struct position {
    uint64_t epoch, step;
    uint32_t microbatch;
    uint32_t rank; /* + 1; 0: there is no position */
};

static inline bool position_exists(const struct position *position)
{
    return position->rank > 0;
}

static inline struct position position_of(const struct header *header)
{
    return (struct position){header->epoch, header->step, header->microbatch, header->rank + 1};
}

/* Whether `a` is not before `b`: of equals, what comes later replaces what was there. */
static inline bool position_reaches(const struct position *a, const struct position *b)
{
    if (!a->rank || !b->rank) {
        return !b->rank;
    }
    if (a->epoch != b->epoch) {
        return a->epoch > b->epoch;
    }
    if (a->step != b->step) {
        return a->step > b->step;
    }
    return a->microbatch != b->microbatch ? a->microbatch > b->microbatch : a->rank >= b->rank;
}

#endif
