/* SPDX-License-Identifier: MIT */
/* layer_state_part: what the files of layer_state share. */
#ifndef DAEMON_LAYER_STATE_PART_H
#define DAEMON_LAYER_STATE_PART_H

#include "layer_state.h"

/* Room, made the first time there is something for it. Return 0 or ERR_MEMORY. */
int layer_state_reserve_ranks(struct layer_state *state, uint32_t bytes);
int layer_state_reserve_stat(struct layer_state *state, int metric);
int layer_state_reserve_vector(struct layer_state *state, int vector);
/* Takes the newest numbers of a head: `value` has one per metric, `stride` apart. */
void layer_state_set_last(struct layer_state *state, uint32_t h, const double *value,
                          size_t stride);

#endif
