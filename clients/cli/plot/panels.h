/* SPDX-License-Identifier: MIT */
/* panels: a figure of one or more maps side by side, with axes, colour bars and a legend of what is
 * no number. */
#ifndef CLIENTS_CLI_PLOT_PANELS_H
#define CLIENTS_CLI_PLOT_PANELS_H

#include "clients/cli/plot/cell_axis.h"
#include "clients/cli/plot/heat.h"

#define PANEL_TITLE_MAX 96
/* Rows and columns of a map in PDF and SVG; larger ones are pooled. */
#define PANEL_CELLS_MAX 2048

#define PANEL_COLUMNS_MAX 64

struct panel {
    char title[PANEL_TITLE_MAX]; /* "" = none */
    struct heat heat;
    struct cell_axis x, y;
    const uint32_t *dividers; /* [divider_count] rows before which a line is drawn; borrowed */
    uint32_t divider_count;
};

struct panels {
    struct panel *items;     /* [count] */
    uint32_t count, columns; /* at most PANEL_COLUMNS_MAX */
    bool shared;             /* one range, one colour bar, the axes of the first for all */
    bool stretch;            /* cells fill the width; otherwise they are square */
    bool numbers;            /* written into the cells, when they fit */
    double low, high;        /* NaN = by the values: from 0, when none is below, to the largest, or
                                to the 99.5th percentile when 99 % are within a tenth of that */
    const char *bar_title;   /* what the colours mean */
    const struct colormap *colors;
};

/* No panel has a number in it. */
#define PANELS_NO_NUMBER 1

/* Every number is below the low end that was given. */
#define PANELS_ALL_BELOW 3

struct panels_trouble {
    struct page page;   /* PAGE_TOO_SMALL: one that is large enough */
    double least, most; /* PANELS_ALL_BELOW: of the numbers */
};

/* Draws all of it; where there is no room, titles and ticks of axes are left out. Returns 0,
 * ERR_MEMORY, PANELS_NO_NUMBER, PANELS_ALL_BELOW or PAGE_TOO_SMALL. */
int panels_draw(const struct panels *panels, const struct page *page, struct bytes *ret_file,
                struct panels_trouble *ret_trouble);

#endif
