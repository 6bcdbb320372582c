/* SPDX-License-Identifier: MIT */
/* The width is given. What stands beside the maps is measured, the maps get the rest, and the
 * height follows from their shape, unless it is given too: then the maps are as large as both
 * allow, and stand in the middle.
 *
 * What the texts at the axes need depends on how long the axes are, which depends on the room that
 * texts need: the axes' length is first guessed, then worked out. */
#include "clients/cli/plot/panels_layout.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>

#define GAP_X          7.0
#define GAP_Y          7.0
#define SHAPE_MAX      5.0
#define SHAPE_MIN      0.4
#define TEXT_SHARE     0.2 /* of the width: the longest text at an axis */
#define SHARE_TOGETHER 0.7 /* of the width: the maps, as a guess */
#define SHARE_APART    0.5 /* of maps with axes of their own */
#define PASSES         3
#define MAP_MIN        12.0 /* of a map's longer side */
#define MAP_MIN_TICKS  24.0 /* when there are ticks at it */
#define MAP_THIN       3.0  /* of its shorter side */
#define MAP_LOWERED    28.0 /* height of a map for which a figure may become higher */
#define HEIGHT_MOST    (9 * INCH)
#define STRETCHED      1.6 /* width by height of what is stretched */

static uint32_t rows_of(const struct panels *panels)
{
    return (panels->count + panels->columns - 1) / panels->columns;
}

/* Width by height of a map; of what is stretched, unless a height is given. */
static double shape_of(const struct panels *panels, const struct panel *panel)
{
    double shape = (double)panel->heat.keys / panel->heat.queries;
    return panels->stretch ? STRETCHED : fmin(SHAPE_MAX, fmax(SHAPE_MIN, shape));
}

/* The widest of each column; returns their sum. */
static double find_shapes(const struct panels *panels, struct panels_layout *layout)
{
    double sum = 0;
    for (uint32_t i = 0; i < panels->count; i++) {
        double *shape = &layout->shape[i % panels->columns];
        *shape = fmax(*shape, shape_of(panels, &panels->items[i]));
    }
    for (uint32_t i = 0; i < panels->columns; i++)
        sum += layout->shape[i];
    return sum;
}

static bool has_titles(const struct panels *panels)
{
    for (uint32_t i = 0; i < panels->count; i++)
        if (*panels->items[i].title)
            return true;
    return false;
}

/* The axes of all panels when maps are so high; the room that they need only grows, so that the
 * passes come to an end where everything fits. */
static void plan_axes(const struct panels *panels, const struct page *page, double height,
                      bool first, struct panels_layout *layout)
{
    double text_max = TEXT_SHARE * page->width / (panels->shared ? 1 : sqrt(panels->columns));
    for (uint32_t i = 0; i < panels->count; i++) {
        const struct panel *panel = &panels->items[i];
        double width = height * shape_of(panels, panel);
        layout->x[i] = cell_axis_plan(&panel->x, page->fonts, true, width, text_max,
                                      first ? NULL : &layout->x[i]);
        layout->y[i] = cell_axis_plan(&panel->y, page->fonts, false, height, text_max,
                                      first ? NULL : &layout->y[i]);
        double *left = &layout->ticks_left[i % panels->columns];
        *left = fmax(*left, layout->y[i].room);
        layout->ticks_below = fmax(layout->ticks_below, layout->x[i].room);
    }
}

static double title_room(const char *title)
{
    return *title ? SIZE_NAME + 4 : 0;
}

static bool is_last_column(const struct panels *panels, uint32_t index)
{
    return index % panels->columns == panels->columns - 1;
}

/* The widest in the last column, and in the others. */
static void bars_width(const struct panels *panels, const struct bar *bars, const struct page *page,
                       double height, double *ret_last, double *ret_inner)
{
    double widest[2] = {0, 0};
    for (uint32_t i = 0; i < (panels->shared ? 1 : panels->count); i++) {
        double *of = &widest[!panels->shared && !is_last_column(panels, i)];
        *of = fmax(*of, bar_room(&bars[i], page->fonts, height));
    }
    *ret_last = widest[0];
    *ret_inner = widest[1];
}

/* The width that is left for the maps of a row; sets left, side and beside. Where maps share their
 * axes, only the first column has texts to its left. */
static double lay_across(const struct panels *panels, const struct page *page, double bar,
                         double inner_bar, struct panels_layout *layout)
{
    double sides = 0, title = title_room(panels->items[0].y.title);
    for (uint32_t i = 0; i < panels->columns && (i == 0 || !panels->shared); i++) {
        layout->side[i] = layout->ticks_left[i] + title;
        sides += layout->side[i];
    }
    layout->beside = panels->shared ? GAP_X : inner_bar + GAP_X;
    layout->left = MARGIN + layout->side[0];
    return page->width - 2 * MARGIN - sides - bar - (panels->columns - 1) * layout->beside;
}

/* What stands above, below and between the maps; sets top. */
static double lay_down(const struct panels *panels, const struct page *page,
                       struct panels_layout *layout, double *ret_between)
{
    double rows = rows_of(panels), title = has_titles(panels) ? SIZE_NAME + 4 : 0;
    double below = layout->ticks_below + title_room(panels->items[0].x.title);
    *ret_between = panels->shared ? GAP_Y + title : below + GAP_Y + title;
    layout->top = MARGIN + page_title_room(page) + title;
    return layout->top + below + MARGIN + layout->legend + (rows - 1) * *ret_between;
}

/* A height that is given: what is stretched takes it, other maps become smaller when they would be
 * too high, and stand in the middle. */
static void fit_height(const struct panels *panels, const struct page *page, double around,
                       double shapes, struct panels_layout *layout)
{
    double high = fmax(MAP_THIN, (page->height - around) / rows_of(panels));
    double spare = layout->cell_height - high;
    if (panels->stretch)
        layout->shape[0] *= layout->cell_height / high;
    else if (spare > 0)
        layout->left += spare * shapes / 2;
    else
        layout->top -= spare * rows_of(panels) / 2;
    layout->cell_height = panels->stretch ? high : fmin(high, layout->cell_height);
}

static bool is_large_enough(const struct panels *panels, double height)
{
    double least = panels->items[0].x.bare ? MAP_MIN : MAP_MIN_TICKS;
    for (uint32_t i = 0; i < panels->count; i++) {
        double width = height * shape_of(panels, &panels->items[i]);
        if (fmax(width, height) < least || fmin(width, height) < MAP_THIN)
            return false;
    }
    return true;
}

static bool fits(const struct panels *panels, const struct page *page, double around, double wanted,
                 const struct panels_layout *layout)
{
    double needs = around + layout->cell_height * rows_of(panels);
    return is_large_enough(panels, fmin(wanted, layout->cell_height)) &&
           (page->height == 0 || needs <= page->height + 0.01);
}

static void lay_out(const struct panels *panels, const struct bar *bars, const struct page *page,
                    struct panels_layout *layout)
{
    double shapes = find_shapes(panels, layout), between, wanted = 0;
    double guess = (panels->shared ? SHARE_TOGETHER : SHARE_APART) * page->width / shapes;
    if (page->height > 0)
        guess = fmin(guess, SHARE_TOGETHER * page->height / rows_of(panels));
    for (int pass = 0; pass < PASSES; pass++) {
        plan_axes(panels, page, guess, pass == 0, layout);
        double bar, inner_bar;
        bars_width(panels, bars, page, guess, &bar, &inner_bar);
        wanted = lay_across(panels, page, bar, inner_bar, layout) / shapes;
        guess = fmax(MAP_THIN, wanted);
    }
    layout->cell_height = guess;
    double around = lay_down(panels, page, layout, &between);
    if (page->height > 0)
        fit_height(panels, page, around, shapes, layout);
    layout->fits = fits(panels, page, around, wanted, layout);
    layout->pitch_y = layout->cell_height + between;
    layout->width = page->width;
    layout->height =
        page->height > 0 ? page->height : around + layout->cell_height * rows_of(panels);
}

/* Where no height is given, and many rows would make more than a page: smaller maps. */
static void lower(const struct panels *panels, const struct bar *bars, const struct page *page,
                  struct panels_layout *layout)
{
    struct page given = *page;
    double rows = rows_of(panels), maps = rows * layout->cell_height;
    if (page->height > 0 || layout->height <= HEIGHT_MOST)
        return;
    given.height = fmax(HEIGHT_MOST, layout->height - maps + rows * MAP_LOWERED);
    if (given.height < layout->height)
        lay_out(panels, bars, &given, layout);
}

int panels_layout(const struct panels *panels, const struct bar *bars, const struct page *page,
                  double legend, struct panels_layout *ret_layout)
{
    struct panels_layout layout = {.legend = legend};
    layout.x = calloc(panels->count, sizeof(*layout.x));
    layout.y = calloc(panels->count, sizeof(*layout.y));
    if (!layout.x || !layout.y) {
        panels_layout_clear(&layout);
        return ERR_MEMORY;
    }
    lay_out(panels, bars, page, &layout);
    lower(panels, bars, page, &layout);
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
    double shape = panels->stretch ? layout->shape[0] : shape_of(panels, &panels->items[index]);
    struct box box = {layout->left, layout->top + index / panels->columns * layout->pitch_y,
                      layout->cell_height * shape, layout->cell_height};
    for (uint32_t column = 0; column < index % panels->columns; column++)
        box.x +=
            layout->cell_height * layout->shape[column] + layout->beside + layout->side[column + 1];
    return box;
}
