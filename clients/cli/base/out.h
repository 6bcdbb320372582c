/* SPDX-License-Identifier: MIT */
/* out: tables for a terminal. Cells are collected, then printed in columns as wide as they need;
 * what does not fit the width goes on in further blocks below, each with the first column again.
 * One thread per table. */
#ifndef CLIENTS_CLI_BASE_OUT_H
#define CLIENTS_CLI_BASE_OUT_H

#include "proto/mpk.h"

#include <stdio.h>

#define OUT_CELL_MAX 160

struct out_table {
    int columns;
    char **cells; /* [rows * columns]; the first row holds the names; owned */
    int used, room;
    int gap;     /* blanks between columns; set when printing, as are the columns' widths */
    int *widths; /* [columns]; owned */
};

/* A table begins with the names of its columns; then cells follow, row by row. */
void out_init(struct out_table *table, int columns);
/* The same with names, and more of them: "JOB|RUN|STATE". */
void out_begin(struct out_table *table, const char *names);
void out_more(struct out_table *table, const char *names);
void out_cell(struct out_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A text of a map, cut to `width` columns; 0 = whole; "-" for none. */
void out_text(struct out_table *table, const msgpack_object *map, const char *key, size_t width);
/* A whole number of a map. */
void out_count(struct out_table *table, const msgpack_object *map, const char *key);
/* A row per pair of a map: the prefix and its name, and its value. */
void out_pairs(struct out_table *table, const char *prefix, const msgpack_object *map);
/* Any number, "-" for none. */
void out_number(struct out_table *table, const msgpack_object *value);
/* Whether four decimals show a value, as far as there is one. */
bool out_is_plain(double value);
/* With four decimals when all of its column are plain, else with an exponent; "-" for none. */
void out_value(struct out_table *table, double value, bool plain);
/* The same with its standard error; NaN: it has none. */
void out_mean(struct out_table *table, double mean, double error, bool plain);
/* The cells that the row of a run begins with: job, first digits, state. */
void out_run(struct out_table *table, const msgpack_object *run);

/* "±", or "+-" where the environment does not say UTF-8. */
const char *out_plus_minus(void);

/* Prints and frees. The first column is left-aligned, the others are right-aligned, or all are
 * left-aligned with `text` set. */
void out_print(struct out_table *table, int width, bool text, FILE *out);

/* How wide `out` is: the terminal's columns, 80 where it has fewer than 40 or does not say, INT_MAX
 * for anything else: what a program reads is one table with one header. */
int out_width(FILE *out);

/* "3 d 4 h", "5 min 2 s", "0.8 s". */
#define OUT_TIME_MAX 32
const char *out_duration(double seconds, char ret_text[OUT_TIME_MAX]);
/* "17 B", "1.4 GiB". */
#define OUT_SIZE_MAX 32
const char *out_size(uint64_t bytes, char ret_text[OUT_SIZE_MAX]);
/* The same in memory that is good as long as the block that the macro stands in. */
#define OUT_DURATION(seconds) out_duration(seconds, (char[OUT_TIME_MAX]){""})

/* The state of a run in words: "failed: ValueError: bad loss, at step 120 (train.py:31: main)", "no
 * news for 31 s"; "" of all other states. */
#define OUT_NEWS_MAX 1024
const char *out_news(const msgpack_object *run, char ret_text[OUT_NEWS_MAX]);
#define OUT_NEWS(run)   out_news(run, (char[OUT_NEWS_MAX]){""})
#define OUT_SIZE(bytes) out_size(bytes, (char[OUT_SIZE_MAX]){""})

/* Cuts a longer ASCII text to `width` (at least 4) by putting ".." in its middle. */
void out_shorten(char *text, size_t width);

/* "1 message", "2 messages" - the noun with an s unless there is one. */
const char *out_plural(unsigned long long count);

/* To be called before anything is opened: a standard stream that is closed would otherwise be the
 * next file or socket. Writing to such a stream fails, as it should; a reader that has gone is an
 * error to be asked for, not a signal. */
void out_prepare(void);

/* Writes what is left. Returns whether everything was written that somebody wanted to read. */
bool out_end(FILE *out);

/* Whether the environment says UTF-8. */
bool out_charset_is_utf8(void);
#define TEXT_WIDTH 80

/* Prints the words of a text, and a line end. The cursor stands at column `column`; what does not
 * fit goes to new lines, which begin at column `indent`. */
void text_wrap(const char *text, int column, int indent, FILE *out);

#endif
