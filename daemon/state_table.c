/* SPDX-License-Identifier: MIT */
#include "state_table.h"

#include <stdlib.h>
#include <string.h>

struct state_table {
    struct state_budget *budget;
    struct layer_state **states;
    uint32_t capacity;
};

struct state_table *state_table_new(struct state_budget *budget)
{
    struct state_table *table = calloc(1, sizeof *table);
    if (table)
        table->budget = budget;
    return table;
}

static int reserve(struct state_table *table, uint32_t index)
{
    uint32_t capacity = table->capacity ? table->capacity : 16;
    while (capacity <= index)
        capacity *= 2;
    if (capacity == table->capacity)
        return 0;
    struct layer_state **states = realloc(table->states, capacity * sizeof *states);
    if (!states)
        return ERR_MEMORY;
    memset(states + table->capacity, 0, (capacity - table->capacity) * sizeof *states);
    table->states = states;
    table->capacity = capacity;
    return 0;
}

static int add(struct state_table *table, uint32_t index, uint32_t heads)
{
    struct state_budget *budget = table->budget;
    if (heads > budget->limit - budget->used)
        return ERR_STATE_LIMIT;
    table->states[index] = layer_state_new(heads);
    if (!table->states[index])
        return ERR_MEMORY;
    budget->used += heads;
    return 0;
}

int state_table_get(struct state_table *table, uint32_t index, uint32_t heads,
                    struct layer_state **ret_state)
{
    int code = reserve(table, index);
    if (!code && !table->states[index])
        code = add(table, index, heads);
    if (!code)
        *ret_state = table->states[index];
    return code;
}

const struct layer_state *state_table_find(const struct state_table *table, uint32_t index)
{
    return index < table->capacity ? table->states[index] : NULL;
}

void state_table_free(struct state_table **table_p)
{
    struct state_table *table = *table_p;
    if (!table)
        return;
    for (uint32_t i = 0; i < table->capacity; i++) {
        if (table->states[i])
            table->budget->used -= table->states[i]->heads;
        layer_state_free(&table->states[i]);
    }
    free(table->states);
    free(table);
    *table_p = NULL;
}
