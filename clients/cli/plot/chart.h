/* SPDX-License-Identifier: MIT */
/* chart: a figure of lines, bands and bars over one pair of axes, with a legend below. */
#ifndef CLIENTS_CLI_PLOT_CHART_H
#define CLIENTS_CLI_PLOT_CHART_H

#include "clients/cli/plot/cell_axis.h"

#define CHART_NAME_MAX 64

struct chart_line {
    const double *x, *y; /* [count]; a y that is not finite leaves a gap; borrowed */
    uint32_t count;
    uint32_t color;
    double width;
    bool dots;                 /* at the points */
    char name[CHART_NAME_MAX]; /* in the legend; "" = not */
};

struct chart_band {
    const double *x, *low, *high; /* [count]; borrowed */
    uint32_t count;
    uint32_t color; /* with its transparency */
    char name[CHART_NAME_MAX];
};

/* Something that happened: an upright line. */
struct chart_mark {
    double x;
    uint32_t color;
    bool ended; /* fainter: it is over there */
};

struct chart {
    const struct chart_line *lines; /* [line_count] */
    uint32_t line_count;
    const struct chart_band *bands;
    uint32_t band_count;
    const struct chart_mark *marks;
    uint32_t mark_count;
    const char *mark_name; /* in the legend */
    const double *bars;    /* [cells.count], over cells instead of numbers; NULL = none */
    const uint32_t *bar_colors;
    uint32_t bar_mark;         /* one of those colours */
    const char *bar_mark_name; /* in the legend: what bars of that colour are; "" = not */
    struct cell_axis cells;
    const char *x_title, *y_title;
    bool from_zero;   /* y begins at 0 */
    bool powers;      /* y by logarithms; what is not above 0 is left out */
    double low, high; /* of y; NaN = by the values */
};

#define CHART_NO_NUMBER 1

/* Where there is no room, titles of axes, the legend and the ticks are left out. Returns 0,
 * ERR_MEMORY, CHART_NO_NUMBER when there is nothing to draw, or PAGE_TOO_SMALL: *ret_least is then
 * large enough. */
int chart_draw(const struct chart *chart, const struct page *page, struct bytes *ret_file,
               struct page *ret_least);

/* Colours for lines that are told apart by name: eight of Okabe and Ito (2008), which people who
 * are colour-blind can tell apart; then again. */
uint32_t chart_color(uint32_t index);

#endif
