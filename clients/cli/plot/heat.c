/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/heat.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct heat_range heat_range_none(void)
{
    return (struct heat_range){.least = INFINITY, .most = -INFINITY};
}

bool heat_is_masked(const struct heat *heat, uint32_t row, uint32_t column)
{
    if (!heat->causal)
        return false;
    uint64_t first_key = (uint64_t)column * heat->keys / heat->columns;
    uint64_t last_query = (row + (uint64_t)1) * heat->queries / heat->rows - 1;
    return first_key > last_query + heat->q_offset;
}

/* Whether the cell `at` of `cells` has nothing but padding in it. */
static bool is_behind(uint32_t at, uint32_t cells, uint32_t length, uint32_t padded)
{
    return padded > 0 && (uint64_t)at * length / cells >= padded;
}

static bool is_padded(const struct heat *heat, uint32_t row, uint32_t column)
{
    return is_behind(row, heat->rows, heat->queries, heat->padded_queries) ||
           is_behind(column, heat->columns, heat->keys, heat->padded_keys);
}

/* The columns of a row that are shown: a causal mask leaves the first ones, and so does padding. */
static uint32_t shown_columns(const struct heat *heat, uint32_t row)
{
    uint32_t shown = heat->columns;
    while (shown > 0 && is_padded(heat, row, shown - 1))
        shown--;
    while (shown > 0 && heat_is_masked(heat, row, shown - 1))
        shown--;
    return shown;
}

void heat_measure(const struct heat *heat, struct heat_range *range)
{
    for (uint32_t row = 0; row < heat->rows; row++) {
        const float *values = heat->values + (size_t)row * heat->columns;
        uint32_t shown = shown_columns(heat, row);
        float least = INFINITY, most = -INFINITY;
        uint32_t missing = 0, infinite = 0;
        for (uint32_t column = 0; column < shown; column++) {
            float value = values[column];
            bool is = fabsf(value) <= FLT_MAX;
            missing += isnan(value) != 0;
            infinite += isinf(value) != 0;
            least = is && value < least ? value : least;
            most = is && value > most ? value : most;
        }
        range->missing += missing;
        range->infinite += infinite;
        range->least = least < range->least ? (double)least : range->least;
        range->most = most > range->most ? (double)most : range->most;
    }
}

/* Padding ---------------------------------------------------------------------------------------
 */

static bool is_zero_row(const struct heat *heat, uint32_t row)
{
    const float *values = heat->values + (size_t)row * heat->columns;
    for (uint32_t column = 0; column < heat->columns; column++)
        if (values[column] != 0) /* nor is NaN */
            return false;
    return true;
}

static bool is_zero_column(const struct heat *heat, uint32_t column)
{
    for (uint32_t row = 0; row < heat->rows; row++)
        if (heat->values[(size_t)row * heat->columns + column] != 0)
            return false;
    return true;
}

void heat_find_padding(struct heat *heat, bool self)
{
    uint32_t rows = heat->rows, columns = heat->columns;
    while (rows > 0 && is_zero_row(heat, rows - 1))
        rows--;
    while (columns > 0 && is_zero_column(heat, columns - 1))
        columns--;
    if (self && heat->rows == heat->columns)
        rows = columns = rows > columns ? rows : columns;
    if (rows == 0 || columns == 0 || rows == heat->rows || columns == heat->columns)
        return;
    heat->padded_queries = (uint32_t)((uint64_t)rows * heat->queries / heat->rows);
    heat->padded_keys = (uint32_t)((uint64_t)columns * heat->keys / heat->columns);
}

/* Counts ----------------------------------------------------------------------------------------
 */

/* Of values of either sign, by their first 16 bits, in the order of the numbers. */
struct heat_count {
    uint64_t of[65536], all;
};

struct heat_count *heat_count_new(void)
{
    return calloc(1, sizeof(struct heat_count));
}

static uint32_t place_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return bits >> 16;
}

/* The largest value that has a place. */
static double value_at(uint32_t place)
{
    uint32_t bits = place << 16 | 0xffff;
    float value;
    bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
    memcpy(&value, &bits, sizeof(value));
    return (double)value;
}

void heat_count_add(struct heat_count *count, const struct heat *heat)
{
    for (uint32_t row = 0; row < heat->rows; row++) {
        const float *values = heat->values + (size_t)row * heat->columns;
        uint32_t shown = shown_columns(heat, row);
        for (uint32_t column = 0; column < shown; column++)
            if (isfinite(values[column])) {
                count->of[place_of(values[column] + 0.0f)]++; /* -0 is 0 */
                count->all++;
            }
    }
}

double heat_count_share(const struct heat_count *count, double value)
{
    uint64_t sum = 0;
    for (uint32_t place = 0; place <= place_of((float)value); place++)
        sum += count->of[place];
    return count->all > 0 ? (double)sum / (double)count->all : 0;
}

double heat_count_value(const struct heat_count *count, double share)
{
    uint64_t sum = count->of[0];
    uint32_t place = 0;
    while (place < 65535 && (double)sum < share * (double)count->all)
        sum += count->of[++place];
    return value_at(place);
}

/* Smaller maps ----------------------------------------------------------------------------------
 */

static uint32_t cut(uint32_t index, uint32_t from, uint32_t to)
{
    return (uint32_t)((uint64_t)index * from / to);
}

static float mean_of(const struct heat *heat, uint32_t top, uint32_t bottom, uint32_t left,
                     uint32_t right)
{
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t row = top; row < bottom; row++)
        for (uint32_t column = left; column < right; column++) {
            float value = heat->values[(size_t)row * heat->columns + column];
            sum += isfinite(value) ? value : 0;
            count += isfinite(value) != 0;
        }
    return count > 0 ? (float)(sum / count) : NAN;
}

struct heat heat_pool(const struct heat *heat, uint32_t rows, uint32_t columns, float *values)
{
    struct heat pooled = *heat;
    pooled.rows = rows < heat->rows ? rows : heat->rows;
    pooled.columns = columns < heat->columns ? columns : heat->columns;
    pooled.values = values;
    for (uint32_t row = 0; row < pooled.rows; row++)
        for (uint32_t column = 0; column < pooled.columns; column++)
            values[(size_t)row * pooled.columns + column] = mean_of(
                heat, cut(row, heat->rows, pooled.rows), cut(row + 1, heat->rows, pooled.rows),
                cut(column, heat->columns, pooled.columns),
                cut(column + 1, heat->columns, pooled.columns));
    return pooled;
}

void heat_colors(const struct heat *heat, const struct colormap *map, double low, double high,
                 uint32_t *ret_colors)
{
    double scale = 256 / (high - low);
    for (uint32_t row = 0; row < heat->rows; row++) {
        const float *values = heat->values + (size_t)row * heat->columns;
        uint32_t *colors = ret_colors + (size_t)row * heat->columns;
        uint32_t shown = shown_columns(heat, row);
        for (uint32_t column = 0; column < shown; column++) {
            double step = (values[column] - low) * scale;
            uint32_t index = step >= 255 ? 255 : step > 0 ? (uint32_t)step : 0;
            colors[column] = isfinite(values[column]) ? map->color[index] : 0;
        }
        for (uint32_t column = shown; column < heat->columns; column++)
            colors[column] = is_padded(heat, row, column) ? HEAT_PADDED : HEAT_MASKED;
    }
}
