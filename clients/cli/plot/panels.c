/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/panels.h"

#include "proto/err.h"
#include "clients/cli/plot/label.h"
#include "clients/cli/plot/panels_fit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_CELL     15.0 /* points of a cell that a number fits into */
#define DIVIDER_WIDTH   1.2
#define SWATCH          7.0
#define LEGEND_LINE     10.0
#define LEGEND_MOST     4
#define LEGEND_TEXT_MAX 72

/* The colours end where so great a share of the values is below, if a greater one than FEW_SHARE is
 * in the first tenth of the range. */
#define HIGH_SHARE 0.995
#define FEW_SHARE  0.99
#define FEW_ABOVE  0.1

/* One figure while it is drawn. */
struct drawing {
    struct panels *panels;
    const struct page *page;
    struct canvas *canvas;
    struct panels_layout layout;
    struct bar *bars;        /* one, or one per panel */
    uint64_t *missing;       /* of each panel */
    struct heat_range range; /* of all */
    bool masked, padded;
    bool failed;
};

/* Ranges ----------------------------------------------------------------------------------------
 */

/* Where the colours end: at the largest value, unless hardly any is near it. Then what is above the
 * end is shown by the point of the colour bar. */
static double high_of(const struct drawing *drawing, double low, const struct heat_range *range,
                      uint32_t first, uint32_t count)
{
    struct heat_count *counts = heat_count_new();
    double high = range->most;
    if (!counts)
        return high;
    for (uint32_t i = first; i < first + count; i++)
        heat_count_add(counts, &drawing->panels->items[i].heat);
    if (heat_count_share(counts, low + FEW_ABOVE * (high - low)) > FEW_SHARE) {
        double most = heat_count_value(counts, HIGH_SHARE);
        high = most > low ? fmin(most, high) : high;
    }
    free(counts);
    return high;
}

/* Of `count` panels; from 0 when nothing is below; never empty. */
static struct bar bar_of(const struct drawing *drawing, const struct heat_range *range,
                         uint32_t first, uint32_t count)
{
    const struct panels *panels = drawing->panels;
    bool any = range->least <= range->most;
    struct bar bar = {.colors = panels->colors, .title = panels->bar_title, .high = 1};
    bar.low = !isnan(panels->low) ? panels->low : any ? fmin(0, range->least) : 0;
    if (!isnan(panels->high))
        bar.high = panels->high;
    else if (any)
        bar.high = high_of(drawing, bar.low, range, first, count);
    if (!(bar.high > bar.low)) { /* all alike, or below --vmin */
        double apart = fmax(fabs(bar.low), 1);
        bar.high = bar.low + apart;
    }
    bar.below = any && range->least < bar.low;
    bar.above = any && range->most > bar.high;
    return bar;
}

static void join(struct heat_range *range, const struct heat_range *other)
{
    range->least = fmin(range->least, other->least);
    range->most = fmax(range->most, other->most);
    range->missing += other->missing;
    range->infinite += other->infinite;
}

/* Bars of several maps mean the same: those of the last column say what. */
static bool is_titled(const struct panels *panels, uint32_t index)
{
    return index % panels->columns == panels->columns - 1 || index + 1 == panels->count;
}

static void measure_all(struct drawing *drawing)
{
    const struct panels *panels = drawing->panels;
    drawing->range = heat_range_none();
    for (uint32_t i = 0; i < panels->count; i++) {
        const struct heat *heat = &panels->items[i].heat;
        struct heat_range own = heat_range_none();
        heat_measure(heat, &own);
        join(&drawing->range, &own);
        drawing->missing[i] = own.missing + own.infinite;
        if (!panels->shared) {
            drawing->bars[i] = bar_of(drawing, &own, i, 1);
            drawing->bars[i].title = is_titled(panels, i) ? panels->bar_title : "";
        }
        drawing->masked =
            drawing->masked || (heat->causal && heat_is_masked(heat, 0, heat->columns - 1));
        drawing->padded = drawing->padded || heat->padded_queries > 0;
    }
    if (panels->shared)
        drawing->bars[0] = bar_of(drawing, &drawing->range, 0, panels->count);
}

/* Maps ------------------------------------------------------------------------------------------
 */

static void draw_colors(struct drawing *drawing, const struct heat *heat, const struct bar *bar,
                        struct box box)
{
    uint32_t *colors = malloc((size_t)heat->rows * heat->columns * sizeof(*colors));
    if (!colors) {
        drawing->failed = true;
        return;
    }
    heat_colors(heat, bar->colors, bar->low, bar->high, colors);
    canvas_cells(drawing->canvas, box, colors, heat->rows, heat->columns);
    free(colors);
}

/* Cells of a side that can be told apart: pixels, or as many as make a file that opens. */
static uint32_t cells_of(const struct canvas *canvas, double length, uint32_t cells)
{
    double pixels = canvas_pixels(canvas) * length;
    uint32_t most = pixels > 0 ? (uint32_t)fmax(1, floor(pixels)) : PANEL_CELLS_MAX;
    return cells < most ? cells : most;
}

static void draw_heat(struct drawing *drawing, const struct heat *heat, const struct bar *bar,
                      struct box box)
{
    uint32_t rows = cells_of(drawing->canvas, box.height, heat->rows);
    uint32_t columns = cells_of(drawing->canvas, box.width, heat->columns);
    if (rows == heat->rows && columns == heat->columns) {
        draw_colors(drawing, heat, bar, box);
        return;
    }
    float *values = malloc((size_t)rows * columns * sizeof(*values));
    if (!values) {
        drawing->failed = true;
        return;
    }
    struct heat pooled = heat_pool(heat, rows, columns, values);
    draw_colors(drawing, &pooled, bar, box);
    free(values);
}

/* Black on light colours, white on dark ones. */
static uint32_t ink_on(uint32_t color)
{
    double light = 0.299 * (color >> 16 & 255) + 0.587 * (color >> 8 & 255) + 0.114 * (color & 255);
    return light > 140 ? COLOR_TEXT : 0xffffffffu;
}

static void draw_numbers(struct drawing *drawing, const struct heat *heat, const struct bar *bar,
                         struct box box)
{
    double across = box.width / heat->columns, down = box.height / heat->rows;
    if (fmin(across, down) < NUMBER_CELL)
        return;
    for (uint32_t i = 0; i < heat->rows * heat->columns; i++) {
        uint32_t color = colormap_at(bar->colors, bar->low, bar->high, heat->values[i]);
        double x = box.x + (i % heat->columns + 0.5) * across;
        double y = box.y + (i / heat->columns + 0.5) * down;
        char text[16];
        snprintf(text, sizeof(text), "%.2f", heat->values[i]);
        if (color)
            page_text(drawing->canvas, text, x, y, SIZE_TICK - 0.5, ANCHOR_MIDDLE, ink_on(color));
    }
}

static void draw_dividers(struct drawing *drawing, const struct panel *panel, struct box box)
{
    for (uint32_t i = 0; i < panel->divider_count; i++) {
        double y = box.y + box.height * panel->dividers[i] / panel->heat.rows;
        canvas_line(drawing->canvas, (struct point[]){{box.x, y}, {box.x + box.width, y}}, 2,
                    DIVIDER_WIDTH, 0xffffffffu, false);
    }
}

/* Axes ------------------------------------------------------------------------------------------
 */

/* Whether a panel has ticks below: without a panel below it, or all have their own. */
static bool is_lowest(const struct panels *panels, uint32_t index)
{
    return !panels->shared || index + panels->columns >= panels->count;
}

static bool is_leftmost(const struct panels *panels, uint32_t index)
{
    return !panels->shared || index % panels->columns == 0;
}

static void draw_axes(struct drawing *drawing, uint32_t index, struct box box)
{
    const struct panels *panels = drawing->panels;
    const struct panel *panel = &panels->items[index];
    struct fonts *fonts = drawing->page->fonts;
    if (is_lowest(panels, index))
        cell_axis_draw(&panel->x, &drawing->layout.x[index], fonts, true, box, drawing->canvas);
    if (is_leftmost(panels, index))
        cell_axis_draw(&panel->y, &drawing->layout.y[index], fonts, false, box, drawing->canvas);
}

/* Beside the ticks of a box, which is one panel's or goes around all of them. */
static void draw_axis_titles(struct drawing *drawing, uint32_t index, struct box box)
{
    const struct panel *panel = &drawing->panels->items[index];
    uint32_t column = index % drawing->panels->columns;
    double below = box.y + box.height + drawing->layout.ticks_below + 4 + SIZE_NAME / 2;
    double left = box.x - drawing->layout.ticks_left[column] - 4 - SIZE_NAME / 2;
    page_text(drawing->canvas, cell_axis_title(&panel->x, &drawing->layout.x[index]),
              box.x + box.width / 2, below, SIZE_NAME, ANCHOR_MIDDLE, COLOR_TEXT);
    page_text_up(drawing->canvas, cell_axis_title(&panel->y, &drawing->layout.y[index]), left,
                 box.y + box.height / 2, SIZE_NAME, ANCHOR_MIDDLE, COLOR_TEXT);
}

/* "head 12" becomes "12" where there is no room for it. */
static const char *short_title(const char *title, struct fonts *fonts, double room)
{
    const char *blank = strrchr(title, ' ');
    bool is_long = fonts_width(fonts, title, SIZE_NAME, false) > room;
    return is_long && blank && blank[1] >= '0' && blank[1] <= '9' ? blank + 1 : title;
}

/* Over a map's own width, and as much of what is beside it on both sides. */
static double title_room(const struct drawing *drawing, uint32_t column, struct box box)
{
    const struct panels_layout *layout = &drawing->layout;
    if (drawing->panels->shared)
        return box.width + fmax(0, layout->beside - 3);
    return box.width + 2 * fmin(MARGIN + layout->side[column], fmax(0, layout->beside - 4));
}

static void draw_panel_title(struct drawing *drawing, const struct panel *panel, uint32_t column,
                             struct box box)
{
    char words[PANEL_TITLE_MAX + 8];
    struct fonts *fonts = drawing->page->fonts;
    double room = title_room(drawing, column, box);
    snprintf(words, sizeof(words), "%s", short_title(panel->title, fonts, room));
    fonts_shorten(fonts, SIZE_NAME, room, words, sizeof(words));
    page_text(drawing->canvas, words, box.x + box.width / 2, box.y - 3 - SIZE_NAME / 2, SIZE_NAME,
              ANCHOR_MIDDLE, COLOR_TEXT);
}

/* The whole figure -------------------------------------------------------------------------------
 */

static void draw_panel(struct drawing *drawing, uint32_t index)
{
    const struct panels *panels = drawing->panels;
    const struct panel *panel = &panels->items[index];
    const struct bar *bar = &drawing->bars[panels->shared ? 0 : index];
    struct box box = panels_layout_box(&drawing->layout, panels, index);
    if (drawing->missing[index] > 0)
        canvas_hatch(drawing->canvas, box);
    draw_heat(drawing, &panel->heat, bar, box);
    draw_dividers(drawing, panel, box);
    if (panels->numbers)
        draw_numbers(drawing, &panel->heat, bar, box);
    canvas_frame(drawing->canvas, box, LINE_AXIS, COLOR_AXIS);
    draw_axes(drawing, index, box);
    draw_panel_title(drawing, panel, index % panels->columns, box);
    if (panels->shared)
        return;
    bar_draw(bar, drawing->page->fonts, box, drawing->canvas);
    draw_axis_titles(drawing, index, box);
}

/* The legend ------------------------------------------------------------------------------------
 */

struct legend {
    char words[LEGEND_MOST][LEGEND_TEXT_MAX];
    uint32_t color[LEGEND_MOST]; /* 0 = hatched */
    uint32_t count;
};

static void add_entry(struct legend *legend, const char *words, uint32_t color)
{
    snprintf(legend->words[legend->count], LEGEND_TEXT_MAX, "%s", words);
    legend->color[legend->count++] = color;
}

static void add_count(struct legend *legend, const char *what, uint64_t count)
{
    char words[LEGEND_TEXT_MAX];
    snprintf(words, sizeof(words), "%s: %" PRIu64 " cell%s", what, count, count == 1 ? "" : "s");
    if (count > 0)
        add_entry(legend, words, 0);
}

static struct legend make_legend(const struct drawing *drawing)
{
    struct legend legend = {.count = 0};
    add_count(&legend, "not a number", drawing->range.missing);
    add_count(&legend, "infinite", drawing->range.infinite);
    if (drawing->masked)
        add_entry(&legend, "masked (causal)", HEAT_MASKED);
    if (drawing->padded)
        add_entry(&legend, "padding", HEAT_PADDED);
    return legend;
}

static void draw_entry(struct drawing *drawing, const char *words, uint32_t color, double x,
                       double y)
{
    struct box swatch = {x, y - SWATCH / 2, SWATCH, SWATCH};
    if (color == 0)
        canvas_hatch(drawing->canvas, swatch);
    else
        canvas_fill(drawing->canvas, swatch, color);
    canvas_frame(drawing->canvas, swatch, LINE_AXIS / 2, COLOR_SOFT);
    page_text(drawing->canvas, words, x + SWATCH + 3, y, SIZE_TICK, ANCHOR_START, COLOR_TEXT);
}

/* Lines of entries that end at the bottom of the figure, when there is a canvas; returns how many
 * lines. */
static uint32_t draw_legend(struct drawing *drawing, const struct legend *legend, double bottom)
{
    double right = drawing->page->width - MARGIN, x = MARGIN;
    uint32_t line = 0;
    for (uint32_t i = 0; i < legend->count; i++) {
        char words[LEGEND_TEXT_MAX + 8];
        snprintf(words, sizeof(words), "%s", legend->words[i]);
        fonts_shorten(drawing->page->fonts, SIZE_TICK, right - MARGIN - SWATCH - 3, words,
                      sizeof(words));
        double width = SWATCH + 3 + fonts_width(drawing->page->fonts, words, SIZE_TICK, false);
        if (x > MARGIN && x + width > right) {
            x = MARGIN;
            line++;
        }
        if (drawing->canvas)
            draw_entry(drawing, words, legend->color[i], x, bottom + line * LEGEND_LINE);
        x += width + 10;
    }
    return legend->count > 0 ? line + 1 : 0;
}

static void draw_all(struct drawing *drawing)
{
    page_title(drawing->page, drawing->canvas);
    for (uint32_t i = 0; i < drawing->panels->count; i++)
        draw_panel(drawing, i);
    if (drawing->panels->shared) {
        struct box all = panels_fit_outline(&drawing->layout, drawing->panels);
        bar_draw(&drawing->bars[0], drawing->page->fonts, all, drawing->canvas);
        draw_axis_titles(drawing, 0, all);
    }
    struct legend legend = make_legend(drawing);
    draw_legend(drawing, &legend,
                drawing->layout.height - MARGIN - drawing->layout.legend + LEGEND_LINE / 2 + 3);
}

static int draw_laid_out(struct drawing *drawing, struct bytes *ret_file)
{
    const struct page *page = drawing->page;
    int rc = canvas_new(page->format, drawing->layout.width, drawing->layout.height, page->dpi,
                        page->fonts, &drawing->canvas);
    if (rc != 0)
        return rc;
    draw_all(drawing);
    rc = drawing->failed ? ERR_MEMORY : canvas_finish(drawing->canvas, ret_file);
    canvas_free(&drawing->canvas);
    return rc;
}

static int measure_and_draw(struct drawing *drawing, struct bytes *ret_file,
                            struct panels_trouble *ret_trouble)
{
    measure_all(drawing);
    if (drawing->range.least > drawing->range.most)
        return PANELS_NO_NUMBER;
    if (drawing->range.most < drawing->panels->low) {
        *ret_trouble =
            (struct panels_trouble){.least = drawing->range.least, .most = drawing->range.most};
        return PANELS_ALL_BELOW;
    }
    struct legend legend = make_legend(drawing);
    uint32_t lines = draw_legend(drawing, &legend, 0);
    int rc =
        panels_fit(drawing->panels, drawing->bars, drawing->page,
                   lines > 0 ? 3 + lines * LEGEND_LINE : 0, &drawing->layout, &ret_trouble->page);
    if (rc == 0)
        rc = draw_laid_out(drawing, ret_file);
    panels_layout_clear(&drawing->layout);
    return rc;
}

int panels_draw(const struct panels *panels, const struct page *page, struct bytes *ret_file,
                struct panels_trouble *ret_trouble)
{
    struct panels own = *panels;
    struct drawing drawing = {.panels = &own, .page = page};
    own.items = malloc(panels->count * sizeof(*own.items));
    drawing.bars = calloc(panels->count, sizeof(*drawing.bars));
    drawing.missing = calloc(panels->count, sizeof(*drawing.missing));
    int rc = ERR_MEMORY;
    if (own.items && drawing.bars && drawing.missing) {
        memcpy(own.items, panels->items, panels->count * sizeof(*own.items));
        rc = measure_and_draw(&drawing, ret_file, ret_trouble);
    }
    free(own.items);
    free(drawing.bars);
    free(drawing.missing);
    return rc;
}
