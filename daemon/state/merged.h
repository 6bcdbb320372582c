/* SPDX-License-Identifier: MIT */
/* merged: a window of a run that a hub has put together from its nodes, or other news of the run,
 * on its way to the loop and back. One owner at a time. */
#ifndef DAEMON_STATE_MERGED_H
#define DAEMON_STATE_MERGED_H

#include "daemon/base/inbox.h"
#include "daemon/state/layer_state.h"

struct merged_layer {
    struct layer_id id;
    char *module;              /* owned; NULL: not known */
    struct layer_state *state; /* owned */
};

/* Rows of a fleet's nodes about a run. */
struct merged {
    struct note note; /* NOTE_MERGED */
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    /* the run so far, over all its nodes */
    enum job_state state;
    struct own_window own_window; /* that it asks for */
    uint32_t world;
    uint32_t *ranks; /* owned; [rank_count], ascending */
    uint32_t rank_count;
    uint64_t epoch, step, time_ns;
    uint64_t received, processed;
    struct tally tally;
    /* a window, when there are layers or `has_window` */
    bool has_window;
    enum window_unit unit;
    uint64_t length, every;
    uint64_t part;               /* the index of its last part */
    bool partial;                /* something of it is not there */
    uint32_t revision;           /* how often it was merged before */
    uint32_t nodes;              /* that gave parts to it */
    struct merged_layer *layers; /* owned */
    uint32_t layer_count;
    struct result_missing *missing; /* owned; nodes that it lacks */
    uint32_t missing_count;
    /* other news: a body of a node (proto/fleet.h); NULL: none */
    void *body; /* owned */
    size_t body_size;
    /* for the hub, when it comes back */
    int code; /* 0, or why it could not be taken: then it is tried again */
    uint64_t generation;
    int64_t row;
};

void merged_free(struct merged **merged);

#endif
