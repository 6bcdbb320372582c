/* SPDX-License-Identifier: MIT */
#include "plot.h"

#include "label.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Points that a panel has at least, when there is a choice. */
#define PANEL_MIN 64.0

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

/* As many as fit, in rows that are alike: 12 are 3 rows of 4, 8 are 2 of 4, 5 are 1 of 5. */
static uint32_t choose_columns(uint32_t count, double width)
{
    uint32_t most = (uint32_t)fmax(1, floor(width / PANEL_MIN));
    uint32_t columns = (uint32_t)ceil(sqrt(count * 1.4));
    columns = columns > most ? most : columns < 1 ? 1 : columns;
    if (count <= most && count <= 5)
        return count;
    uint32_t rows = (count + columns - 1) / columns;
    return (count + rows - 1) / rows;
}

int plot_chart(struct plot *plot, const struct chart *chart, double inches, const char *title,
               struct bytes *ret_file)
{
    char clean[TITLE_MAX] = "";
    struct page page = plot_page(plot, inches, title);
    if (*page.title)
        label_clean(page.title, clean, sizeof(clean));
    page.title = clean;
    int rc = chart_draw(chart, &page, ret_file);
    if (rc == CHART_NO_NUMBER)
        return plot_fail_empty(plot, "no value is a number");
    return rc == 0 ? CLI_OK : plot_fail_memory(plot);
}

int plot_panels(struct plot *plot, struct panels *panels, const struct page *page,
                struct bytes *ret_file)
{
    const struct plot_options *options = &plot->options;
    char title[TITLE_MAX] = "";
    struct page clean = *page;
    if (*page->title)
        label_clean(page->title, title, sizeof(title));
    clean.title = title;
    panels->colors = &options->colors;
    panels->low = options->vmin;
    panels->high = options->vmax;
    if (panels->columns == 0)
        panels->columns =
            options->columns > 0 ? options->columns : choose_columns(panels->count, page->width);
    panels->columns = panels->columns > panels->count ? panels->count : panels->columns;
    int rc = panels_draw(panels, &clean, ret_file);
    if (rc == PANELS_NO_NUMBER)
        return plot_fail_empty(plot, panels->count > 1 ? "no entry of the maps is a number"
                                                       : "no entry of the map is a number");
    return rc == 0 ? CLI_OK : plot_fail_memory(plot);
}
