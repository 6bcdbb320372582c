/* SPDX-License-Identifier: MIT */
#include "daemon/base/pulse.h"

#include <stddef.h>

static uint64_t count_beats(const struct pulse *pulse)
{
    return atomic_load_explicit(&pulse->beats, memory_order_relaxed);
}

void pulse_add(struct pulse_round *round, const struct pulse_subject *subject)
{
    round->beats[round->count] = count_beats(subject->pulse);
    round->subjects[round->count++] = *subject;
}

void pulse_ask(struct pulse_round *round)
{
    for (int i = 0; i < round->count; i++) {
        const struct pulse_subject *subject = &round->subjects[i];
        round->beats[i] = count_beats(subject->pulse);
        subject->ask(subject->data);
    }
}

const char *pulse_missing(const struct pulse_round *round)
{
    for (int i = 0; i < round->count; i++) {
        if (count_beats(round->subjects[i].pulse) == round->beats[i]) {
            return round->subjects[i].name;
        }
    }
    return NULL;
}
