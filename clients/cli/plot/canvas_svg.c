/* SPDX-License-Identifier: MIT */
/* SVG is written here and not by cairo, which draws the letters of a text one by one: here text
 * stays text, that can be searched, copied and edited. The cells of a map are one image, which says
 * how many they are. Numbers
 * are written without printf, which would follow the locale. */
#include "clients/cli/plot/canvas_ops.h"

#include "proto/err.h"
#include "clients/cli/plot/png_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct svg_canvas {
    struct canvas canvas; /* first */
    FILE *out;
    char *written;
    size_t size;
    bool failed;
};

static FILE *out_of(struct canvas *canvas)
{
    return ((struct svg_canvas *)canvas)->out;
}

/* At most three decimals. */
static void put_number(FILE *out, double number)
{
    long long thousandths = llround(number * 1000);
    int decimals = (int)(llabs(thousandths) % 1000);
    fprintf(out, "%s%lld", thousandths < 0 ? "-" : "", llabs(thousandths) / 1000);
    if (decimals == 0)
        return;
    if (decimals % 100 == 0)
        fprintf(out, ".%d", decimals / 100);
    else if (decimals % 10 == 0)
        fprintf(out, ".%02d", decimals / 10);
    else
        fprintf(out, ".%03d", decimals);
}

static void put_attribute(FILE *out, const char *name, double number)
{
    fprintf(out, " %s=\"", name);
    put_number(out, number);
    putc('"', out);
}

/* `name` is "fill" or "stroke". */
static void put_color(FILE *out, const char *name, uint32_t color)
{
    fprintf(out, " %s=\"#%06" PRIx32 "\"", name, color & 0xffffff);
    if (color >> 24 < 255) {
        fprintf(out, " %s-opacity=\"", name);
        put_number(out, (color >> 24) / 255.0);
        putc('"', out);
    }
}

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            putc(*text, out);
        }
}

static void put_box(FILE *out, struct box box)
{
    put_attribute(out, "x", box.x);
    put_attribute(out, "y", box.y);
    put_attribute(out, "width", box.width);
    put_attribute(out, "height", box.height);
}

static void fill(struct canvas *canvas, struct box box, uint32_t color)
{
    FILE *out = out_of(canvas);
    fputs("<rect", out);
    put_box(out, box);
    put_color(out, "fill", color);
    fputs("/>\n", out);
}

static void put_points(FILE *out, const struct point *points, size_t count)
{
    fputs(" points=\"", out);
    for (size_t i = 0; i < count; i++) {
        fputs(i > 0 ? " " : "", out);
        put_number(out, points[i].x);
        putc(',', out);
        put_number(out, points[i].y);
    }
    putc('"', out);
}

static void polygon(struct canvas *canvas, const struct point *points, size_t count, uint32_t color)
{
    FILE *out = out_of(canvas);
    fputs("<polygon", out);
    put_points(out, points, count);
    put_color(out, "fill", color);
    fputs("/>\n", out);
}

static void line(struct canvas *canvas, const struct point *points, size_t count, double width,
                 uint32_t color, bool dashed)
{
    FILE *out = out_of(canvas);
    fputs("<polyline", out);
    put_points(out, points, count);
    put_color(out, "stroke", color);
    put_attribute(out, "stroke-width", width);
    if (dashed)
        fprintf(out, " stroke-dasharray=\"%d %d\"", (int)DASH_ON, (int)DASH_OFF);
    fputs(" fill=\"none\" stroke-linejoin=\"round\"/>\n", out);
}

static void put_base64(FILE *out, const struct bytes *bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes->size; i += 3) {
        size_t left = bytes->size - i;
        uint32_t group = (uint32_t)bytes->data[i] << 16;
        group |= left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0;
        group |= left > 2 ? bytes->data[i + 2] : 0;
        putc(digits[group >> 18], out);
        putc(digits[group >> 12 & 63], out);
        putc(left > 1 ? digits[group >> 6 & 63] : '=', out);
        putc(left > 2 ? digits[group & 63] : '=', out);
    }
}

/* Returns 0 or ERR_MEMORY. */
static int encode_cells(const uint32_t *colors, uint32_t rows, uint32_t columns,
                        struct bytes *ret_file)
{
    uint32_t times = canvas_cell_times(rows, columns);
    size_t stride = (size_t)columns * times;
    uint32_t *image = malloc(stride * rows * times * sizeof(*image));
    if (!image)
        return ERR_MEMORY;
    canvas_repeat_cells(colors, rows, columns, times, image, stride);
    struct pixels pixels = {.data = image,
                            .width = columns * times,
                            .height = rows * times,
                            .stride = stride,
                            .alpha = true,
                            .smaller = true};
    int rc = png_encode(&pixels, ret_file);
    free(image);
    return rc;
}

static void cells(struct canvas *canvas, struct box box, const uint32_t *colors, uint32_t rows,
                  uint32_t columns)
{
    FILE *out = out_of(canvas);
    struct bytes file;
    if (encode_cells(colors, rows, columns, &file) != 0) {
        ((struct svg_canvas *)canvas)->failed = true;
        return;
    }
    fputs("<image", out);
    put_box(out, box);
    fprintf(out, " data-cells=\"%" PRIu32 "x%" PRIu32 "\"", columns, rows);
    fputs(" preserveAspectRatio=\"none\" image-rendering=\"optimizeSpeed\""
          " style=\"image-rendering:pixelated\" xlink:href=\"data:image/png;base64,",
          out);
    put_base64(out, &file);
    fputs("\"/>\n", out);
    free(file.data);
}

/* Around the anchor; turned there. */
static void put_place(FILE *out, const struct text *text)
{
    double down = CAPITAL_HALF * text->size;
    if (text->angle == 0) {
        put_attribute(out, "x", text->x);
        put_attribute(out, "y", text->y + down);
        return;
    }
    fputs(" transform=\"translate(", out);
    put_number(out, text->x);
    putc(' ', out);
    put_number(out, text->y);
    fputs(") rotate(", out);
    put_number(out, text->angle);
    fputs(")\" x=\"0\"", out);
    put_attribute(out, "y", down);
}

static void text(struct canvas *canvas, const struct text *text)
{
    static const char *const anchors[] = {"start", "middle", "end"};
    FILE *out = out_of(canvas);
    fputs("<text", out);
    put_place(out, text);
    put_attribute(out, "font-size", text->size);
    fprintf(out, " text-anchor=\"%s\"%s", anchors[text->anchor],
            text->bold ? " font-weight=\"bold\"" : "");
    put_color(out, "fill", text->color);
    putc('>', out);
    put_escaped(out, text->words);
    fputs("</text>\n", out);
}

static int finish(struct canvas *canvas, struct bytes *ret_file)
{
    struct svg_canvas *self = (struct svg_canvas *)canvas;
    fputs("</g>\n</svg>\n", self->out);
    bool failed = self->failed || ferror(self->out);
    failed = fclose(self->out) != 0 || failed;
    self->out = NULL;
    if (failed)
        return ERR_MEMORY;
    *ret_file = (struct bytes){(uint8_t *)self->written, self->size};
    self->written = NULL;
    return 0;
}

static void free_canvas(struct canvas *canvas)
{
    struct svg_canvas *self = (struct svg_canvas *)canvas;
    if (self->out)
        fclose(self->out);
    free(self->written);
    free(self);
}

static void put_head(struct svg_canvas *self, double width, double height)
{
    fputs("<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\""
          " width=\"",
          self->out);
    put_number(self->out, width);
    fputs("pt\" height=\"", self->out);
    put_number(self->out, height);
    fputs("pt\" viewBox=\"0 0 ", self->out);
    put_number(self->out, width);
    putc(' ', self->out);
    put_number(self->out, height);
    fputs("\">\n<g font-family=\"", self->out);
    put_escaped(self->out, fonts_family(self->canvas.fonts));
    fputs("\" xml:space=\"preserve\">\n", self->out);
}

int canvas_new_svg(double width, double height, struct fonts *fonts, struct canvas **ret_canvas)
{
    static const struct canvas_ops ops = {fill, polygon, line, cells, text, finish, free_canvas};
    struct svg_canvas *self = calloc(1, sizeof(*self));
    if (!self)
        return ERR_MEMORY;
    self->canvas = (struct canvas){&ops, fonts, 0};
    self->out = open_memstream(&self->written, &self->size);
    if (!self->out) {
        free(self);
        return ERR_MEMORY;
    }
    put_head(self, width, height);
    fill(&self->canvas, (struct box){0, 0, width, height}, 0xffffffff);
    *ret_canvas = &self->canvas;
    return 0;
}
