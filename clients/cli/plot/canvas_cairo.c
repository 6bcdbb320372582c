/* SPDX-License-Identifier: MIT */
/* Pixels and PDF pages are both drawn by cairo, but for the cells of a map. In pixels these are
 * written straight into the surface, at whole pixels: nothing of one cell is in another. In PDF
 * they are an image without interpolation. */
#include "clients/cli/plot/canvas_ops.h"

#include "proto/err.h"
#include "clients/cli/plot/png_file.h"

#include <cairo-pdf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cairo_canvas {
    struct canvas canvas; /* first */
    cairo_surface_t *surface;
    cairo_t *cairo;
    double dpi;
    struct bytes file; /* of a PDF, as it grows */
    size_t room;
    bool failed;
};

static struct cairo_canvas *of(struct canvas *canvas)
{
    return (struct cairo_canvas *)canvas;
}

static double channel(uint32_t color, int shift)
{
    return (color >> shift & 0xff) / 255.0;
}

static void set_color(cairo_t *cairo, uint32_t color)
{
    cairo_set_source_rgba(cairo, channel(color, 16), channel(color, 8), channel(color, 0),
                          channel(color, 24));
}

static void fill(struct canvas *canvas, struct box box, uint32_t color)
{
    cairo_t *cairo = of(canvas)->cairo;
    set_color(cairo, color);
    cairo_rectangle(cairo, box.x, box.y, box.width, box.height);
    cairo_fill(cairo);
}

static void trace(cairo_t *cairo, const struct point *points, size_t count)
{
    cairo_move_to(cairo, points[0].x, points[0].y);
    for (size_t i = 1; i < count; i++)
        cairo_line_to(cairo, points[i].x, points[i].y);
}

static void polygon(struct canvas *canvas, const struct point *points, size_t count, uint32_t color)
{
    cairo_t *cairo = of(canvas)->cairo;
    set_color(cairo, color);
    trace(cairo, points, count);
    cairo_close_path(cairo);
    cairo_fill(cairo);
}

static void line(struct canvas *canvas, const struct point *points, size_t count, double width,
                 uint32_t color, bool dashed)
{
    static const double dashes[2] = {DASH_ON, DASH_OFF};
    cairo_t *cairo = of(canvas)->cairo;
    set_color(cairo, color);
    cairo_set_line_width(cairo, width);
    cairo_set_line_join(cairo, CAIRO_LINE_JOIN_ROUND);
    cairo_set_dash(cairo, dashes, dashed ? 2 : 0, 0);
    trace(cairo, points, count);
    cairo_stroke(cairo);
}

static void text(struct canvas *canvas, const struct text *text)
{
    cairo_t *cairo = of(canvas)->cairo;
    PangoLayout *layout = fonts_layout(canvas->fonts, text->words, text->size, text->bold);
    PangoRectangle extents;
    pango_layout_get_extents(layout, NULL, &extents);
    static const double shift[] = {[ANCHOR_MIDDLE] = 0.5, [ANCHOR_END] = 1};
    double width = (double)extents.width / PANGO_SCALE;
    double baseline = (double)pango_layout_get_baseline(layout) / PANGO_SCALE;
    cairo_save(cairo);
    set_color(cairo, text->color);
    cairo_translate(cairo, text->x, text->y);
    cairo_rotate(cairo, text->angle * acos(-1) / 180);
    cairo_move_to(cairo, -width * shift[text->anchor], CAPITAL_HALF * text->size - baseline);
    pango_cairo_show_layout(cairo, layout);
    cairo_restore(cairo);
    g_object_unref(layout);
}

static void free_canvas(struct canvas *canvas)
{
    struct cairo_canvas *self = of(canvas);
    if (self->cairo)
        cairo_destroy(self->cairo);
    if (self->surface)
        cairo_surface_destroy(self->surface);
    free(self->file.data);
    free(self);
}

/* Ready to be drawn on; takes the struct, and frees it on failure. */
static int start(struct cairo_canvas *self, double scale, struct canvas **ret_canvas)
{
    self->cairo = cairo_create(self->surface);
    if (cairo_status(self->cairo) != CAIRO_STATUS_SUCCESS) {
        free_canvas(&self->canvas);
        return ERR_MEMORY;
    }
    cairo_scale(self->cairo, scale, scale);
    *ret_canvas = &self->canvas;
    return 0;
}

/* Pixels ----------------------------------------------------------------------------------------
 */

/* Where the cell of a number begins, in pixels. */
static int edge(double from, double length, uint32_t index, uint32_t count)
{
    return (int)floor(from + length * index / count + 0.5);
}

static int limit(int at, int size)
{
    return at < 0 ? 0 : at < size ? at : size;
}

/* The cell that each pixel of one axis belongs to; returns the first pixel, and how many. */
static int spread(double from, double length, uint32_t count, int size, uint32_t *ret_cell,
                  int *ret_count)
{
    int first = limit(edge(from, length, 0, count), size), at = first;
    for (uint32_t i = 0; i < count; i++)
        for (int end = limit(edge(from, length, i + 1, count), size); at < end; at++)
            ret_cell[at - first] = i;
    *ret_count = at - first;
    return first;
}

static void write_cells(struct cairo_canvas *self, struct box box, const uint32_t *colors,
                        uint32_t rows, uint32_t columns, uint32_t *column, uint32_t *row)
{
    double scale = self->canvas.pixels;
    int width = cairo_image_surface_get_width(self->surface), across, down;
    int height = cairo_image_surface_get_height(self->surface);
    int left = spread(box.x * scale, box.width * scale, columns, width, column, &across);
    int top = spread(box.y * scale, box.height * scale, rows, height, row, &down);
    size_t stride = (size_t)cairo_image_surface_get_stride(self->surface) / sizeof(uint32_t);
    uint32_t *pixels = (uint32_t *)(void *)cairo_image_surface_get_data(self->surface);
    for (int y = 0; y < down; y++) {
        uint32_t *to = pixels + (size_t)(top + y) * stride + left;
        const uint32_t *from = colors + (size_t)row[y] * columns;
        for (int x = 0; x < across; x++)
            to[x] = from[column[x]] ? from[column[x]] : to[x];
    }
}

static void pixel_cells(struct canvas *canvas, struct box box, const uint32_t *colors,
                        uint32_t rows, uint32_t columns)
{
    struct cairo_canvas *self = of(canvas);
    size_t width = (size_t)cairo_image_surface_get_width(self->surface);
    size_t height = (size_t)cairo_image_surface_get_height(self->surface);
    uint32_t *cells = malloc((width + height) * sizeof(*cells));
    if (!cells) {
        self->failed = true;
        return;
    }
    cairo_surface_flush(self->surface);
    write_cells(self, box, colors, rows, columns, cells, cells + width);
    cairo_surface_mark_dirty(self->surface);
    free(cells);
}

static int finish_png(struct canvas *canvas, struct bytes *ret_file)
{
    struct cairo_canvas *self = of(canvas);
    cairo_surface_flush(self->surface);
    struct pixels pixels = {
        .data = (const uint32_t *)(const void *)cairo_image_surface_get_data(self->surface),
        .width = (uint32_t)cairo_image_surface_get_width(self->surface),
        .height = (uint32_t)cairo_image_surface_get_height(self->surface),
        .stride = (size_t)cairo_image_surface_get_stride(self->surface) / sizeof(uint32_t),
        .dpi = self->dpi,
    };
    if (self->failed || cairo_status(self->cairo) != CAIRO_STATUS_SUCCESS)
        return ERR_MEMORY;
    return png_encode(&pixels, ret_file);
}

int canvas_new_png(double width, double height, double dpi, struct fonts *fonts,
                   struct canvas **ret_canvas)
{
    static const struct canvas_ops ops = {fill, polygon,    line,       pixel_cells,
                                          text, finish_png, free_canvas};
    struct cairo_canvas *self = calloc(1, sizeof(*self));
    if (!self)
        return ERR_MEMORY;
    self->canvas = (struct canvas){&ops, fonts, dpi / 72};
    self->dpi = dpi;
    self->surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)floor(width * dpi / 72 + 0.5),
                                   (int)floor(height * dpi / 72 + 0.5));
    int rc = start(self, self->canvas.pixels, ret_canvas);
    if (rc == 0)
        fill(&self->canvas, (struct box){-1, -1, width + 2, height + 2}, 0xffffffff);
    return rc;
}

/* PDF -------------------------------------------------------------------------------------------
 */

static cairo_status_t append(void *data, const unsigned char *bytes, unsigned int size)
{
    struct cairo_canvas *self = data;
    if (self->file.size + size > self->room) {
        size_t room = 2 * (self->file.size + size) + 4096;
        uint8_t *grown = realloc(self->file.data, room);
        if (!grown)
            return CAIRO_STATUS_NO_MEMORY;
        self->file.data = grown;
        self->room = room;
    }
    memcpy(self->file.data + self->file.size, bytes, size);
    self->file.size += size;
    return CAIRO_STATUS_SUCCESS;
}

static void pdf_cells(struct canvas *canvas, struct box box, const uint32_t *colors, uint32_t rows,
                      uint32_t columns)
{
    struct cairo_canvas *self = of(canvas);
    cairo_t *cairo = self->cairo;
    uint32_t times = canvas_cell_times(rows, columns);
    cairo_surface_t *image = cairo_image_surface_create(CAIRO_FORMAT_ARGB32, (int)(columns * times),
                                                        (int)(rows * times));
    self->failed = self->failed || cairo_surface_status(image) != CAIRO_STATUS_SUCCESS;
    if (!self->failed) {
        canvas_repeat_cells(colors, rows, columns, times,
                            (uint32_t *)(void *)cairo_image_surface_get_data(image),
                            (size_t)cairo_image_surface_get_stride(image) / sizeof(uint32_t));
        cairo_surface_mark_dirty(image);
        cairo_save(cairo);
        cairo_translate(cairo, box.x, box.y);
        cairo_scale(cairo, box.width / columns / times, box.height / rows / times);
        cairo_set_source_surface(cairo, image, 0, 0);
        cairo_pattern_set_filter(cairo_get_source(cairo), CAIRO_FILTER_NEAREST);
        cairo_paint(cairo);
        cairo_restore(cairo);
    }
    cairo_surface_destroy(image);
}

static int finish_pdf(struct canvas *canvas, struct bytes *ret_file)
{
    struct cairo_canvas *self = of(canvas);
    cairo_show_page(self->cairo);
    cairo_surface_finish(self->surface);
    if (self->failed || cairo_status(self->cairo) != CAIRO_STATUS_SUCCESS ||
        cairo_surface_status(self->surface) != CAIRO_STATUS_SUCCESS)
        return ERR_MEMORY;
    *ret_file = self->file;
    self->file = (struct bytes){NULL, 0};
    return 0;
}

/* cairo writes the time of day into a PDF. Instead: the time that SOURCE_DATE_EPOCH gives, or the
 * beginning of its count. */
static void set_date(cairo_surface_t *surface)
{
    const char *given = getenv("SOURCE_DATE_EPOCH");
    time_t time = given ? (time_t)strtoll(given, NULL, 10) : 0;
    char text[32];
    struct tm date;
    if (!gmtime_r(&time, &date) || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &date) == 0)
        return;
    cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATE_DATE, text);
}

int canvas_new_pdf(double width, double height, struct fonts *fonts, struct canvas **ret_canvas)
{
    static const struct canvas_ops ops = {fill, polygon,    line,       pdf_cells,
                                          text, finish_pdf, free_canvas};
    struct cairo_canvas *self = calloc(1, sizeof(*self));
    if (!self)
        return ERR_MEMORY;
    self->canvas = (struct canvas){&ops, fonts, 0};
    self->surface = cairo_pdf_surface_create_for_stream(append, self, width, height);
    set_date(self->surface);
    return start(self, 1, ret_canvas);
}
