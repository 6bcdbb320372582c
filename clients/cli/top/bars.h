/* SPDX-License-Identifier: MIT */
/* bars: numbers as small bars on a screen: a line of them, or a chart of several rows. Where there
 * are no block characters, ASCII characters of growing weight stand for them. Pure. */
#ifndef CLIENTS_CLI_TOP_BARS_H
#define CLIENTS_CLI_TOP_BARS_H

#include "clients/cli/top/screen.h"

#define BARS_LEVELS 8

struct range {
    double least, greatest; /* least > greatest: there are no numbers */
};

extern const struct range range_none;
/* Widens a range; NaN and infinities change nothing. */
void range_add(struct range *range, double value);
struct range range_of(const double *values, uint32_t count);

/* Returns the level of a value, of the BARS_LEVELS levels of the range; -1 for a value that is no
 * number. */
int bars_level(double value, struct range range);

/* A level as a character. */
const char *bars_glyph(int level, bool unicode);

/* How a line is coloured: by where the values are in `range`; without one it is plain. */
struct bars_color {
    bool any;
    struct range range;
};

/* One bar per value, as high as the value stands in `range`. With more values than `width` each bar
 * is the mean of some that follow one another. Returns the columns drawn. */
int bars_line(struct screen *screen, int row, int column, int width, const double *values,
              uint32_t count, struct range range, struct bars_color color);

/* The same over `height` rows, `row` being the topmost, wide enough to fill `width` as far as whole
 * columns per value can. Returns the columns drawn. */
int bars_chart(struct screen *screen, int row, int column, int width, int height,
               const double *values, uint32_t count, struct range range);

/* The column of a chart in which value `index` of `count` begins. */
int bars_column(uint32_t count, int width, uint32_t index);

#endif
