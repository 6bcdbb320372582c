/* SPDX-License-Identifier: MIT */
/* state_table: the layer states of one part of a window, by stream index, made on first use. */
#ifndef DAEMON_STATE_TABLE_H
#define DAEMON_STATE_TABLE_H

#include "layer_state.h"

#include <stdint.h>

/* Head states in use over all jobs and runs, so that headers with many heads cannot use up the
 * memory. One state is one head of one layer in one part of a window. */
struct state_budget {
    uint64_t used, limit;
};

struct state_table;

/* The budget outlives the table. NULL when out of memory. */
struct state_table *state_table_new(struct state_budget *budget);
/* The state at this index, made with this many heads when there is none. Returns 0, ERR_STATE_LIMIT
 * or ERR_MEMORY. */
int state_table_get(struct state_table *table, uint32_t index, uint32_t heads,
                    struct layer_state **ret_state);
/* The state at this index, or NULL. */
const struct layer_state *state_table_find(const struct state_table *table, uint32_t index);
void state_table_free(struct state_table **table);

#endif
