/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/canvas_ops.h"

#include <math.h>

/* Pixels that the longer side of a map's image has at least, in PDF and SVG. */
#define IMAGE_MIN 512

#define HATCH_GROUND 0xffe4e4e4u
#define HATCH_LINE   0xffb4b4b4u
#define HATCH_EVERY  4.0

int canvas_new(enum canvas_format format, double width, double height, double dpi,
               struct fonts *fonts, struct canvas **ret_canvas)
{
    switch (format) {
    case CANVAS_SVG:
        return canvas_new_svg(width, height, fonts, ret_canvas);
    case CANVAS_PDF:
        return canvas_new_pdf(width, height, fonts, ret_canvas);
    default:
        return canvas_new_png(width, height, dpi, fonts, ret_canvas);
    }
}

void canvas_free(struct canvas **canvas)
{
    if (*canvas)
        (*canvas)->ops->free(*canvas);
    *canvas = NULL;
}

double canvas_pixels(const struct canvas *canvas)
{
    return canvas->pixels;
}

uint32_t canvas_cell_times(uint32_t rows, uint32_t columns)
{
    uint32_t longer = rows > columns ? rows : columns;
    return (IMAGE_MIN - 1) / longer + 1;
}

void canvas_repeat_cells(const uint32_t *colors, uint32_t rows, uint32_t columns, uint32_t times,
                         uint32_t *ret_image, size_t stride)
{
    for (size_t y = 0; y < (size_t)rows * times; y++)
        for (size_t x = 0; x < (size_t)columns * times; x++)
            ret_image[y * stride + x] = colors[y / times * columns + x / times];
}

void canvas_fill(struct canvas *canvas, struct box box, uint32_t color)
{
    canvas->ops->fill(canvas, box, color);
}

void canvas_polygon(struct canvas *canvas, const struct point *points, size_t count, uint32_t color)
{
    if (count > 2)
        canvas->ops->polygon(canvas, points, count, color);
}

void canvas_line(struct canvas *canvas, const struct point *points, size_t count, double width,
                 uint32_t color, bool dashed)
{
    if (count > 1)
        canvas->ops->line(canvas, points, count, width, color, dashed);
}

void canvas_cells(struct canvas *canvas, struct box box, const uint32_t *colors, uint32_t rows,
                  uint32_t columns)
{
    if (rows > 0 && columns > 0 && box.width > 0 && box.height > 0)
        canvas->ops->cells(canvas, box, colors, rows, columns);
}

void canvas_text(struct canvas *canvas, const struct text *text)
{
    if (*text->words)
        canvas->ops->text(canvas, text);
}

int canvas_finish(struct canvas *canvas, struct bytes *ret_file)
{
    return canvas->ops->finish(canvas, ret_file);
}

/* Lines x + y = c, cut at the box. */
void canvas_hatch(struct canvas *canvas, struct box box)
{
    double right = box.x + box.width, bottom = box.y + box.height;
    canvas_fill(canvas, box, HATCH_GROUND);
    for (double c = HATCH_EVERY / 2; c < box.width + box.height; c += HATCH_EVERY) {
        double x = fmin(right, box.x + c), y = fmin(bottom, box.y + c);
        struct point line[2] = {{x, box.y + (c - (x - box.x))}, {box.x + (c - (y - box.y)), y}};
        canvas_line(canvas, line, 2, 0.5, HATCH_LINE, false);
    }
}

void canvas_frame(struct canvas *canvas, struct box box, double width, uint32_t color)
{
    double right = box.x + box.width, bottom = box.y + box.height;
    struct point line[5] = {
        {box.x, box.y}, {right, box.y}, {right, bottom}, {box.x, bottom}, {box.x, box.y}};
    canvas_line(canvas, line, 5, width, color, false);
}
