/* SPDX-License-Identifier: MIT */
/* The locale does not decide which characters are one column wide, so that a drawing is the same
 * everywhere: these are letters of alphabets that are written from left to right without combining
 * marks, punctuation, arrows, mathematics, boxes and blocks. */
#include "clients/cli/top/internal.h"
#include "clients/cli/base/system.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRINT_MAX 1024

static const struct cell blank = {.text = " "};

void screen_resize(struct screen *screen, int width, int height)
{
    free(screen->cells);
    screen->cells = memory_new((size_t)width * (size_t)height, sizeof *screen->cells);
    screen->width = width;
    screen->height = height;
    screen_clear(screen);
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
    screen_put(screen, row, 2, 1, STYLE_STRONG, ">");
    for (int column = 0; is_inside(screen, row, column); column++) {
        screen->cells[row * screen->width + column].chosen = true;
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

/* A number as a character. */
static const char *bars_glyph(double value, struct range range, bool unicode)
{
    double place = place_in(value, range);
    if (isnan(place)) {
        return " ";
    }
    return (unicode ? blocks : letters)[(int)(place * (BARS_LEVELS - 1) + 0.5)];
}

/* The mean of the numbers of the steps in (from, to], or the one that holds there. */
static double bars_mean(const struct line *line, double from, double to)
{
    double sum = 0;
    uint32_t count = 0, any = 0, at = 0;
    for (; at < line->count && (double)line->step[at] <= to; at++) {
        bool counts = (double)line->step[at] > from, finite = isfinite(line->value[at]);
        any += counts;
        sum += counts && finite ? line->value[at] : 0;
        count += counts && finite;
    }
    if (any == 0) {
        return at < line->count && at > 0 ? line->value[at] : NAN;
    }
    return count > 0 ? sum / count : NAN;
}

void bars_line(struct screen *screen, int row, int column, int width, const struct line *line,
               uint64_t from, uint64_t to, struct range range, uint64_t sick)
{
    double step = width > 0 ? (double)(to - from) / width : 0;
    for (int i = 0; i < width && to >= from; i++) {
        double begin = (double)from + i * step - (i == 0), end = (double)from + (i + 1) * step;
        screen_put(screen, row, column + i, 1, end > (double)sick ? STYLE_CRITICAL : STYLE_PLAIN,
                   bars_glyph(bars_mean(line, begin, end), range, screen->unicode));
    }
}
