/* SPDX-License-Identifier: MIT */
#include "state_table.h"

#include <stdlib.h>
#include <string.h>

struct state_table {
    struct layer_state **states;
    uint32_t capacity;
};

struct state_table *state_table_new(void)
{
    return calloc(1, sizeof(struct state_table));
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

struct layer_state *state_table_get(struct state_table *table, uint32_t index, uint32_t heads)
{
    if (reserve(table, index) != 0)
        return NULL;
    if (!table->states[index])
        table->states[index] = layer_state_new(heads);
    return table->states[index];
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
    for (uint32_t i = 0; i < table->capacity; i++)
        layer_state_free(&table->states[i]);
    free(table->states);
    free(table);
    *table_p = NULL;
}
