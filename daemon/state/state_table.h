/* SPDX-License-Identifier: MIT */
/* state_table: the layer states of one part of a window, by stream index, made on first use, within
 * a budget of bytes. */
#ifndef DAEMON_STATE_STATE_TABLE_H
#define DAEMON_STATE_STATE_TABLE_H

#include "daemon/state/layer_state.h"

/* Bytes of layer states: of one run, whose parent is that of all runs. Headers with many heads and
 * values that fill histograms use it up, and nothing else. */
struct state_budget {
    uint64_t used, limit;
    struct state_budget *parent; /* NULL: none */
};

struct state_table;

/* Counts states whose histograms use at most `buckets`. The budget outlives the table. NULL
 * when out of memory. */
struct state_table *state_table_new(struct state_budget *budget, uint32_t buckets);
/* The state at this index, made with this many heads when there is none. Returns 0, ERR_STATE_LIMIT
 * or ERR_MEMORY. */
int state_table_get(struct state_table *table, uint32_t index, uint32_t heads,
                    struct layer_state **ret_state);
/* The state at this index has grown: charges the budget, which may go over its limit by it. */
void state_table_grown(struct state_table *table, uint32_t index);
/* The state at this index, or NULL. */
const struct layer_state *state_table_find(const struct state_table *table, uint32_t index);
/* Takes over a state from elsewhere, for an index that has none; the budget may go over its limit
 * by it. Returns 0 or ERR_MEMORY. */
int state_table_put(struct state_table *table, uint32_t index, struct layer_state **state);
/* Whether the state at this index is not as it was when it was last said to be saved. */
bool state_table_unsaved(const struct state_table *table, uint32_t index);
void state_table_set_saved(struct state_table *table, uint32_t index, bool saved);
void state_table_free(struct state_table **table);

/* Bytes of something else that counts: `add` more, `give_back` less. */
void state_budget_charge(struct state_budget *budget, uint64_t add, uint64_t give_back);
/* Whether nothing more should be taken in. */
bool state_budget_full(const struct state_budget *budget);
/* Whether there is room for so much more. */
bool state_budget_fits(const struct state_budget *budget, uint64_t bytes);

#endif
