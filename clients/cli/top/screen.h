/* SPDX-License-Identifier: MIT */
/* screen: a rectangle of characters with styles, in memory. Drawing outside of it is cut off. Text
 * may come from anywhere: what could move a terminal's cursor, or is not one column wide, is
 * replaced by '?'. Pure; one thread. */
#ifndef CLIENTS_CLI_TOP_SCREEN_H
#define CLIENTS_CLI_TOP_SCREEN_H

#include "clients/cli/base/utf8.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Colour is never the only sign: each of these also has a word, a mark or a place of its own. */
enum style {
    STYLE_PLAIN,
    STYLE_FAINT,
    STYLE_STRONG,
    STYLE_TITLE, /* the first line */
    STYLE_INFO,
    STYLE_WARNING,
    STYLE_CRITICAL,
    STYLE_BANNER,  /* attnd does not answer */
    STYLE_LEVEL_0, /* the least of a range, and so on up to its greatest */
    STYLE_LEVEL_7 = STYLE_LEVEL_0 + 7,
    STYLE_COUNT,
};

struct cell {
    char text[UTF8_MAX + 1]; /* one character, as UTF-8 with a NUL */
    uint8_t style;
    bool chosen; /* shown in reverse */
};

struct screen {
    int width, height;
    struct cell *cells; /* [height][width]; owned */
    bool unicode;       /* otherwise every character is ASCII */
};

/* Makes it blank and of this size. Returns 0, or -1 when out of memory: then it is 0 x 0. */
int screen_resize(struct screen *screen, int width, int height);
void screen_free(struct screen *screen);
void screen_clear(struct screen *screen);

/* Writes into row `row` from column `column` on, at most `width` columns; a longer text ends in an
 * ellipsis. Returns the columns that were written. */
int screen_put(struct screen *screen, int row, int column, int width, enum style style,
               const char *text);
int screen_print(struct screen *screen, int row, int column, int width, enum style style,
                 const char *format, ...) __attribute__((format(printf, 6, 7)));
/* The same, at the right end of the `width` columns. */
int screen_put_right(struct screen *screen, int row, int column, int width, enum style style,
                     const char *text);

/* The columns that a text takes. */
int screen_columns(const struct screen *screen, const char *text);

/* Shows a row as the chosen one: also by a '>' in its first column. */
void screen_choose_row(struct screen *screen, int row);
/* Blanks a rectangle for something on top of what is there. */
void screen_blank(struct screen *screen, int row, int column, int width, int height);

/* The text of a row without the blanks at its end; `size` bytes. */
void screen_row_text(const struct screen *screen, int row, char *ret_text, size_t size);

#endif
