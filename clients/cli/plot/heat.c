/* SPDX-License-Identifier: MIT */
#include "heat.h"

#include <float.h>
#include <math.h>

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

/* The columns of a row that no mask hides: a causal mask leaves the first ones. */
static uint32_t shown_columns(const struct heat *heat, uint32_t row)
{
    uint32_t shown = heat->columns;
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
        uint32_t missing = 0;
        for (uint32_t column = 0; column < shown; column++) {
            float value = values[column];
            bool is = fabsf(value) <= FLT_MAX;
            missing += !is;
            least = is && value < least ? value : least;
            most = is && value > most ? value : most;
        }
        range->missing += missing;
        range->least = least < range->least ? (double)least : range->least;
        range->most = most > range->most ? (double)most : range->most;
    }
}

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
            colors[column] = HEAT_MASKED;
    }
}
