/* SPDX-License-Identifier: MIT */
/* cell_axis: the axis of a matrix: a tick in the middle of a cell, with its number or its text.
 * Pure but for the fonts. */
#ifndef CLIENTS_CLI_PLOT_CELL_AXIS_H
#define CLIENTS_CLI_PLOT_CELL_AXIS_H

#include "clients/cli/plot/page.h"

#define CELL_AXIS_MARKED 4

struct cell_axis {
    const char *title;       /* "" = none */
    const char *text_title;  /* instead, when cells are named by texts; NULL = the same */
    uint32_t count;          /* cells */
    uint32_t total;          /* numbers that they stand for: as many, or more when pooled */
    uint32_t first;          /* number of the first one */
    const uint64_t *numbers; /* [count] of the cells, ascending; NULL = one after another */
    /* [count], instead of numbers; NULL = none. A text that is NULL is left out */
    const char *const *texts;
    const uint32_t *marked; /* [marked_count] cells, ascending, whose texts are never left out */
    uint32_t marked_count;  /* at most CELL_AXIS_MARKED */
    bool all;               /* no text is left out for want of room */
    bool bare;              /* neither ticks nor texts */
};

/* How an axis is drawn in a given length. */
struct cell_axis_plan {
    bool named;      /* by texts */
    bool upright;    /* texts of columns stand upright */
    uint32_t every;  /* of the texts */
    double size;     /* of the texts */
    double room;     /* points that ticks and texts need beside the box */
    double text_max; /* longest text */
};

/* `length` in points, of the box along the axis. `before` is the plan for about the same length, or
 * NULL: whether there are texts stays as it was then. */
struct cell_axis_plan cell_axis_plan(const struct cell_axis *axis, struct fonts *fonts, bool across,
                                     double length, double text_max,
                                     const struct cell_axis_plan *before);
/* The title that goes with it. */
const char *cell_axis_title(const struct cell_axis *axis, const struct cell_axis_plan *plan);
/* Below a box, or to the left of it. */
void cell_axis_draw(const struct cell_axis *axis, const struct cell_axis_plan *plan,
                    struct fonts *fonts, bool across, struct box box, struct canvas *canvas);

#endif
