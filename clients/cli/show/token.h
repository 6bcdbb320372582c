/* SPDX-License-Identifier: MIT */
/* token: the text of a token, which may be anything, made fit for a line of a terminal: control and
 * format characters, and without UTF-8 all that is not ASCII, are escaped ("\n", "\x1b", "\u200d");
 * blanks at its ends are shown; wide characters take two columns; text that runs from right to left
 * is isolated, so that the line keeps its order. One thread. */
#ifndef CLIENTS_CLI_SHOW_TOKEN_H
#define CLIENTS_CLI_SHOW_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

/* U+2068 and U+2069: what is between them keeps its direction to itself. */
#define TOKEN_ISOLATE     "\xe2\x81\xa8"
#define TOKEN_ISOLATE_END "\xe2\x81\xa9"

/* A unit that stays together: a character and its marks, or an escape. */
#define TOKEN_UNIT_BYTES 32
struct token_unit {
    char text[TOKEN_UNIT_BYTES];
    int width; /* columns: 1 or more */
    bool right_to_left;
};

/* Units of a token that are looked at. */
#define TOKEN_UNITS_MAX 64

/* Takes a token apart: up to `most` units; *ret_more: there are further ones. Returns how many. */
int token_split(const char *label, bool utf8, struct token_unit *ret_units, int most,
                bool *ret_more);

/* Bytes of a fitted token with its NUL. */
#define TOKEN_FIT_BYTES ((size_t)TOKEN_UNITS_MAX * TOKEN_UNIT_BYTES + 16)

/* Writes a token in at most `width` columns (1 to TOKEN_UNITS_MAX), cut with a mark; an empty one
 * is "" in quotes, where they fit. Returns the columns it takes. */
int token_fit(const char *label, int width, bool utf8, char ret_text[TOKEN_FIT_BYTES]);

/* A text of any length with the same escapes, cut where `size` bytes end. Blanks stay. */
void token_clean(const char *text, bool utf8, char *ret_text, size_t size);

/* Columns that text takes that has nothing to escape in it. */
int token_text_width(const char *text);

#endif
