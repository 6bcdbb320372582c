/* SPDX-License-Identifier: MIT */
/* ranks: the publishers in a recording, and those that have said bye. One thread. */
#ifndef PROTO_RANKS_H
#define PROTO_RANKS_H

#include "proto/header.h"
#include "proto/recording.h"

struct recorded_rank {
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    uint32_t rank, world;
    uint64_t event_seq;     /* that its next event would have */
    uint64_t event_dropped; /* as its last event says */
    bool reliable;          /* both are of the reliable lane */
    uint64_t epoch, step, time_ns;
    bool bye;
};

struct ranks {
    struct recorded_rank *items; /* owned, in order of appearance */
    size_t count;
    size_t next; /* where the next look-up starts: ranks take turns */
};

/* Takes note of a recorded message; one without a sound header is skipped. Returns 0 or ERR_MEMORY.
 */
int ranks_note(struct ranks *ranks, const struct recording_frame *frames, uint32_t count);
/* Whether every rank heard of has said bye. */
bool ranks_all_bye(const struct ranks *ranks);
void ranks_clear(struct ranks *ranks);

#endif
