/* SPDX-License-Identifier: MIT */
/* The locale does not decide which characters are one column wide, so that a drawing is the same
 * everywhere: these are letters of alphabets that are written from left to right without combining
 * marks, punctuation, arrows, mathematics, boxes and blocks. */
#include "clients/cli/top/internal.h"
#include "clients/cli/base/out.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRINT_MAX 1024

static const struct cell blank = {.text = " "};

int screen_resize(struct screen *screen, int width, int height)
{
    struct cell *cells = NULL;
    if (width > 0 && height > 0) {
        cells = calloc((size_t)width * (size_t)height, sizeof *cells);
    }
    free(screen->cells);
    screen->cells = cells;
    screen->width = cells ? width : 0;
    screen->height = cells ? height : 0;
    screen_clear(screen);
    return cells ? 0 : -1;
}

void screen_free(struct screen *screen)
{
    free(screen->cells);
    *screen = (struct screen){0};
}

void screen_clear(struct screen *screen)
{
    for (int i = 0; i < screen->width * screen->height; i++) {
        screen->cells[i] = blank;
    }
}

static bool is_one_column(uint32_t code)
{
    if (code < 0x0590) {
        return (code >= 0x20 && code < 0x7f) ||
               (code >= 0xa0 && code != 0xad && !(code >= 0x300 && code < 0x370) &&
                !(code >= 0x483 && code < 0x48a));
    }
    return (code >= 0x2010 && code < 0x2028) || (code >= 0x2030 && code < 0x205f) ||
           (code >= 0x2190 && code < 0x25fd);
}

/* Takes one character off a text, as what a cell may hold. Returns the bytes that it had. */
static size_t screen_take(const char *text, bool unicode, char ret_cell[UTF8_MAX + 1])
{
    uint32_t code;
    size_t taken = utf8_take(text, strnlen(text, UTF8_MAX), &code);
    bool fits = is_one_column(code) && (unicode || code < 0x80);
    ret_cell[utf8_put(fits ? code : '?', ret_cell)] = '\0';
    return taken;
}

int screen_columns(const struct screen *screen, const char *text)
{
    int columns = 0;
    char cell[UTF8_MAX + 1];
    for (; *text; columns++) {
        text += screen_take(text, screen->unicode, cell);
    }
    return columns;
}

static bool is_inside(const struct screen *screen, int row, int column)
{
    return row >= 0 && row < screen->height && column >= 0 && column < screen->width;
}

/* Writes `columns` characters; returns what is left of the text. */
static const char *write_cells(struct screen *screen, int row, int column, int columns,
                               enum style style, const char *text)
{
    for (int i = 0; i < columns && *text; i++) {
        struct cell cell = {.style = (uint8_t)style};
        text += screen_take(text, screen->unicode, cell.text);
        if (is_inside(screen, row, column + i)) {
            screen->cells[row * screen->width + column + i] = cell;
        }
    }
    return text;
}

int screen_put(struct screen *screen, int row, int column, int width, enum style style,
               const char *text)
{
    int columns = screen_columns(screen, text);
    if (column + width > screen->width) {
        width = screen->width - column;
    }
    if (width <= 0) {
        return 0;
    }
    if (columns <= width) {
        write_cells(screen, row, column, columns, style, text);
        return columns;
    }
    const char *ellipsis = screen->unicode ? "…" : "..";
    int end = screen_columns(screen, ellipsis);
    int kept = width > end ? width - end : 0;
    write_cells(screen, row, column, kept, style, text);
    write_cells(screen, row, column + kept, width - kept, style, ellipsis);
    return width;
}

int screen_print(struct screen *screen, int row, int column, int width, enum style style,
                 const char *format, ...)
{
    char text[PRINT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return screen_put(screen, row, column, width, style, text);
}

int screen_put_right(struct screen *screen, int row, int column, int width, enum style style,
                     const char *text)
{
    int columns = screen_columns(screen, text);
    int skipped = columns < width ? width - columns : 0;
    return skipped + screen_put(screen, row, column + skipped, width - skipped, style, text);
}

void screen_choose_row(struct screen *screen, int row)
{
    screen_put(screen, row, 0, 1, STYLE_STRONG, ">");
    for (int column = 0; is_inside(screen, row, column); column++) {
        screen->cells[row * screen->width + column].chosen = true;
    }
}

void screen_blank(struct screen *screen, int row, int column, int width, int height)
{
    for (int y = row; y < row + height; y++) {
        for (int x = column; x < column + width; x++) {
            if (is_inside(screen, y, x)) {
                screen->cells[y * screen->width + x] = blank;
            }
        }
    }
}

/* Bars */

static const char *const blocks[BARS_LEVELS] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const letters[BARS_LEVELS] = {".", ":", "-", "=", "+", "*", "%", "@"};

const struct range range_none = {INFINITY, -INFINITY};

void range_add(struct range *range, double value)
{
    if (!isfinite(value)) {
        return;
    }
    range->least = fmin(range->least, value);
    range->greatest = fmax(range->greatest, value);
}

struct range range_of(const double *values, uint32_t count)
{
    struct range range = range_none;
    for (uint32_t i = 0; i < count; i++) {
        range_add(&range, values[i]);
    }
    return range;
}

/* 0 to 1 within the range; NaN for what is no number. */
static double place_in(double value, struct range range)
{
    double size = range.greatest - range.least;
    if (!isfinite(value) || range.least > range.greatest) {
        return NAN;
    }
    double place = size > 0 ? (value - range.least) / size : 0;
    return fmin(fmax(place, 0), 1);
}

int bars_level(double value, struct range range)
{
    double place = place_in(value, range);
    return isnan(place) ? -1 : (int)(place * (BARS_LEVELS - 1) + 0.5);
}

/* A level as a character. */
static const char *bars_glyph(int level, bool unicode)
{
    if (level < 0) {
        return " ";
    }
    return unicode ? blocks[level] : letters[level];
}

int bars_line(struct screen *screen, int row, int column, int width, const double *values,
              uint32_t count, struct range range, struct bars_color color)
{
    uint32_t bars = width <= 0 ? 0 : count < (uint32_t)width ? count : (uint32_t)width;
    for (uint32_t i = 0; i < bars; i++) {
        double value = spark_bar(values, count, bars, i);
        int level = color.any ? bars_level(value, color.range) : -1;
        enum style style = level < 0 ? STYLE_PLAIN : (enum style)(STYLE_LEVEL_0 + level);
        screen_put(screen, row, column + (int)i, 1, style,
                   bars_glyph(bars_level(value, range), screen->unicode));
    }
    return (int)bars;
}

/* Bars of a chart and columns of each. */
static void chart_shape(uint32_t count, int width, uint32_t *ret_bars, int *ret_thick)
{
    uint32_t room = width > 0 ? (uint32_t)width : 0;
    *ret_bars = count < room ? count : room;
    *ret_thick = *ret_bars > 0 ? (int)(room / *ret_bars) : 0;
    if (*ret_thick > 4) { /* a few windows are no skyline */
        *ret_thick = 4;
    }
}

int bars_column(uint32_t count, int width, uint32_t index)
{
    uint32_t bars;
    int thick;
    chart_shape(count, width, &bars, &thick);
    return count > 0 ? (int)((uint64_t)index * bars / count) * thick : 0;
}

int bars_chart(struct screen *screen, int row, int column, int width, int height,
               const double *values, uint32_t count, struct range range)
{
    uint32_t bars;
    int thick;
    chart_shape(count, width, &bars, &thick);
    for (uint32_t i = 0; i < bars; i++) {
        double place = place_in(spark_bar(values, count, bars, i), range);
        for (int x = 0; x < thick && !isnan(place); x++) {
            /* One column: whole blocks up to the value, and the part of one on top; coloured by
             * height. */
            int bar_column = column + (int)i * thick + x;
            int eighths = 1 + (int)(place * (height * BARS_LEVELS - 1) + 0.5);
            for (int up = 0; up < height && eighths > 0; up++, eighths -= BARS_LEVELS) {
                int level = eighths >= BARS_LEVELS ? BARS_LEVELS - 1 : eighths - 1;
                int high = height > 1 ? up * (BARS_LEVELS - 1) / (height - 1) : 0;
                screen_put(screen, row + height - 1 - up, bar_column, 1,
                           (enum style)(STYLE_LEVEL_0 + high), bars_glyph(level, screen->unicode));
            }
        }
    }
    return (int)bars * thick;
}
