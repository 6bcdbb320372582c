/* SPDX-License-Identifier: MIT */
/* state_table: the layer states of one part of a window, by stream index, made on first use. */
#ifndef DAEMON_STATE_TABLE_H
#define DAEMON_STATE_TABLE_H

#include "layer_state.h"

#include <stdint.h>

struct state_table;

/* NULL when out of memory. */
struct state_table *state_table_new(void);
/* The state at this index, made with this many heads when there is none; NULL when out of memory.
 */
struct layer_state *state_table_get(struct state_table *table, uint32_t index, uint32_t heads);
/* The state at this index, or NULL. */
const struct layer_state *state_table_find(const struct state_table *table, uint32_t index);
void state_table_free(struct state_table **table);

#endif
