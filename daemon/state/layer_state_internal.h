/* SPDX-License-Identifier: MIT */
/* layer_state_internal: shared by the files of layer_state. */
#ifndef DAEMON_STATE_LAYER_STATE_INTERNAL_H
#define DAEMON_STATE_LAYER_STATE_INTERNAL_H

#include "daemon/state/layer_state.h"

/* The packed state: its version, and how many numbers its lists have. */
#define LAYER_STATE_VERSION 2
enum { LAYER_POSITION_NUMBERS = 4, LAYER_SHAPE_NUMBERS = 4 };
/* No count in it is larger: a double has them all. */
#define LAYER_STATE_ROWS_MOST (UINT64_C(1) << 53)

/* Slots of a head: a metric's is its number. Metrics of matrices have none: they are of the newest
 * message alone, whose spectra are in state->weights, be they new or from the history. */
_Static_assert(METRIC_MATRIX_FIRST <= STAT_HISTS, "metrics have histograms");
_Static_assert(STAT_HISTS + VECTORS_WIDTH <= STAT_SLOTS, "vectors come after them");

static inline uint32_t layer_vector_slot(int vector, uint32_t i)
{
    return STAT_HISTS + vector_info[vector].offset + i;
}

/* Slots of what goes across heads. */
#define LAYER_SLOT_SINK_RATE ((int)AGGREGATE_COUNT * MAP_STAT_COUNT)
#define LAYER_SLOTS_ACROSS   (LAYER_SLOT_SINK_RATE + 1)

static inline uint32_t layer_aggregate_slot(int aggregate, int stat)
{
    return (uint32_t)(aggregate * MAP_STAT_COUNT + stat);
}

/* Heads take turns at spectra: the numbers of the last one stay until the next. A turn is told by
 * the first of these numbers, the spectral norm or the largest singular value; for metrics of which
 * every message has one it is STAT_SLOTS. */
uint32_t layer_state_leader(uint32_t slot);

/* Says which metrics of matrices there are, after state->weights has changed. */
void layer_state_find_matrices(struct layer_state *state);
/* The number of a metric of matrices; NaN when there is none. */
double layer_state_matrix_number(const struct layer_state *state, int metric, uint32_t head);

/* Room for the bits of `bytes` bytes from rank `first`, a multiple of 8, on. Returns 0 or
 * ERR_MEMORY. */
int layer_state_ranks_reserve(struct layer_state *state, uint32_t first, uint32_t bytes);
bool layer_state_ranks_have(const struct layer_state *state, uint32_t rank);
/* Whether there is exactly one. */
bool layer_state_ranks_only(const struct layer_state *state, uint32_t *ret_rank);
/* Before the numbers of a message, or of other states, are added: their ranks and entropies.
 * Return 0 or ERR_MEMORY. */
int layer_state_ranks_add(struct layer_state *state, const struct message *message,
                          const struct measured *measured);
int layer_state_ranks_merge(struct layer_state *into, const struct layer_state *const *from,
                            uint32_t count);

#endif
