/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/bar.h"

#include <math.h>

#define GAP         5.0
#define WIDTH       6.0
#define EVERY       22.0 /* from number to number */
#define EVERY_LEAST 9.0  /* where there would be fewer than three otherwise */
#define HEIGHT_MOST 260.0

static struct ticks ticks_of(const struct bar *bar, double height)
{
    struct ticks ticks;
    double most = fmin(height, HEIGHT_MOST) / EVERY;
    ticks_linear(bar->low, bar->high, most < 8 ? (uint32_t)most : 8, 0, &ticks);
    for (uint32_t more = 3; ticks.count < 3 && more * EVERY_LEAST < height && more < 8; more++)
        ticks_linear(bar->low, bar->high, more, 0, &ticks);
    ticks_thin(&ticks, (uint32_t)(height / EVERY_LEAST));
    return ticks;
}

static double numbers_end(const struct bar *bar, struct fonts *fonts, double height)
{
    struct ticks ticks = ticks_of(bar, height);
    return GAP + WIDTH + TICK + TICK_GAP + page_ticks_width(fonts, &ticks);
}

double bar_room(const struct bar *bar, struct fonts *fonts, double height)
{
    return numbers_end(bar, fonts, height) + (*bar->title ? 4 + SIZE_NAME : 0);
}

/* The points beyond its ends are within the height of the box. */
static struct box place_of(const struct bar *bar, struct box box)
{
    double above = bar->above ? WIDTH : 0, below = bar->below ? WIDTH : 0;
    return (struct box){box.x + box.width + GAP, box.y + above, WIDTH, box.height - above - below};
}

static void draw_colors(const struct bar *bar, struct box box, struct canvas *canvas)
{
    uint32_t colors[256];
    for (uint32_t i = 0; i < 256; i++)
        colors[i] = bar->colors->color[255 - i];
    canvas_cells(canvas, box, colors, 256, 1);
}

/* A point beyond an end: y at its tip. */
static void draw_tip(struct box box, double base, double tip, uint32_t color, struct canvas *canvas)
{
    struct point points[3] = {
        {box.x, base}, {box.x + box.width / 2, tip}, {box.x + box.width, base}};
    canvas_polygon(canvas, points, 3, color);
    canvas_line(canvas, points, 3, LINE_AXIS, COLOR_AXIS, false);
}

static void draw_numbers(const struct bar *bar, struct box box, struct canvas *canvas)
{
    struct ticks ticks = ticks_of(bar, box.height);
    double right = box.x + box.width;
    for (uint32_t i = 0; i < ticks.count; i++) {
        char text[TICK_TEXT_MAX];
        double share = (ticks.at[i] - bar->low) / (bar->high - bar->low);
        double y = box.y + (1 - share) * box.height;
        ticks_text(&ticks, i, text);
        canvas_line(canvas, (struct point[]){{right, y}, {right + TICK, y}}, 2, LINE_AXIS,
                    COLOR_AXIS, false);
        page_text(canvas, text, right + TICK + TICK_GAP, y, SIZE_TICK, ANCHOR_START, COLOR_TEXT);
    }
}

void bar_draw(const struct bar *bar, struct fonts *fonts, struct box box, struct canvas *canvas)
{
    struct box place = place_of(bar, box);
    double end = box.x + box.width + numbers_end(bar, fonts, box.height);
    draw_colors(bar, place, canvas);
    if (bar->above)
        draw_tip(place, place.y, place.y - WIDTH, bar->colors->color[255], canvas);
    if (bar->below)
        draw_tip(place, place.y + place.height, place.y + place.height + WIDTH,
                 bar->colors->color[0], canvas);
    canvas_frame(canvas, place, LINE_AXIS, COLOR_AXIS);
    draw_numbers(bar, place, canvas);
    page_text_up(canvas, bar->title, end + 4 + SIZE_NAME / 2, place.y + place.height / 2, SIZE_NAME,
                 ANCHOR_MIDDLE, COLOR_TEXT);
}
