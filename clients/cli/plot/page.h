/* SPDX-License-Identifier: MIT */
/* page: what all figures have in common: size, fonts, title, and what lines and text look like. */
#ifndef CLIENTS_CLI_PLOT_PAGE_H
#define CLIENTS_CLI_PLOT_PAGE_H

#include "clients/cli/plot/canvas.h"
#include "clients/cli/plot/ticks.h"

/* Points. Made for a column of 3.3 in, where figures are not made smaller any more. */
#define SIZE_TITLE 8.0
#define SIZE_NAME  7.5 /* of axes */
#define SIZE_TICK  6.5
#define LINE_TICK  8.0 /* from line to line */
#define MARGIN     4.0 /* around everything */
#define TICK       2.5 /* a tick's length */
#define TICK_GAP   2.0 /* from a tick to its number */
#define LINE_AXIS  0.6 /* widths */
#define COLOR_TEXT 0xff1a1a1au
#define COLOR_AXIS 0xff333333u
#define COLOR_SOFT 0xff666666u
#define COLOR_GRID 0xffe3e3e3u

#define INCH 72.0

struct page {
    enum canvas_format format;
    double width, height; /* points; height 0 = as the figure needs */
    double dpi;
    struct fonts *fonts; /* borrowed */
    const char *title;   /* "" = none */
};

/* A figure cannot be drawn that small. */
#define PAGE_TOO_SMALL 2

/* What sizes to try grow by. */
#define PAGE_STEP (INCH / 10)
/* A page's size, as people say it: "3.3x2.8" inches, or "3.3" without a height. */
#define PAGE_SIZE_MAX 32
void page_size_text(const struct page *page, char ret_text[PAGE_SIZE_MAX]);
/* Makes a page larger until `fits` says so, first in width. Returns 0, or -1 when none does. */
typedef bool page_fits(void *data, const struct page *page);
int page_grow(struct page *page, page_fits *fits, void *data);

/* Room that the title takes. */
double page_title_room(const struct page *page);
/* Draws it, shortened to the page's width. */
void page_title(const struct page *page, struct canvas *canvas);

/* One line of text, by its anchor. */
void page_text(struct canvas *canvas, const char *words, double x, double y, double size,
               enum anchor anchor, uint32_t color);
/* The same from bottom to top. */
void page_text_up(struct canvas *canvas, const char *words, double x, double y, double size,
                  enum anchor anchor, uint32_t color);
/* Widest of the ticks' numbers. */
double page_ticks_width(struct fonts *fonts, const struct ticks *ticks);

/* Ticks with their numbers below, or to the left of a box; from low to high in it. */
struct axis_scale {
    double low, high;
    bool powers; /* by logarithms; low > 0 */
};
double page_scale(const struct axis_scale *scale, double value, double from, double to);
void page_ticks_below(struct canvas *canvas, struct box box, const struct ticks *ticks,
                      const struct axis_scale *scale);
void page_ticks_left(struct canvas *canvas, struct box box, const struct ticks *ticks,
                     const struct axis_scale *scale);

#endif
