/* SPDX-License-Identifier: MIT */
/* The width is given. What stands beside the maps is measured, the maps get the rest, and the
 * height follows from their shape, unless it is given too: then the maps are as large as both
 * allow, and stand in the middle.
 *
 * What the texts at the axes need depends on how long the axes are, which depends on the room that
 * texts need: the axes' length is first guessed, then worked out. */
#include "panels_layout.h"

#include "err.h"

#include <math.h>
#include <stdlib.h>

#define GAP_X       7.0
#define GAP_Y       7.0
#define ASPECT_MAX  2.5
#define ASPECT_MIN  0.2
#define TEXT_SHARE  0.2  /* of the width: the longest text at an axis */
#define CELLS_SHARE 0.7  /* of the width: the maps, as a guess */
#define MAP_MIN     12.0 /* of a map's side */
#define STRETCHED   0.62 /* height by width of what is stretched */

static uint32_t rows_of(const struct panels *panels)
{
    return (panels->count + panels->columns - 1) / panels->columns;
}

/* Height by width of a map. */
static double aspect_of(const struct panels *panels, const struct panel *panel)
{
    double aspect = (double)panel->heat.queries / panel->heat.keys;
    return panels->stretch ? STRETCHED : fmin(ASPECT_MAX, fmax(ASPECT_MIN, aspect));
}

static double largest_aspect(const struct panels *panels)
{
    double largest = 0;
    for (uint32_t i = 0; i < panels->count; i++)
        largest = fmax(largest, aspect_of(panels, &panels->items[i]));
    return largest;
}

static bool has_titles(const struct panels *panels)
{
    for (uint32_t i = 0; i < panels->count; i++)
        if (*panels->items[i].title)
            return true;
    return false;
}

/* The axes of all panels at these lengths, and the room that the widest needs. */
static void plan_axes(const struct panels *panels, const struct page *page, double width,
                      double height, struct panels_layout *layout)
{
    double text_max = TEXT_SHARE * page->width / (panels->shared ? 1 : sqrt(panels->columns));
    layout->ticks_left = layout->ticks_below = 0;
    for (uint32_t i = 0; i < panels->count; i++) {
        const struct panel *panel = &panels->items[i];
        layout->x[i] = cell_axis_plan(&panel->x, page->fonts, true, width, text_max);
        layout->y[i] = cell_axis_plan(&panel->y, page->fonts, false, height, text_max);
        layout->ticks_left = fmax(layout->ticks_left, layout->y[i].room);
        layout->ticks_below = fmax(layout->ticks_below, layout->x[i].room);
    }
}

static double title_room(const char *title)
{
    return *title ? SIZE_NAME + 4 : 0;
}

static double bars_width(const struct panels *panels, const struct bar *bars,
                         const struct page *page, double height)
{
    double widest = 0;
    for (uint32_t i = 0; i < (panels->shared ? 1 : panels->count); i++)
        widest = fmax(widest, bar_room(&bars[i], page->fonts, height));
    return widest;
}

/* The width of a map, with what stands beside it; sets left and pitch_x. */
static void lay_across(const struct panels *panels, const struct page *page, double bar,
                       struct panels_layout *layout)
{
    const struct panel *first = &panels->items[0];
    double columns = panels->columns, side = layout->ticks_left + title_room(first->y.title);
    double beside = panels->shared ? GAP_X : side + bar + GAP_X;
    double rest = page->width - 2 * MARGIN - side - bar - (columns - 1) * beside;
    layout->left = MARGIN + side;
    layout->cell_width = fmax(MAP_MIN, rest / columns);
    layout->pitch_x = layout->cell_width + beside;
}

/* What stands above and below the maps, for a height of 0 of each. */
static double heights(const struct panels *panels, const struct page *page, bool legend,
                      struct panels_layout *layout, double *ret_beside)
{
    const struct panel *first = &panels->items[0];
    double rows = rows_of(panels), title = has_titles(panels) ? SIZE_NAME + 4 : 0;
    double below = layout->ticks_below + title_room(first->x.title);
    *ret_beside = panels->shared ? GAP_Y + title : below + GAP_Y + title;
    layout->top = MARGIN + page_title_room(page) + title;
    return layout->top + below + MARGIN + (legend ? LEGEND_ROOM : 0) + (rows - 1) * *ret_beside;
}

/* A height that is given: the maps become narrower when they would be too high. */
static void fit_height(const struct panels *panels, const struct page *page, double around,
                       double aspect, struct panels_layout *layout)
{
    double high = fmax(MAP_MIN, (page->height - around) / rows_of(panels));
    double wide = high / aspect;
    if (panels->stretch || wide >= layout->cell_width) {
        double spare = (high - layout->cell_height) * rows_of(panels);
        layout->top += panels->stretch ? 0 : fmax(0, spare) / 2;
        layout->cell_height = panels->stretch ? high : layout->cell_height;
        return;
    }
    double spare = (layout->cell_width - wide) * panels->columns;
    layout->pitch_x -= layout->cell_width - wide;
    layout->left += spare / 2;
    layout->cell_width = wide;
    layout->cell_height = high;
}

static void lay_out(const struct panels *panels, const struct bar *bars, const struct page *page,
                    bool legend, struct panels_layout *layout)
{
    double aspect = largest_aspect(panels), beside;
    double guess = CELLS_SHARE * page->width / panels->columns;
    if (page->height > 0)
        guess = fmin(guess, CELLS_SHARE * page->height / rows_of(panels) / aspect);
    plan_axes(panels, page, guess, guess * aspect, layout);
    for (int pass = 0; pass < 2; pass++) {
        double bar = bars_width(panels, bars, page, guess * aspect);
        lay_across(panels, page, bar, layout);
        layout->cell_height = layout->cell_width * aspect;
        plan_axes(panels, page, layout->cell_width, layout->cell_height, layout);
        guess = layout->cell_width;
    }
    double around = heights(panels, page, legend, layout, &beside);
    if (page->height > 0)
        fit_height(panels, page, around, aspect, layout);
    layout->pitch_y = layout->cell_height + beside;
    layout->width = page->width;
    layout->height =
        page->height > 0 ? page->height : around + layout->cell_height * rows_of(panels);
}

int panels_layout(const struct panels *panels, const struct bar *bars, const struct page *page,
                  bool legend, struct panels_layout *ret_layout)
{
    struct panels_layout layout = {.legend = legend};
    layout.x = calloc(panels->count, sizeof(*layout.x));
    layout.y = calloc(panels->count, sizeof(*layout.y));
    if (!layout.x || !layout.y) {
        panels_layout_clear(&layout);
        return ERR_MEMORY;
    }
    lay_out(panels, bars, page, legend, &layout);
    *ret_layout = layout;
    return 0;
}

void panels_layout_clear(struct panels_layout *layout)
{
    free(layout->x);
    free(layout->y);
    layout->x = layout->y = NULL;
}

struct box panels_layout_box(const struct panels_layout *layout, const struct panels *panels,
                             uint32_t index)
{
    double aspect = aspect_of(panels, &panels->items[index]);
    struct box box = {layout->left + index % panels->columns * layout->pitch_x,
                      layout->top + index / panels->columns * layout->pitch_y, layout->cell_width,
                      layout->cell_height};
    if (!panels->stretch) /* of another shape than the highest one */
        box.height = fmin(box.height, box.width * aspect);
    return box;
}
