/* SPDX-License-Identifier: MIT */
/* number: the names of the numbers in the history, and their values in a window whose state
 * still exists: every metric per head, and per layer "sink_rate" and
 * "aggregate.<map>.<statistic>". Pure. */
#ifndef DAEMON_STORE_NUMBER_H
#define DAEMON_STORE_NUMBER_H

#include "daemon/state/layer_state.h"

#define NUMBER_SINK_RATE METRIC_COUNT
#define NUMBER_AGGREGATE (METRIC_COUNT + 1)
#define NUMBER_COUNT     (NUMBER_AGGREGATE + (int)AGGREGATE_COUNT * MAP_STAT_COUNT)

#define NUMBER_NAME_MAX 64

/* Index of a name, or -1: only a newer attnd knows it. */
int number_find(const char *name);
void number_name(int number, char ret_name[NUMBER_NAME_MAX]);
/* One value for the layer, not one per head. */
bool number_is_of_layer(int number);

/* Whether it may have it at all. */
bool number_in_state(const struct layer_state *state, int number);
/* Whether it has a value of it, for any head. */
bool number_has_value(const struct layer_state *state, int number);
/* `head` counts for numbers of heads. Returns 0 or ERR_MEMORY. */
int number_stat(const struct layer_state *state, int number, uint32_t head,
                struct result_stat *ret_stat);

#endif
