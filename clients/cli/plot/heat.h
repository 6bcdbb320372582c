/* SPDX-License-Identifier: MIT */
/* heat: a matrix as cells of colour. Pure. */
#ifndef PLOT_HEAT_H
#define PLOT_HEAT_H

#include "colormap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a causal mask hides. */
#define HEAT_MASKED 0xfff1f1f1u

struct heat {
    const float *values;    /* [rows][columns]; borrowed */
    uint32_t rows, columns; /* at least 1 */
    uint32_t queries, keys; /* that they stand for: as many, or more when the map is pooled */
    bool causal;
    uint32_t q_offset; /* position of query 0 */
};

struct heat_range {
    double least, most; /* of the finite values that are not masked; least > most without any */
    uint64_t missing;   /* values that are not finite */
};

/* What is finite and not masked joins the range. */
void heat_measure(const struct heat *heat, struct heat_range *range);
/* A range without any value yet. */
struct heat_range heat_range_none(void);

/* Whether a causal mask hides a cell whole. */
bool heat_is_masked(const struct heat *heat, uint32_t row, uint32_t column);

/* The same in at most so many rows and columns: a cell is the mean of the finite ones in it, cut as
 * in map_pool.h. `values` has room for them and becomes the new heat's. */
struct heat heat_pool(const struct heat *heat, uint32_t rows, uint32_t columns, float *values);

/* ret_colors[rows][columns]: transparent where there is no number. */
void heat_colors(const struct heat *heat, const struct colormap *map, double low, double high,
                 uint32_t *ret_colors);

#endif
