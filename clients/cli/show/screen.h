/* SPDX-License-Identifier: MIT */
/* screen: the capabilities of the output: its size, characters and colours. One thread. */
#ifndef CLIENTS_CLI_SHOW_SCREEN_H
#define CLIENTS_CLI_SHOW_SCREEN_H

#include <stdbool.h>
#include <stdio.h>

enum color_choice { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };
enum color_depth { COLORS_NONE, COLORS_256, COLORS_TRUE };

/* Columns that are made use of at least: what is narrower breaks lines itself. */
#define SCREEN_WIDTH_MIN 20

struct screen {
    FILE *out;
    int width;  /* columns; 80 when out is no terminal */
    int height; /* lines; 0 when out is no terminal */
    bool utf8;
    enum color_depth colors;
};

/* UTF-8 by the locale that the environment names, unless `ascii`. Colours in a terminal that has
 * them, unless NO_COLOR is set. `width` 0 = the terminal's. */
void screen_detect(FILE *out, bool ascii, enum color_choice choice, int width,
                   struct screen *ret_screen);

/* Prints words, broken into lines of the screen's width; all but the first begin with `indent`
 * blanks. Ends the line. */
void screen_say(const struct screen *screen, int indent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A heading of one line. */
void screen_title(const struct screen *screen, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Columns that printable text takes, isolates and combining marks none. */
int screen_text_width(const char *text);

#endif
