/* SPDX-License-Identifier: MIT */
#include "daemon/state/state_table.h"

#include "daemon/base/grow.h"

#include <stdlib.h>
#include <string.h>

struct state_table_entry {
    struct layer_state *state;
    uint64_t charged; /* bytes */
    bool saved;
};

struct state_table {
    struct state_budget *budget;
    struct state_table_entry *entries; /* by stream index */
    uint32_t capacity;
    uint32_t buckets; /* of a histogram */
};

void state_budget_charge(struct state_budget *budget, uint64_t add, uint64_t give_back)
{
    for (; budget; budget = budget->parent) {
        budget->used += add - give_back;
    }
}

bool state_budget_fits(const struct state_budget *budget, uint64_t bytes)
{
    for (; budget; budget = budget->parent) {
        if (budget->used + bytes > budget->limit) {
            return false;
        }
    }
    return true;
}

bool state_budget_full(const struct state_budget *budget)
{
    return !state_budget_fits(budget, 0);
}

struct state_table *state_table_new(struct state_budget *budget, uint32_t buckets)
{
    struct state_table *table = calloc(1, sizeof *table);
    if (!table) {
        return NULL;
    }
    table->budget = budget;
    table->buckets = buckets;
    return table;
}

static int state_table_add(struct state_table *table, struct state_table_entry *entry,
                           uint32_t heads)
{
    if (!state_budget_fits(table->budget, layer_state_new_bytes(heads))) {
        return ERR_STATE_LIMIT;
    }
    entry->state = layer_state_new(heads, table->buckets);
    if (!entry->state) {
        return ERR_MEMORY;
    }
    entry->charged = layer_state_new_bytes(heads);
    state_budget_charge(table->budget, entry->charged, 0);
    return 0;
}

int state_table_get(struct state_table *table, uint32_t index, uint32_t heads,
                    struct layer_state **ret_state)
{
    if (!grow_to(&table->entries, index, &table->capacity, sizeof *table->entries)) {
        return ERR_MEMORY;
    }
    struct state_table_entry *entry = &table->entries[index];
    int code = 0;
    if (!entry->state) {
        code = state_table_add(table, entry, heads);
    } else if (entry->state->heads != heads) {
        code = ERR_HEADS_CHANGED; /* what was restored does not fit the layer */
    }
    if (!code) {
        *ret_state = entry->state;
    }
    return code;
}

void state_table_grown(struct state_table *table, uint32_t index)
{
    struct state_table_entry *entry = &table->entries[index];
    uint64_t bytes = layer_state_bytes(entry->state);
    state_budget_charge(table->budget, bytes, entry->charged);
    entry->charged = bytes;
    entry->saved = false;
}

int state_table_put(struct state_table *table, uint32_t index, struct layer_state **state)
{
    if (!grow_to(&table->entries, index, &table->capacity, sizeof *table->entries)) {
        return ERR_MEMORY;
    }
    table->entries[index].state = *state;
    *state = NULL;
    state_table_grown(table, index);
    return 0;
}

bool state_table_unsaved(const struct state_table *table, uint32_t index)
{
    return state_table_find(table, index) && !table->entries[index].saved;
}

void state_table_set_saved(struct state_table *table, uint32_t index, bool saved)
{
    if (index < table->capacity) {
        table->entries[index].saved = saved;
    }
}

const struct layer_state *state_table_find(const struct state_table *table, uint32_t index)
{
    return index < table->capacity ? table->entries[index].state : NULL;
}

void state_table_free(struct state_table **table_p)
{
    struct state_table *table = *table_p;
    if (!table) {
        return;
    }
    for (uint32_t i = 0; i < table->capacity; i++) {
        state_budget_charge(table->budget, 0, table->entries[i].charged);
        layer_state_free(&table->entries[i].state);
    }
    free(table->entries);
    free(table);
    *table_p = NULL;
}
