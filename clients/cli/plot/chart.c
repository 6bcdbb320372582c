/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/chart.h"

#include "clients/cli/plot/chart_scale.h"
#include "proto/err.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASPECT      0.62 /* height by width of the axes */
#define DOT         2.4
#define SAMPLE      12.0 /* the piece of a line in the legend */
#define LEGEND_LINE 9.5
#define LEGEND_GAP  9.0
#define TEXT_SHARE  0.25
#define RIGHT       6.0  /* room of the last number of the x axis */
#define MARK_WIDE   1.5  /* of a marked bar, at least */
#define ENTRY_MAX   512  /* bytes of a text in the legend */
#define SIDE_MIN    24.0 /* of the axes */

/* What is left out where there is no room; each leaves out what those before it do, too. */
enum without { WITHOUT_NOTHING, WITHOUT_TITLES, WITHOUT_LEGEND, WITHOUT_TICKS };

/* One chart while it is drawn. */
struct charting {
    const struct chart *chart;
    const struct page *page;
    struct canvas *canvas;
    struct box box; /* of the axes */
    double height;  /* of the figure */
    double ticks_below;
    struct axis_scale x, y;
    struct ticks x_ticks, y_ticks;
    struct cell_axis_plan cells;
    enum without without;
};

uint32_t chart_color(uint32_t index)
{
    static const uint32_t colors[8] = {0xff0072b2, 0xffd55e00, 0xff009e73, 0xffcc79a7,
                                       0xffe69f00, 0xff56b4e9, 0xff7f7f7f, 0xff000000};
    return colors[index % 8];
}

/* The legend ------------------------------------------------------------------------------------
 */

struct entry {
    const char *name;
    uint32_t color;
    double thick; /* of its sample: a line's width, or a band's */
    bool upright;
};

/* The entry of a number; false behind the last. */
static bool entry_at(const struct chart *chart, uint32_t index, struct entry *ret_entry)
{
    for (uint32_t i = 0; i < chart->line_count; i++)
        if (*chart->lines[i].name && index-- == 0) {
            *ret_entry = (struct entry){chart->lines[i].name, chart->lines[i].color,
                                        fmax(1, chart->lines[i].width), false};
            return true;
        }
    for (uint32_t i = 0; i < chart->band_count; i++)
        if (*chart->bands[i].name && index-- == 0) {
            *ret_entry = (struct entry){chart->bands[i].name, chart->bands[i].color, 6, false};
            return true;
        }
    if (chart->bars && *chart->bar_mark_name && index-- == 0) {
        *ret_entry = (struct entry){chart->bar_mark_name, chart->bar_mark, 6, false};
        return true;
    }
    if (chart->mark_count > 0 && index == 0) {
        *ret_entry = (struct entry){chart->mark_name, chart->marks[0].color, 1, true};
        return true;
    }
    return false;
}

static void draw_sample(const struct charting *charting, const struct entry *entry, double x,
                        double y)
{
    struct point across[2] = {{x, y}, {x + SAMPLE, y}};
    struct point up[2] = {{x + SAMPLE / 2, y - 4}, {x + SAMPLE / 2, y + 4}};
    canvas_line(charting->canvas, entry->upright ? up : across, 2, entry->thick, entry->color,
                entry->upright);
}

/* An entry's text, cut to so many points; returns its width. */
static double entry_text(const struct charting *charting, const struct entry *entry, double room,
                         char ret_text[ENTRY_MAX])
{
    struct fonts *fonts = charting->page->fonts;
    snprintf(ret_text, ENTRY_MAX - 8, "%s", entry->name);
    fonts_shorten(fonts, SIZE_TICK, room, ret_text, ENTRY_MAX);
    return fonts_width(fonts, ret_text, SIZE_TICK, false);
}

/* Lays the entries out in lines; draws them from `top` on when there is a canvas. Returns the
 * height.
 */
static double legend(const struct charting *charting, double top)
{
    double left = MARGIN + 4, right = charting->page->width - MARGIN, x = left, y = 0;
    struct entry entry;
    if (charting->without >= WITHOUT_LEGEND)
        return 0;
    for (uint32_t i = 0; entry_at(charting->chart, i, &entry); i++) {
        char name[ENTRY_MAX];
        double width = SAMPLE + 3 + entry_text(charting, &entry, right - left - SAMPLE - 3, name);
        if (x > left && x + width > right) {
            x = left;
            y += LEGEND_LINE;
        }
        if (charting->canvas) {
            double middle = top + y + LEGEND_LINE / 2;
            draw_sample(charting, &entry, x, middle);
            page_text(charting->canvas, name, x + SAMPLE + 3, middle, SIZE_TICK, ANCHOR_START,
                      COLOR_TEXT);
        }
        x += width + LEGEND_GAP;
    }
    return x > left ? y + LEGEND_LINE + 3 : 0;
}

/* The layout ------------------------------------------------------------------------------------
 */

static void choose_ticks(struct charting *charting)
{
    double across = charting->box.width / 34, down = fmax(0, charting->box.height) / 16;
    if (charting->chart->bars)
        charting->cells =
            cell_axis_plan(&charting->chart->cells, charting->page->fonts, true,
                           charting->box.width, TEXT_SHARE * charting->page->width, NULL);
    else
        ticks_linear(charting->x.low, charting->x.high, across < 10 ? (uint32_t)across : 10, 1,
                     &charting->x_ticks);
    if (charting->y.powers)
        ticks_powers(charting->y.low, charting->y.high, 8, &charting->y_ticks);
    if (charting->y.powers && charting->y_ticks.count > 0.9 * down)
        ticks_thin(&charting->y_ticks, (uint32_t)(0.9 * down));
    if (charting->y.powers && charting->y_ticks.count >= 2)
        return;
    ticks_linear(charting->y.low, charting->y.high, down < 8 ? (uint32_t)down : 8, 0,
                 &charting->y_ticks);
}

static double title_room(const struct charting *charting)
{
    return charting->without >= WITHOUT_TITLES ? 0 : SIZE_NAME + 4;
}

static double left_room(const struct charting *charting)
{
    double ticks = page_ticks_width(charting->page->fonts, &charting->y_ticks) + TICK + TICK_GAP;
    return MARGIN + title_room(charting) + (charting->without >= WITHOUT_TICKS ? 0 : ticks);
}

static double ticks_room(const struct charting *charting)
{
    if (charting->without >= WITHOUT_TICKS)
        return 0;
    return charting->chart->bars ? charting->cells.room : TICK + TICK_GAP + SIZE_TICK;
}

/* Whether the axes are long enough to be looked at, and their titles no longer than they. */
static bool fits(const struct charting *charting)
{
    struct fonts *fonts = charting->page->fonts;
    struct box box = charting->box;
    if (box.width < SIDE_MIN || box.height < SIDE_MIN)
        return false;
    return charting->without >= WITHOUT_TITLES ||
           (fonts_width(fonts, charting->chart->y_title, SIZE_NAME, false) <= box.height + 8 &&
            fonts_width(fonts, charting->chart->x_title, SIZE_NAME, false) <= box.width + 8);
}

/* Returns whether there is room for everything. */
static bool lay_out(struct charting *charting)
{
    const struct page *page = charting->page;
    double top = MARGIN + page_title_room(page) + 3;
    charting->box = (struct box){0, top, 0.8 * page->width, ASPECT * 0.8 * page->width};
    choose_ticks(charting);
    double left = left_room(charting);
    charting->box.x = left;
    charting->box.width = page->width - left - MARGIN - RIGHT;
    charting->box.height = ASPECT * charting->box.width;
    if (charting->box.width < SIDE_MIN)
        return false;
    choose_ticks(charting);
    charting->ticks_below = ticks_room(charting);
    double below = charting->ticks_below + title_room(charting) + legend(charting, 0) + MARGIN;
    charting->height = page->height > 0 ? page->height : top + charting->box.height + below;
    charting->box.height = charting->height - top - below;
    choose_ticks(charting);
    return fits(charting);
}

static bool is_enough(void *data, const struct page *page)
{
    struct charting charting = *(const struct charting *)data;
    charting.page = page;
    return lay_out(&charting);
}

/* Leaves out what there is no room for. */
static int fit(struct charting *charting, struct page *ret_least)
{
    while (!lay_out(charting)) {
        if (charting->without == WITHOUT_TICKS) {
            *ret_least = *charting->page;
            page_grow(ret_least, is_enough, charting);
            return PAGE_TOO_SMALL;
        }
        charting->without++;
    }
    return 0;
}

/* What is in the axes ---------------------------------------------------------------------------
 */

static double at_x(const struct charting *charting, double x)
{
    return page_scale(&charting->x, x, charting->box.x, charting->box.x + charting->box.width);
}

/* Kept in the box. */
static double at_y(const struct charting *charting, double y)
{
    const struct axis_scale *scale = &charting->y;
    double limited = fmin(scale->high, fmax(scale->low, y));
    return page_scale(scale, limited, charting->box.y + charting->box.height, charting->box.y);
}

static bool is_shown(const struct charting *charting, double y)
{
    return isfinite(y) && (!charting->y.powers || y > 0);
}

static void draw_grid(const struct charting *charting)
{
    double left = charting->box.x, right = left + charting->box.width;
    for (uint32_t i = 0; i < charting->y_ticks.count; i++) {
        double y = at_y(charting, charting->y_ticks.at[i]);
        canvas_line(charting->canvas, (struct point[]){{left, y}, {right, y}}, 2, 0.5, COLOR_GRID,
                    false);
    }
}

static void draw_dots(const struct charting *charting, const struct point *points, uint32_t count,
                      uint32_t color)
{
    for (uint32_t i = 0; i < count; i++) {
        struct box dot = {points[i].x - DOT / 2, points[i].y - DOT / 2, DOT, DOT};
        canvas_fill(charting->canvas, dot, color);
    }
}

/* The pieces between gaps; `points` has room for all of it. */
static void draw_line(const struct charting *charting, const struct chart_line *line,
                      struct point *points)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i <= line->count; i++) {
        bool there = i < line->count && is_shown(charting, line->y[i]);
        if (there) {
            points[count++] =
                (struct point){at_x(charting, line->x[i]), at_y(charting, line->y[i])};
            continue;
        }
        canvas_line(charting->canvas, points, count, line->width, line->color, false);
        if (line->dots || count == 1)
            draw_dots(charting, points, count, line->color);
        count = 0;
    }
}

static void draw_band(const struct charting *charting, const struct chart_band *band,
                      struct point *points)
{
    for (uint32_t begin = 0, end; begin < band->count; begin = end + 1) {
        for (end = begin; end < band->count; end++)
            if (!is_shown(charting, band->low[end]) || !is_shown(charting, band->high[end]))
                break;
        uint32_t count = end - begin;
        for (uint32_t i = 0; i < count; i++) {
            double x = at_x(charting, band->x[begin + i]);
            points[i] = (struct point){x, at_y(charting, band->high[begin + i])};
            points[2 * count - 1 - i] = (struct point){x, at_y(charting, band->low[begin + i])};
        }
        canvas_polygon(charting->canvas, points, 2 * (size_t)count, band->color);
    }
}

/* Those of the marked colour, or the others. */
static void draw_bars(const struct charting *charting, bool marks)
{
    const struct chart *chart = charting->chart;
    double step = charting->box.width / chart->cells.count, wide = step * (step > 3 ? 0.8 : 1);
    double zero = at_y(charting, fmax(0, charting->y.low));
    for (uint32_t i = 0; i < chart->cells.count; i++) {
        bool marked = chart->bar_colors[i] == chart->bar_mark;
        double width = marked ? fmax(wide, MARK_WIDE) : wide;
        double x = charting->box.x + (i + 0.5) * step - width / 2;
        double y = at_y(charting, chart->bars[i]);
        if (marked == marks && is_shown(charting, chart->bars[i]))
            canvas_fill(charting->canvas, (struct box){x, fmin(y, zero), width, fabs(zero - y)},
                        chart->bar_colors[i]);
    }
}

static void draw_marks(const struct charting *charting)
{
    double top = charting->box.y, bottom = top + charting->box.height;
    for (uint32_t i = 0; i < charting->chart->mark_count; i++) {
        const struct chart_mark *mark = &charting->chart->marks[i];
        double x = at_x(charting, mark->x);
        if (x < charting->box.x - 0.01 || x > charting->box.x + charting->box.width + 0.01)
            continue;
        uint32_t color = mark->ended ? (mark->color & 0xffffff) | 0x60000000 : mark->color;
        canvas_line(charting->canvas, (struct point[]){{x, top}, {x, bottom}}, 2, 1, color, true);
    }
}

static void draw_values(const struct charting *charting, struct point *points)
{
    const struct chart *chart = charting->chart;
    for (uint32_t i = 0; i < chart->band_count; i++)
        draw_band(charting, &chart->bands[i], points);
    for (int marks = 0; chart->bars && marks < 2; marks++)
        draw_bars(charting, marks);
    draw_marks(charting);
    for (uint32_t i = 0; i < chart->line_count; i++)
        draw_line(charting, &chart->lines[i], points);
}

/* Everything ------------------------------------------------------------------------------------
 */

static void draw_ticks(const struct charting *charting)
{
    page_ticks_left(charting->canvas, charting->box, &charting->y_ticks, &charting->y);
    if (charting->chart->bars)
        cell_axis_draw(&charting->chart->cells, &charting->cells, charting->page->fonts, true,
                       charting->box, charting->canvas);
    else
        page_ticks_below(charting->canvas, charting->box, &charting->x_ticks, &charting->x);
}

static void draw_axes(const struct charting *charting)
{
    struct box box = charting->box;
    double bottom = box.y + box.height, below = bottom + charting->ticks_below;
    struct point corner[3] = {{box.x, box.y}, {box.x, bottom}, {box.x + box.width, bottom}};
    canvas_line(charting->canvas, corner, 3, LINE_AXIS, COLOR_AXIS, false);
    if (charting->without < WITHOUT_TICKS)
        draw_ticks(charting);
    if (charting->without < WITHOUT_TITLES) {
        page_text(charting->canvas, charting->chart->x_title, box.x + box.width / 2,
                  below + 4 + SIZE_NAME / 2, SIZE_NAME, ANCHOR_MIDDLE, COLOR_TEXT);
        page_text_up(charting->canvas, charting->chart->y_title, MARGIN + SIZE_NAME / 2,
                     box.y + box.height / 2, SIZE_NAME, ANCHOR_MIDDLE, COLOR_TEXT);
    }
    legend(charting, below + title_room(charting) + 3);
}

static size_t most_points(const struct chart *chart)
{
    size_t most = 1;
    for (uint32_t i = 0; i < chart->line_count; i++)
        most = chart->lines[i].count > most ? chart->lines[i].count : most;
    for (uint32_t i = 0; i < chart->band_count; i++)
        most = 2 * (size_t)chart->bands[i].count > most ? 2 * (size_t)chart->bands[i].count : most;
    return most;
}

static int draw(struct charting *charting, struct bytes *ret_file)
{
    struct point *points = malloc(most_points(charting->chart) * sizeof(*points));
    if (!points)
        return ERR_MEMORY;
    page_title(charting->page, charting->canvas);
    draw_grid(charting);
    draw_values(charting, points);
    draw_axes(charting);
    free(points);
    return canvas_finish(charting->canvas, ret_file);
}

int chart_draw(const struct chart *chart, const struct page *page, struct bytes *ret_file,
               struct page *ret_least)
{
    struct charting charting = {.chart = chart, .page = page};
    int rc = chart_scales(chart, &charting.x, &charting.y);
    if (rc != 0)
        return rc;
    rc = fit(&charting, ret_least);
    if (rc != 0)
        return rc;
    rc = canvas_new(page->format, page->width, charting.height, page->dpi, page->fonts,
                    &charting.canvas);
    if (rc != 0)
        return rc;
    rc = draw(&charting, ret_file);
    canvas_free(&charting.canvas);
    return rc;
}
