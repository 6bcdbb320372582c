/* SPDX-License-Identifier: MIT */
/* Time goes into deflate. A picture of cells repeats itself: a row that is as the row above is
 * filtered by it, so that it is zeros; others are left as they are, in which runs of pixels are
 * found as well as in differences, and are shorter. zlib's fastest level then takes a third of the
 * time that its default takes, for four tenths more bytes (a map of 512 x 512 at 300 dots per
 * inch). */
#include "clients/cli/plot/png_file.h"

#include "proto/err.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#define LEVEL_FAST    1
#define LEVEL_SMALLER 6
#define METERS_INCH   0.0254

struct encoding {
    const struct pixels *pixels;
    png_structp png;
    png_infop info;
    struct bytes file;
    size_t room;
    png_bytep row;
};

static void append(png_structp png, png_bytep data, size_t size)
{
    struct encoding *encoding = png_get_io_ptr(png);
    if (encoding->file.size + size > encoding->room) {
        size_t room = 2 * (encoding->file.size + size) + 4096;
        uint8_t *grown = realloc(encoding->file.data, room);
        if (!grown)
            png_error(png, "out of memory");
        encoding->file.data = grown;
        encoding->room = room;
    }
    memcpy(encoding->file.data + encoding->file.size, data, size);
    encoding->file.size += size;
}

static void flush(png_structp png)
{
    (void)png;
}

/* libpng's own print to stderr. */
static void fail(png_structp png, png_const_charp why)
{
    (void)why;
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp why)
{
    (void)png;
    (void)why;
}

static void write_header(struct encoding *encoding)
{
    const struct pixels *pixels = encoding->pixels;
    png_structp png = encoding->png;
    png_set_IHDR(png, encoding->info, pixels->width, pixels->height, 8,
                 pixels->alpha ? PNG_COLOR_TYPE_RGB_ALPHA : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, pixels->smaller ? LEVEL_SMALLER : LEVEL_FAST);
    png_set_compression_buffer_size(png, 1 << 16);
    png_set_filter(png, PNG_FILTER_TYPE_DEFAULT, PNG_FILTER_NONE | PNG_FILTER_UP);
    if (pixels->dpi > 0) {
        png_uint_32 per_meter = (png_uint_32)(pixels->dpi / METERS_INCH + 0.5);
        png_set_pHYs(png, encoding->info, per_meter, per_meter, PNG_RESOLUTION_METER);
    }
    png_write_info(png, encoding->info);
}

static void pack_row(const struct pixels *pixels, const uint32_t *from, png_bytep to)
{
    for (uint32_t x = 0; x < pixels->width; x++) {
        *to++ = (png_byte)(from[x] >> 16);
        *to++ = (png_byte)(from[x] >> 8);
        *to++ = (png_byte)from[x];
        if (pixels->alpha)
            *to++ = (png_byte)(from[x] >> 24);
    }
}

static void write_rows(struct encoding *encoding)
{
    const struct pixels *pixels = encoding->pixels;
    for (uint32_t y = 0; y < pixels->height; y++) {
        const uint32_t *row = pixels->data + y * pixels->stride;
        bool same = y > 0 && memcmp(row, row - pixels->stride, pixels->width * sizeof(*row)) == 0;
        if (!same)
            pack_row(pixels, row, encoding->row);
        png_set_filter(encoding->png, PNG_FILTER_TYPE_DEFAULT,
                       same ? PNG_FILTER_UP : PNG_FILTER_NONE);
        png_write_row(encoding->png, encoding->row);
    }
}

/* No local variable of this function changes after setjmp. */
static int write_file(struct encoding *encoding)
{
    if (setjmp(png_jmpbuf(encoding->png)))
        return ERR_MEMORY;
    png_set_write_fn(encoding->png, encoding, append, flush);
    write_header(encoding);
    write_rows(encoding);
    png_write_end(encoding->png, NULL);
    return 0;
}

int png_encode(const struct pixels *pixels, struct bytes *ret_file)
{
    struct encoding encoding = {.pixels = pixels};
    int rc = ERR_MEMORY;
    encoding.row = malloc(4 * (size_t)pixels->width);
    encoding.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, fail, ignore);
    encoding.info = encoding.png ? png_create_info_struct(encoding.png) : NULL;
    if (encoding.row && encoding.info)
        rc = write_file(&encoding);
    if (encoding.png)
        png_destroy_write_struct(&encoding.png, &encoding.info);
    free(encoding.row);
    if (rc == 0)
        *ret_file = encoding.file;
    else
        free(encoding.file.data);
    return rc;
}
