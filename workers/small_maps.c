/* SPDX-License-Identifier: MIT */
#include "workers/small_maps.h"

#include "workers/maps/map_shrink.h"
#include "workers/rows/map_pool.h"

#include <stdlib.h>
#include <string.h>

/* Cells of all heads together, and of a side of each at least. */
#define SMALL_MAPS_CELLS 32768
#define SMALL_MAPS_SIDE  8

static uint32_t small_maps_side(uint32_t heads, uint32_t size)
{
    uint32_t side = SMALL_MAPS_SIDE;
    while (side < size && (side + 1) * (side + 1) * (uint64_t)heads <= SMALL_MAPS_CELLS) {
        side++;
    }
    return side < size ? side : size;
}

size_t small_maps_bytes(const struct small_maps *maps)
{
    return sizeof *maps + (size_t)maps->heads * maps->rows * maps->columns * sizeof maps->values[0];
}

struct small_maps *small_maps_new(const struct head_maps *maps, uint32_t size)
{
    if (maps->heads > SMALL_MAPS_HEADS) {
        return NULL;
    }
    uint32_t side = small_maps_side(maps->heads, size);
    struct small_maps shape = {.heads = maps->heads,
                               .queries = maps->queries,
                               .keys = maps->keys,
                               .rows = map_shrink_side(maps->rows, side),
                               .columns = map_shrink_side(maps->columns, side)};
    size_t from = (size_t)maps->rows * maps->columns, to = (size_t)shape.rows * shape.columns;
    struct small_maps *small = malloc(small_maps_bytes(&shape));
    float *cells = malloc(to * sizeof *cells);
    if (small && cells) {
        memcpy(small, &shape, sizeof shape);
        for (uint32_t h = 0; h < maps->heads; h++) {
            map_shrink(maps->values + h * from, maps->rows, maps->columns, side, cells);
            for (size_t i = 0; i < to; i++) {
                small->values[h * to + i] = map_pool_half((double)cells[i]);
            }
        }
    } else {
        free(small);
        small = NULL;
    }
    free(cells);
    return small;
}

struct small_maps *small_maps_copy(const struct small_maps *maps)
{
    struct small_maps *copy = malloc(small_maps_bytes(maps));
    return copy ? memcpy(copy, maps, small_maps_bytes(maps)) : NULL;
}
