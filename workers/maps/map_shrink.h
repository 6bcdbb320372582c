/* SPDX-License-Identifier: MIT */
/* map_shrink: a map of cells pooled into fewer, for pictures that are small. Any thread. */
#ifndef WORKERS_MAPS_MAP_SHRINK_H
#define WORKERS_MAPS_MAP_SHRINK_H

#include <stdint.h>

/* Rows, or columns, that a map of `cells` has then. */
static inline uint32_t map_shrink_side(uint32_t cells, uint32_t size)
{
    return cells < size ? cells : size;
}
/* The first of the `from` rows, or columns, that go into new cell `cell` of `to`. */
static inline uint32_t map_shrink_edge(uint32_t cell, uint32_t from, uint32_t to)
{
    return (uint32_t)((uint64_t)cell * from / to);
}

/* Pools [rows][columns] cells into at most `size` x `size`, cut as in head_maps.h: a new cell is
 * the mean of the finite cells in it, NaN without any. `ret_cells` may be `cells`, or lie before it
 * in the same memory. */
void map_shrink(const float *cells, uint32_t rows, uint32_t columns, uint32_t size,
                float *ret_cells);

#endif
