/* SPDX-License-Identifier: MIT */
/* canvas_ops: what a kind of canvas does; see canvas.h. */
#ifndef CLIENTS_CLI_PLOT_CANVAS_OPS_H
#define CLIENTS_CLI_PLOT_CANVAS_OPS_H

#include "clients/cli/plot/canvas.h"

struct canvas_ops {
    void (*fill)(struct canvas *canvas, struct box box, uint32_t color);
    void (*polygon)(struct canvas *canvas, const struct point *points, size_t count,
                    uint32_t color);
    void (*line)(struct canvas *canvas, const struct point *points, size_t count, double width,
                 uint32_t color, bool dashed);
    void (*cells)(struct canvas *canvas, struct box box, const uint32_t *colors, uint32_t rows,
                  uint32_t columns);
    void (*text)(struct canvas *canvas, const struct text *text);
    int (*finish)(struct canvas *canvas, struct bytes *ret_file);
    void (*free)(struct canvas *canvas);
};

/* The first member of every kind's own struct. */
struct canvas {
    const struct canvas_ops *ops;
    struct fonts *fonts; /* borrowed */
    double pixels;       /* per point; 0 = none */
};

/* Viewers smooth images that they enlarge, whatever the file says: the image of a small map has
 * each cell this many times, across and down. */
uint32_t canvas_cell_times(uint32_t rows, uint32_t columns);
/* Writes it: ret_image has rows * times rows, `stride` pixels from one to the next. */
void canvas_repeat_cells(const uint32_t *colors, uint32_t rows, uint32_t columns, uint32_t times,
                         uint32_t *ret_image, size_t stride);

/* Each returns 0 or ERR_MEMORY; the canvas is then the caller's. */
int canvas_new_png(double width, double height, double dpi, struct fonts *fonts,
                   struct canvas **ret_canvas);
int canvas_new_pdf(double width, double height, struct fonts *fonts, struct canvas **ret_canvas);
int canvas_new_svg(double width, double height, struct fonts *fonts, struct canvas **ret_canvas);

/* Dashes of a dashed line: on, off. */
#define DASH_ON  3.0
#define DASH_OFF 2.0
/* Between the anchor, in the middle of the capital letters, and the baseline, in sizes. */
#define CAPITAL_HALF 0.36

#endif
