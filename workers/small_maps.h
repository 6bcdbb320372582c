/* SPDX-License-Identifier: MIT */
/* small_maps: the maps of all heads of a layer in few cells, to be kept with a window. Any thread.
 */
#ifndef WORKERS_SMALL_MAPS_H
#define WORKERS_SMALL_MAPS_H

#include "workers/maps/head_maps.h"

/* Layers with more heads have none. */
#define SMALL_MAPS_HEADS 4096

struct small_maps {
    uint32_t heads;
    uint32_t queries, keys; /* that they are of */
    uint32_t rows, columns;
    uint16_t values[]; /* [heads][rows][columns] IEEE half precision, rounded to nearest even */
};

/* At most `size` cells a side. Layers with many heads have fewer, down to 8 a side, so that they
 * take about 64 KiB in all. NULL when out of memory, or with more than SMALL_MAPS_HEADS heads. */
struct small_maps *small_maps_new(const struct head_maps *maps, uint32_t size);
/* A copy; NULL when out of memory. */
struct small_maps *small_maps_copy(const struct small_maps *maps);
size_t small_maps_bytes(const struct small_maps *maps);

#endif
