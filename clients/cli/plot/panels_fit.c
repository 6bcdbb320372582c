/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/panels_fit.h"

#include <math.h>

/* A title may be so much longer than the axis that it is beside. */
#define OVERHANG 8.0

struct box panels_fit_outline(const struct panels_layout *layout, const struct panels *panels)
{
    struct box first = panels_layout_box(layout, panels, 0);
    struct box right = panels_layout_box(layout, panels, panels->columns - 1);
    struct box low = panels_layout_box(layout, panels, panels->count - 1);
    first.width = right.x + right.width - first.x;
    first.height = low.y + low.height - first.y;
    return first;
}

/* Takes away a title that is too long; returns whether it was. */
static bool shed(const char **title, struct fonts *fonts, double room)
{
    if (!**title || fonts_width(fonts, *title, SIZE_NAME, false) <= room)
        return false;
    *title = "";
    return true;
}

static bool shed_of_panel(struct panel *panel, struct fonts *fonts, struct box box)
{
    bool x = shed(&panel->x.title, fonts, box.width + OVERHANG);
    bool y = shed(&panel->y.title, fonts, box.height + OVERHANG);
    return x || y;
}

/* Titles that are longer than what they stand beside; returns whether there were any. */
static bool shed_long(struct panels *panels, struct bar *bars, const struct page *page,
                      const struct panels_layout *layout)
{
    bool any = false;
    for (uint32_t i = 0; i < panels->count; i++) {
        struct box box = panels->shared ? panels_fit_outline(layout, panels)
                                        : panels_layout_box(layout, panels, i);
        any = shed_of_panel(&panels->items[i], page->fonts, box) || any;
        if (i == 0 || !panels->shared)
            any = shed(&bars[i].title, page->fonts, box.height + OVERHANG) || any;
    }
    return any;
}

static void shed_titles(struct panels *panels, struct bar *bars)
{
    for (uint32_t i = 0; i < panels->count; i++)
        panels->items[i].x.title = panels->items[i].y.title = "";
    for (uint32_t i = 0; i < (panels->shared ? 1 : panels->count); i++)
        bars[i].title = "";
}

static void shed_ticks(struct panels *panels)
{
    for (uint32_t i = 0; i < panels->count; i++)
        panels->items[i].x.bare = panels->items[i].y.bare = true;
}

struct trial {
    const struct panels *panels;
    const struct bar *bars;
    double legend;
};

static bool is_enough(void *data, const struct page *page)
{
    const struct trial *trial = data;
    struct panels_layout layout;
    if (panels_layout(trial->panels, trial->bars, page, trial->legend, &layout) != 0)
        return false;
    panels_layout_clear(&layout);
    return layout.fits;
}

static int find_least(const struct panels *panels, const struct bar *bars, const struct page *page,
                      double legend, struct page *ret_least)
{
    struct trial trial = {panels, bars, legend};
    *ret_least = *page;
    page_grow(ret_least, is_enough, &trial);
    return PAGE_TOO_SMALL;
}

int panels_fit(struct panels *panels, struct bar *bars, const struct page *page, double legend,
               struct panels_layout *ret_layout, struct page *ret_least)
{
    for (int left_out = 0;;) {
        int rc = panels_layout(panels, bars, page, legend, ret_layout);
        if (rc != 0)
            return rc;
        bool fits = ret_layout->fits;
        if (fits && !shed_long(panels, bars, page, ret_layout))
            return 0;
        panels_layout_clear(ret_layout);
        if (fits)
            continue;
        if (left_out == 2)
            return find_least(panels, bars, page, legend, ret_least);
        if (left_out++ == 0)
            shed_titles(panels, bars);
        else
            shed_ticks(panels);
    }
}
