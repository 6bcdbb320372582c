/* SPDX-License-Identifier: MIT */
#include "clients/cli/top/internal.h"

#include "clients/cli/base/spark.h"

#include <math.h>

static const char *const blocks[BARS_LEVELS] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const letters[BARS_LEVELS] = {".", ":", "-", "=", "+", "*", "%", "@"};

const struct range range_none = {INFINITY, -INFINITY};

void range_add(struct range *range, double value)
{
    if (!isfinite(value)) {
        return;
    }
    range->least = fmin(range->least, value);
    range->greatest = fmax(range->greatest, value);
}

struct range range_of(const double *values, uint32_t count)
{
    struct range range = range_none;
    for (uint32_t i = 0; i < count; i++) {
        range_add(&range, values[i]);
    }
    return range;
}

/* 0 to 1 within the range; NaN for what is no number. */
static double place_in(double value, struct range range)
{
    double size = range.greatest - range.least;
    if (!isfinite(value) || range.least > range.greatest) {
        return NAN;
    }
    double place = size > 0 ? (value - range.least) / size : 0;
    return fmin(fmax(place, 0), 1);
}

int bars_level(double value, struct range range)
{
    double place = place_in(value, range);
    return isnan(place) ? -1 : (int)(place * (BARS_LEVELS - 1) + 0.5);
}

const char *bars_glyph(int level, bool unicode)
{
    if (level < 0) {
        return " ";
    }
    return unicode ? blocks[level] : letters[level];
}

static enum style style_of(double value, struct bars_color color)
{
    int level = color.any ? bars_level(value, color.range) : -1;
    return level < 0 ? STYLE_PLAIN : (enum style)(STYLE_LEVEL_0 + level);
}

int bars_line(struct screen *screen, int row, int column, int width, const double *values,
              uint32_t count, struct range range, struct bars_color color)
{
    uint32_t bars = width <= 0 ? 0 : count < (uint32_t)width ? count : (uint32_t)width;
    for (uint32_t i = 0; i < bars; i++) {
        double value = spark_bar(values, count, bars, i);
        screen_put(screen, row, column + (int)i, 1, style_of(value, color),
                   bars_glyph(bars_level(value, range), screen->unicode));
    }
    return (int)bars;
}

/* Bars of a chart and columns of each. */
static void chart_shape(uint32_t count, int width, uint32_t *ret_bars, int *ret_thick)
{
    uint32_t room = width > 0 ? (uint32_t)width : 0;
    *ret_bars = count < room ? count : room;
    *ret_thick = *ret_bars > 0 ? (int)(room / *ret_bars) : 0;
    if (*ret_thick > 4) { /* a few windows are no skyline */
        *ret_thick = 4;
    }
}

int bars_column(uint32_t count, int width, uint32_t index)
{
    uint32_t bars;
    int thick;
    chart_shape(count, width, &bars, &thick);
    return count > 0 ? (int)((uint64_t)index * bars / count) * thick : 0;
}

int bars_chart(struct screen *screen, int row, int column, int width, int height,
               const double *values, uint32_t count, struct range range)
{
    uint32_t bars;
    int thick;
    chart_shape(count, width, &bars, &thick);
    for (uint32_t i = 0; i < bars; i++) {
        double place = place_in(spark_bar(values, count, bars, i), range);
        for (int x = 0; x < thick && !isnan(place); x++) {
            /* One column: whole blocks up to the value, and the part of one on top; coloured by
             * height. */
            int bar_column = column + (int)i * thick + x;
            int eighths = 1 + (int)(place * (height * BARS_LEVELS - 1) + 0.5);
            for (int up = 0; up < height && eighths > 0; up++, eighths -= BARS_LEVELS) {
                int level = eighths >= BARS_LEVELS ? BARS_LEVELS - 1 : eighths - 1;
                int high = height > 1 ? up * (BARS_LEVELS - 1) / (height - 1) : 0;
                screen_put(screen, row + height - 1 - up, bar_column, 1,
                           (enum style)(STYLE_LEVEL_0 + high), bars_glyph(level, screen->unicode));
            }
        }
    }
    return (int)bars * thick;
}
