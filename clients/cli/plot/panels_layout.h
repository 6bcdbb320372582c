/* SPDX-License-Identifier: MIT */
/* panels_layout: where everything of a figure of maps goes. */
#ifndef CLIENTS_CLI_PLOT_PANELS_LAYOUT_H
#define CLIENTS_CLI_PLOT_PANELS_LAYOUT_H

#include "clients/cli/plot/bar.h"
#include "clients/cli/plot/panels.h"

struct panels_layout {
    double width, height;            /* of the figure */
    double left, top;                /* of the first map */
    double cell_height;              /* of the maps */
    double shape[PANEL_COLUMNS_MAX]; /* of each column: the width of its widest map by the height */
    double side[PANEL_COLUMNS_MAX];  /* left of each column's maps: ticks, their texts, a title */
    double beside;                   /* right of a map, up to what is left of the next */
    double pitch_y;                  /* from map to map */
    double ticks_below;              /* room of ticks and their texts */
    double ticks_left[PANEL_COLUMNS_MAX];
    struct cell_axis_plan *x, *y; /* [count]; owned */
    double legend;                /* its height, below everything; 0 = none */
    bool fits; /* everything is on the page, and the maps are large enough to be looked at */
};

/* `bars` has the bar of each panel, or one when they share it; `legend` is the room for one.
 * Returns 0 or ERR_MEMORY. */
int panels_layout(const struct panels *panels, const struct bar *bars, const struct page *page,
                  double legend, struct panels_layout *ret_layout);
void panels_layout_clear(struct panels_layout *layout);
/* The place of a map in it. */
struct box panels_layout_box(const struct panels_layout *layout, const struct panels *panels,
                             uint32_t index);

#endif
