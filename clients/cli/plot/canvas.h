/* SPDX-License-Identifier: MIT */
/* canvas: what a figure is drawn on: pixels (PNG), or pages of paths and text (PDF, SVG).
 *
 * Units are points of 1/72 in, the origin is at the top left. Drawing cannot fail; a shortage of
 * memory shows in canvas_finish. The same calls give the same bytes. One thread. */
#ifndef CLIENTS_CLI_PLOT_CANVAS_H
#define CLIENTS_CLI_PLOT_CANVAS_H

#include "clients/cli/plot/fonts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum canvas_format { CANVAS_PNG, CANVAS_SVG, CANVAS_PDF };

struct point {
    double x, y;
};
struct box {
    double x, y, width, height;
};

enum anchor { ANCHOR_START, ANCHOR_MIDDLE, ANCHOR_END };

/* Colours are 0xAARRGGBB, not premultiplied. */
struct text {
    const char *words; /* UTF-8, one line, without control characters */
    double x, y;       /* of the anchor, in the middle of the capital letters' height */
    double size;       /* points */
    double angle;      /* degrees, clockwise */
    enum anchor anchor;
    bool bold;
    uint32_t color;
};

struct bytes {
    uint8_t *data; /* owned */
    size_t size;
};

struct canvas;

/* A white canvas of so many points. `dpi` is of pixels; `fonts` is borrowed. Returns 0 or
 * ERR_MEMORY. */
int canvas_new(enum canvas_format format, double width, double height, double dpi,
               struct fonts *fonts, struct canvas **ret_canvas);
/* Accepts NULL. */
void canvas_free(struct canvas **canvas);
/* Pixels per point; 0 when there are no pixels. */
double canvas_pixels(const struct canvas *canvas);

void canvas_fill(struct canvas *canvas, struct box box, uint32_t color);
void canvas_polygon(struct canvas *canvas, const struct point *points, size_t count,
                    uint32_t color);
/* A line through the points; dashed when asked. */
void canvas_line(struct canvas *canvas, const struct point *points, size_t count, double width,
                 uint32_t color, bool dashed);
/* Cells of one colour each, [rows][columns], without anything between them; what is transparent
 * leaves what was there. */
void canvas_cells(struct canvas *canvas, struct box box, const uint32_t *colors, uint32_t rows,
                  uint32_t columns);
void canvas_text(struct canvas *canvas, const struct text *text);

/* The finished file; nothing may be drawn any more. Returns 0 or ERR_MEMORY. */
int canvas_finish(struct canvas *canvas, struct bytes *ret_file);

/* What a box of no number looks like: grey, with lines across. */
void canvas_hatch(struct canvas *canvas, struct box box);
/* The frame of a box. */
void canvas_frame(struct canvas *canvas, struct box box, double width, uint32_t color);

#endif
