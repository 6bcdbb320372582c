/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/plot.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Points that a panel has at least, when there is a choice. */
#define PANEL_MIN 62.0
/* What stands around panels, about. */
#define AROUND 36.0
/* Sizes that are looked at to find one that is large enough. */
#define TRIES_MOST 32

int plot_fail(struct plot *plot, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(plot->error, sizeof(plot->error), format, args);
    va_end(args);
    return code;
}

int plot_fail_memory(struct plot *plot)
{
    return plot_fail(plot, CLI_FINDING, "out of memory");
}

int plot_fail_empty(struct plot *plot, const char *why)
{
    plot->empty = true;
    return plot_fail(plot, CLI_FINDING, "there is nothing to draw: %s", why);
}

/* Whether a part of "decoder.3.self" is of this layer. */
static bool is_part(const char *part, size_t length, struct layer_id id)
{
    char number[16];
    const char *words[] = {stack_name(id.stack), site_name(id.site), number};
    snprintf(number, sizeof(number), "%" PRIu32, id.layer);
    for (int i = 0; i < 3; i++)
        if (strlen(words[i]) == length && memcmp(words[i], part, length) == 0)
            return true;
    return false;
}

bool plot_layer_matches(const char *text, struct layer_id id)
{
    while (*text) {
        size_t length = strcspn(text, ".");
        if (!is_part(text, length, id))
            return false;
        text += length + (text[length] == '.');
    }
    return true;
}

struct page plot_page(const struct plot *plot, double inches, const char *title)
{
    const struct plot_options *options = &plot->options;
    return (struct page){
        .format = options->format,
        .width = (options->width > 0 ? options->width : inches) * INCH,
        .height = options->height * INCH,
        .dpi = options->dpi,
        .fonts = plot->fonts,
        .title = options->title ? options->title : title,
    };
}

static uint32_t rows_of(uint32_t count, uint32_t columns)
{
    return (count + columns - 1) / columns;
}

/* Where the height is given: with which panels are largest. */
static uint32_t largest_columns(uint32_t count, double width, double height)
{
    uint32_t best = 1;
    double largest = 0;
    for (uint32_t columns = 1; columns <= count && columns <= PANEL_COLUMNS_MAX; columns++) {
        double side = fmin(width / columns, height / rows_of(count, columns));
        best = side > largest ? columns : best;
        largest = fmax(side, largest);
    }
    return best;
}

/* Otherwise a little wider than high, and with few places empty in the last row: 12 are 3 rows of
 * 4, 10 are 2 of 5, 64 are 8 of 8. A few stand in one row. */
static uint32_t choose_columns(uint32_t count, double width)
{
    uint32_t most = (uint32_t)fmax(1, floor(width / PANEL_MIN)), best = 1;
    double wanted = fmin(most, sqrt(count * 1.4)), least = INFINITY;
    if (count <= most && count <= 5)
        return count;
    for (uint32_t columns = 1; columns <= most && columns <= PANEL_COLUMNS_MAX; columns++) {
        uint32_t empty = rows_of(count, columns) * columns - count;
        double cost = empty + 0.9 * fabs(columns - wanted);
        best = cost < least ? columns : best;
        least = fmin(cost, least);
    }
    return best;
}

static uint32_t columns_of(const struct plot *plot, const struct panels *panels,
                           const struct page *page)
{
    uint32_t columns = panels->columns ? panels->columns : plot->options.columns;
    if (columns == 0 && page->height > 0)
        columns = largest_columns(panels->count, page->width - AROUND, page->height - AROUND);
    else if (columns == 0)
        columns = choose_columns(panels->count, page->width);
    return columns > panels->count ? panels->count : columns;
}

/* `what` is "for 4 panels". */
static int fail_small(struct plot *plot, const struct page *page, const struct page *least,
                      const char *what)
{
    char given[PAGE_SIZE_MAX], enough[PAGE_SIZE_MAX];
    page_size_text(page, given);
    page_size_text(least, enough);
    return plot_fail(plot, CLI_USAGE, "--size: %s: too small %s: at least %s", given, what, enough);
}

int plot_chart(struct plot *plot, const struct chart *chart, double inches, const char *title,
               struct bytes *ret_file)
{
    char clean[TITLE_MAX] = "";
    struct page page = plot_page(plot, inches, title);
    if (*page.title)
        label_clean(page.title, clean, sizeof(clean));
    page.title = clean;
    struct page least;
    int rc = chart_draw(chart, &page, ret_file, &least);
    if (rc == PAGE_TOO_SMALL)
        return fail_small(plot, &page, &least, "for a chart");
    if (rc == CHART_NO_NUMBER)
        return plot_fail_empty(plot, "no value is a number");
    return rc == 0 ? CLI_OK : plot_fail_memory(plot);
}

/* Makes a size that is enough for these columns enough for those that it would be drawn in. */
static void settle_least(const struct plot *plot, struct panels panels, uint32_t asked,
                         struct page *least)
{
    int rc = PAGE_TOO_SMALL;
    for (int tries = 0; tries < TRIES_MOST && rc == PAGE_TOO_SMALL; tries++) {
        struct panels_trouble trouble;
        struct bytes file = {NULL, 0};
        panels.columns = asked;
        panels.columns = columns_of(plot, &panels, least);
        rc = panels_draw(&panels, least, &file, &trouble);
        free(file.data);
        if (rc == PAGE_TOO_SMALL)
            *least = trouble.page;
    }
}

int plot_panels(struct plot *plot, struct panels *panels, const struct page *page,
                struct bytes *ret_file)
{
    const struct plot_options *options = &plot->options;
    char title[TITLE_MAX] = "";
    char what[48];
    struct page clean = *page;
    struct panels_trouble trouble;
    if (*page->title)
        label_clean(page->title, title, sizeof(title));
    clean.title = title;
    panels->colors = &options->colors;
    panels->low = options->vmin;
    panels->high = options->vmax;
    uint32_t asked = panels->columns;
    panels->columns = columns_of(plot, panels, page);
    int rc = panels_draw(panels, &clean, ret_file, &trouble);
    snprintf(what, sizeof(what), "for %" PRIu32 " panel%s", panels->count,
             panels->count == 1 ? "" : "s");
    if (rc == PAGE_TOO_SMALL) {
        settle_least(plot, *panels, asked, &trouble.page);
        return fail_small(plot, &clean, &trouble.page, what);
    }
    if (rc == PANELS_ALL_BELOW)
        return plot_fail(plot, CLI_USAGE, "--vmin: %g: above all values, which are %g to %g",
                         options->vmin, trouble.least, trouble.most);
    if (rc == PANELS_NO_NUMBER)
        return plot_fail_empty(plot, panels->count > 1 ? "no entry of the maps is a number"
                                                       : "no entry of the map is a number");
    return rc == 0 ? CLI_OK : plot_fail_memory(plot);
}
