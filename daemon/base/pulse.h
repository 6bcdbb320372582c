/* SPDX-License-Identifier: MIT */
/* pulse: whether threads turn. Each counts its turns; one that waits for work is asked for a turn,
 * so that waiting is not taken for hanging. */
#ifndef DAEMON_BASE_PULSE_H
#define DAEMON_BASE_PULSE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The counter of one thread, which alone increments it; any thread may read it. All zero at
 * first. */
struct pulse {
    _Atomic uint64_t beats;
};

static inline void pulse_beat(struct pulse *pulse)
{
    atomic_fetch_add_explicit(&pulse->beats, 1, memory_order_relaxed);
}

/* A watched thread. */
struct pulse_subject {
    const char *name; /* static */
    const struct pulse *pulse;
    void (*ask)(void *data); /* makes the thread turn soon; never waits for it */
    void *data;
};

#define PULSE_SUBJECTS_MAX 4

/* One thread's: the others are looked after by it. All zero at first. */
struct pulse_round {
    struct pulse_subject subjects[PULSE_SUBJECTS_MAX];
    uint64_t beats[PULSE_SUBJECTS_MAX]; /* when they were asked */
    int count;
};

/* The pulse of each `subject` outlives the round. */
void pulse_add(struct pulse_round *round, const struct pulse_subject *subject);
/* Asks all of them for a turn. */
void pulse_ask(struct pulse_round *round);
/* The name of one that has not turned since it was asked, or NULL. */
const char *pulse_missing(const struct pulse_round *round);

#endif
