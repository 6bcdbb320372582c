/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/page.h"

#include "clients/cli/plot/label.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TITLE_LINE (SIZE_TITLE + 2)
#define GROWN_MOST (200 * INCH)

static double tenths(double points)
{
    return ceil(points / PAGE_STEP - 1e-6) / 10;
}

void page_size_text(const struct page *page, char ret_text[PAGE_SIZE_MAX])
{
    if (page->height > 0)
        snprintf(ret_text, PAGE_SIZE_MAX, "%gx%g", page->width / INCH, page->height / INCH);
    else
        snprintf(ret_text, PAGE_SIZE_MAX, "%g", page->width / INCH);
}

int page_grow(struct page *page, page_fits *fits, void *data)
{
    struct page wide = *page;
    wide.height = 0;
    wide.width = tenths(page->width) * INCH;
    while (!fits(data, &wide) && wide.width < GROWN_MOST)
        wide.width += PAGE_STEP;
    page->width = tenths(wide.width) * INCH;
    page->height = tenths(page->height) * INCH;
    while (page->height > 0 && !fits(data, page) && page->height < GROWN_MOST)
        page->height += PAGE_STEP;
    page->height = tenths(page->height) * INCH;
    return fits(data, page) ? 0 : -1;
}

static double title_width(const struct page *page)
{
    return page->width - 2 * MARGIN;
}

static bool fits(const struct page *page, const char *words)
{
    return fonts_width(page->fonts, words, SIZE_TITLE, false) <= title_width(page);
}

/* Behind the last blank before which everything fits; 0 = there is none. */
static size_t last_blank(const struct page *page, bool after_comma)
{
    char words[TITLE_MAX + 8];
    snprintf(words, sizeof(words), "%s", page->title);
    for (char *blank; (blank = strrchr(words, ' ')) != NULL;) {
        *blank = '\0';
        bool may_break = blank > words && (blank[-1] == ',' || !after_comma);
        if (may_break && fits(page, words))
            return (size_t)(blank - words) + 1;
    }
    return 0;
}

/* Where the second line of a title begins that is too long for one; 0 = it has one line. */
static size_t title_break(const struct page *page)
{
    if (fits(page, page->title))
        return 0;
    size_t place = last_blank(page, true);
    return place > 0 ? place : last_blank(page, false);
}

double page_title_room(const struct page *page)
{
    return *page->title ? SIZE_TITLE + 5 + (title_break(page) > 0 ? TITLE_LINE : 0) : 0;
}

/* What is too long even so is cut. */
static void title_line(const struct page *page, struct canvas *canvas, const char *text,
                       size_t length, double y)
{
    char words[TITLE_MAX + 8];
    snprintf(words, sizeof(words), "%.*s", (int)length, text);
    fonts_shorten(page->fonts, SIZE_TITLE, title_width(page), words, sizeof(words));
    page_text(canvas, words, page->width / 2, y, SIZE_TITLE, ANCHOR_MIDDLE, COLOR_TEXT);
}

void page_title(const struct page *page, struct canvas *canvas)
{
    size_t second = title_break(page), all = strlen(page->title);
    double y = MARGIN + SIZE_TITLE / 2;
    title_line(page, canvas, page->title, second > 0 ? second - 1 : all, y);
    if (second > 0)
        title_line(page, canvas, page->title + second, all - second, y + TITLE_LINE);
}

void page_text(struct canvas *canvas, const char *words, double x, double y, double size,
               enum anchor anchor, uint32_t color)
{
    canvas_text(canvas, &(struct text){words, x, y, size, 0, anchor, false, color});
}

void page_text_up(struct canvas *canvas, const char *words, double x, double y, double size,
                  enum anchor anchor, uint32_t color)
{
    canvas_text(canvas, &(struct text){words, x, y, size, -90, anchor, false, color});
}

double page_ticks_width(struct fonts *fonts, const struct ticks *ticks)
{
    double widest = 0;
    for (uint32_t i = 0; i < ticks->count; i++) {
        char text[TICK_TEXT_MAX];
        ticks_text(ticks, i, text);
        widest = fmax(widest, fonts_width(fonts, text, SIZE_TICK, false));
    }
    return widest;
}

double page_scale(const struct axis_scale *scale, double value, double from, double to)
{
    double share = scale->powers ? log(value / scale->low) / log(scale->high / scale->low)
                                 : (value - scale->low) / (scale->high - scale->low);
    return from + share * (to - from);
}

void page_ticks_below(struct canvas *canvas, struct box box, const struct ticks *ticks,
                      const struct axis_scale *scale)
{
    double bottom = box.y + box.height;
    for (uint32_t i = 0; i < ticks->count; i++) {
        char text[TICK_TEXT_MAX];
        double x = page_scale(scale, ticks->at[i], box.x, box.x + box.width);
        canvas_line(canvas, (struct point[]){{x, bottom}, {x, bottom + TICK}}, 2, LINE_AXIS,
                    COLOR_AXIS, false);
        ticks_text(ticks, i, text);
        page_text(canvas, text, x, bottom + TICK + TICK_GAP + SIZE_TICK / 2, SIZE_TICK,
                  ANCHOR_MIDDLE, COLOR_TEXT);
    }
}

void page_ticks_left(struct canvas *canvas, struct box box, const struct ticks *ticks,
                     const struct axis_scale *scale)
{
    for (uint32_t i = 0; i < ticks->count; i++) {
        char text[TICK_TEXT_MAX];
        double y = page_scale(scale, ticks->at[i], box.y + box.height, box.y);
        canvas_line(canvas, (struct point[]){{box.x - TICK, y}, {box.x, y}}, 2, LINE_AXIS,
                    COLOR_AXIS, false);
        ticks_text(ticks, i, text);
        page_text(canvas, text, box.x - TICK - TICK_GAP, y, SIZE_TICK, ANCHOR_END, COLOR_TEXT);
    }
}
