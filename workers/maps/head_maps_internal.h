/* SPDX-License-Identifier: MIT */
/* The scalar reference of head_maps, compiled without vectorising: each entry is
 * looked at in f64. The fast path leaves numbers that are not finite to it, too. */
#ifndef WORKERS_MAPS_HEAD_MAPS_INTERNAL_H
#define WORKERS_MAPS_HEAD_MAPS_INTERNAL_H

#include "workers/maps/head_maps.h"
#include "workers/maps/map_shrink.h"

/* Whether query i of the message is in the map and no padding. */
bool head_maps_shows(const struct attention *a, const struct head_maps *maps, uint32_t i);

/* Row r of the cells of head h, or for h = a->heads of the maximum over heads: ret[columns]. `work`
 * holds 2 * keys + 2 * columns numbers. */
void head_maps_row_ref(const struct attention *a, const struct head_maps *maps, uint32_t h,
                       uint32_t r, double *work, float *ret);

#endif
