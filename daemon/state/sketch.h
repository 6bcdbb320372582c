/* SPDX-License-Identifier: MIT */
/* sketch: the values of a layer's projection matrices at SKETCH_PLACES places of each head, capture
 * by capture: what type `sketch` brings.
 *
 * Ranks bring places of one step, by slices of heads, by shards or all of them each; they are
 * joined into the open capture. When that is finished it gets its numbers, by comparing it with the
 * capture before it, and becomes the newest. Captures go by (epoch, step), ascending: what comes
 * for an earlier one than the open one, or for one that is finished, changes nothing.
 *
 * Time comes in with messages. Loop thread. */
#ifndef DAEMON_STATE_SKETCH_H
#define DAEMON_STATE_SKETCH_H

#include "daemon/ingest/message.h"
#include "daemon/state/state_table.h"

/* The flags of a head in a capture, as PROTOCOL.md has them. */
enum sketch_flag {
    SKETCH_NOT_FINITE = 1,
    SKETCH_ALL_ZERO = 2, /* all places that are held */
    SKETCH_FROZEN = 4,
    SKETCH_INCOMPLETE = 8,    /* not all places were held */
    SKETCH_RANKS_DIFFER = 16, /* a place that two ranks hold has other bits */
};

/* One head in one matrix and capture. */
struct sketch_values {
    uint64_t step;
    uint64_t held;    /* a bit for each place; 0: there is none */
    uint64_t differs; /* likewise: ranks that hold it have other bits */
    float place[SKETCH_PLACES];
};

/* The captures that are kept: of those that held a place of the head the first, the newest that is
 * finished, and the last one that differed from the one before it; and the open one. */
enum sketch_set { SKETCH_FIRST, SKETCH_NEWEST, SKETCH_CHANGED, SKETCH_OPEN, SKETCH_SETS };

/* The middle number, or the lower and the higher one of two; NaN: there is none. */
struct sketch_median {
    float low, high;
};

struct sketch_matrix {
    uint32_t heads;                        /* of keys and values: key heads; 0: it never came */
    struct sketch_values *of[SKETCH_SETS]; /* [heads] each; owned */
    bool here, frozen;                     /* in the open capture */
    enum dtype stored;                     /* of the parameter, as the newest message says */
    /* For sketch_judge: */
    struct sketch_median median; /* of `turned`, in the newest capture */
    float *turned, *usual,
        *replaced; /* [heads]: in the open capture; the most until then, by the
                      model's median; whether it was replaced; owned, in a block */
};

/* A capture, and the message that came last for it: when it was received, and whose it was. */
struct sketch_capture {
    uint64_t epoch, step, time_ns, received_ns, rank;
};

/* Fields are read-only outside sketch.c. */
struct sketch {
    struct state_budget *budget;
    uint64_t bytes; /* charged to it */
    struct sketch_matrix matrix[PROJECTION_COUNT];
    struct sketch_capture capture; /* the open one, or the one that was finished last */
    bool is_open;
    uint64_t captures; /* that have begun */
    uint64_t *seen;    /* [rank_count], by the run's index: the last capture that the rank was in,
                          counted from 1; owned */
    uint32_t rank_count;
};

/* The budget counts what it keeps, and outlives it. NULL when out of memory. */
struct sketch *sketch_new(struct state_budget *budget);
void sketch_free(struct sketch **sketch);

/* Whether the message begins another capture than the open one, which is to be finished before. */
bool sketch_is_passed(const struct sketch *sketch, const struct header *header);
/* Takes a message. Returns 0, ERR_HEADS_CHANGED when a matrix had another number of heads before,
 * ERR_STATE_LIMIT or ERR_MEMORY: then no capture has changed. */
int sketch_put(struct sketch *sketch, struct message *message);
/* Whether the open capture has all its places and all its ranks: those of the capture before it,
 * or, of the first one, `world`. */
bool sketch_is_whole(const struct sketch *sketch, uint32_t world);
/* The open capture is finished: appends the map of its numbers (PROTOCOL.md, section 3, `sketch`)
 * to the writer. */
void sketch_finish(struct sketch *sketch, struct mpk_writer *writer);

/* For checkpoints: unpack of pack is the same; the budget may go over its limit by it. Unpack
 * believes nothing. Return 0, ERR_MEMORY or ERR_STORE_FORMAT. */
int sketch_pack(const struct sketch *sketch, struct mpk_writer *writer);
int sketch_unpack(const void *data, size_t size, struct state_budget *budget,
                  struct sketch **ret_sketch);

#endif
