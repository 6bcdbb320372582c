/* SPDX-License-Identifier: MIT */
/* heat: a matrix as cells of colour. Pure. */
#ifndef CLIENTS_CLI_PLOT_HEAT_H
#define CLIENTS_CLI_PLOT_HEAT_H

#include "clients/cli/plot/colormap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a causal mask hides. */
#define HEAT_MASKED 0xfff1f1f1u
/* Padding. */
#define HEAT_PADDED 0xffdde3ebu

struct heat {
    const float *values;    /* [rows][columns]; borrowed */
    uint32_t rows, columns; /* at least 1 */
    uint32_t queries, keys; /* that they stand for: as many, or more when the map is pooled */
    bool causal;
    uint32_t q_offset; /* position of query 0 */
    /* Queries and keys from these on are padding; 0 = none is. */
    uint32_t padded_queries, padded_keys;
};

struct heat_range {
    double least, most; /* of the finite values that are shown; least > most without any */
    uint64_t missing;   /* values that are not a number */
    uint64_t infinite;
};

/* What is finite, and neither masked nor padding, joins the range. */
void heat_measure(const struct heat *heat, struct heat_range *range);
/* A range without any value yet. */
struct heat_range heat_range_none(void);

/* Marks as padding the last queries and the last keys whose weights are all 0, if there are both; a
 * map that is all 0 has none. In self-attention they are the same tokens (`self`). */
void heat_find_padding(struct heat *heat, bool self);

/* How many values there are that are finite and shown, by their size: for heat_count_value. One per
 * figure; about 1 MB. */
struct heat_count;
/* Returns NULL when out of memory; free does. */
struct heat_count *heat_count_new(void);
void heat_count_add(struct heat_count *count, const struct heat *heat);
/* The share of the values that are at most `value`, to one part in 128 of it. */
double heat_count_share(const struct heat_count *count, double value);
/* The value that so great a share is at most, rounded up by at most one part in 128. */
double heat_count_value(const struct heat_count *count, double share);

/* Whether a causal mask hides a cell whole. */
bool heat_is_masked(const struct heat *heat, uint32_t row, uint32_t column);

/* The same in at most so many rows and columns: a cell is the mean of the finite ones in it, cut as
 * in map_pool.h. `values` has room for them and becomes the new heat's. */
struct heat heat_pool(const struct heat *heat, uint32_t rows, uint32_t columns, float *values);

/* ret_colors[rows][columns]: transparent where there is no number. */
void heat_colors(const struct heat *heat, const struct colormap *map, double low, double high,
                 uint32_t *ret_colors);

#endif
