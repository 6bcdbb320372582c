/* SPDX-License-Identifier: MIT */
/* show: a layer's attention in the terminal: options, numbers in one pass, then the parts. */
#ifndef CLIENTS_CLI_SHOW_INTERNAL_H
#define CLIENTS_CLI_SHOW_INTERNAL_H

#include "clients/cli/arrays/name.h"
#include "clients/cli/base/option.h"
#include "clients/cli/source/source.h"

#include <stdio.h>

/* token: the text of a token, which may be anything, made fit for a line of a terminal: control and
 * format characters, and without UTF-8 all that is not ASCII, are escaped ("\n", "\x1b", "\u200d");
 * blanks at its ends are shown; wide characters take two columns; text that runs from right to left
 * is isolated, so that the line keeps its order. One thread. */

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

/* screen: the capabilities of the output: its size, characters and colours. One thread. */

enum color_choice { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };
enum color_depth { COLORS_NONE, COLORS_256, COLORS_TRUE };

/* Columns that are made use of at least: what is narrower breaks lines itself. */
#define SCREEN_WIDTH_MIN 20

struct show_screen {
    FILE *out;
    int width;  /* columns; 80 when out is no terminal */
    int height; /* lines; 0 when out is no terminal */
    bool utf8;
    enum color_depth colors;
};

/* UTF-8 by the locale that the environment names, unless `ascii`. Colours in a terminal that has
 * them, unless NO_COLOR is set. `width` 0 = the terminal's. */
void screen_detect(FILE *out, bool ascii, enum color_choice choice, int width,
                   struct show_screen *ret_screen);

/* Prints words, broken into lines of the screen's width; all but the first begin with `indent`
 * blanks. Ends the line. */
void screen_say(const struct show_screen *screen, int indent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A heading of one line. */
void screen_title(const struct show_screen *screen, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* measure: the numbers shown for one sample of a layer, found in one pass over its heads: row sums,
 * one query's weights, a small picture, the largest entries. Numbers are of the map that was asked
 * for, one head's or the mean over the heads. One thread. */

#define TOKEN_AUTO     UINT32_MAX
#define TOP_KEYS       3
#define TOP_PAIRS_MOST 100

struct show_request {
    size_t layer;
    uint32_t sample;
    uint32_t head;  /* HEAD_MEAN = of all */
    uint32_t query; /* TOKEN_AUTO = the first; when it attends to one key at most, the last one that
                     * attends to any */
    uint32_t picture_rows, picture_columns; /* at most */
    uint32_t pairs;                         /* at most TOP_PAIRS_MOST */
};

/* Sums over the rows of all heads. A row is sound when its sum is 1 within the layer's
 * tolerance. */
struct row_sums {
    uint64_t rows, sound;
    uint64_t zero;    /* all entries 0 */
    uint64_t missing; /* with an entry that is no number */
    uint64_t other;
    double min, max;                /* of rows without missing entries, and not all 0; NaN = none */
    double deviation;               /* mean of |sum - 1| over the same */
    uint32_t other_head, other_row; /* the first of `other` */
    double other_sum;
};

struct entry {
    uint32_t row, column; /* cells of the source's map */
    float weight;
};

struct findings {
    struct row_sums sums;
    uint64_t finite; /* entries of the map that are numbers */
    uint32_t row;    /* the query's cell */
    bool moved;      /* it is not the first, because that attends to one key at most */
    float *query;    /* [columns] of the map; owned */
    /* [heads][top_count]: the largest of the query's weights in each head, descending; owned */
    struct entry *tops;
    uint32_t top_count; /* TOP_KEYS, or fewer keys */
    uint32_t picture_rows, picture_columns;
    double *picture; /* [picture_rows][picture_columns], NaN = no number in it; owned */
    struct entry pairs[TOP_PAIRS_MOST];
    uint32_t pair_count;
};

/* Sample, head and query were checked. Returns as source_rows; findings_clear is the caller's on
 * CLI_OK. */
int measure_map(struct source *source, const struct show_request *request,
                struct findings *ret_findings, char *reterr);
void findings_clear(struct findings *findings);

/* The `most` largest numbers of weights[columns], descending, the earlier first; returns how many
 * there are. */
uint32_t measure_top(const float *weights, uint32_t columns, uint32_t most,
                     struct entry *ret_entries);

/* show_options: the command line of attnctl show as a struct. Pure except for getopt's own state;
 * one thread. */

#define SHOW_ERROR_MAX 512
#define SAMPLE_FIRST   UINT32_MAX

/* The parts to print. */
enum show_part { PART_REPORT, PART_MAP, PART_TOKEN, PART_HEADS, PART_PAIRS, PART_COUNT };

/* Strings point into argv. */
struct show_options {
    bool json, ascii;
    enum color_choice color;
    bool part[PART_COUNT];
    uint32_t width; /* 0 = the terminal's */
    /* what is looked at */
    const char *layer;            /* NULL = the first */
    uint32_t sample;              /* SAMPLE_FIRST = the first that there is */
    uint32_t head, token, pairs;  /* as in struct show_request */
    struct source_request source; /* but where the maps are */
    struct args args;             /* of a job: which attnd */
    char *const *words;           /* [word_count]; in argv: files, or a job */
    int word_count;
};

/* view: the parts of what attnctl show prints, each a function. One thread. */

struct view {
    struct show_screen screen;
    struct source *source;
    const char *origin; /* a file's path, or a job, fit for the screen */
    const struct source_layer *layer;
    const struct show_request *request;
    const struct findings *found;
};

/* Describes the numbers, and whether rows sum to 1. */
void view_report(const struct view *view);
/* The map in shades or colours. view_plan is asked before the map is measured: of how many cells
 * the picture may be. */
void view_plan(const struct view *view, uint32_t *ret_rows, uint32_t *ret_columns);
void view_map(const struct view *view);
/* The keys that the query attends to, as bars. */
void view_token(const struct view *view);
/* The query's first keys in each head. */
void view_heads(const struct view *view);
/* The largest entries of the map. */
void view_pairs(const struct view *view);
/* Everything but the picture, as JSON. Returns an exit code. */
int view_json(const struct view *view, struct cli *cli);

/* The common part ----------------------------------------------------------------------------- */

/* The token's text, NULL when there is none or the cell is pooled. */
const char *view_query_label(const struct view *view, uint32_t row);
const char *view_key_label(const struct view *view, uint32_t column);
/* Columns of the widest key's label, at most `most`; 0 without labels. */
int view_label_width(const struct view *view, int most);
/* Prints the label in exactly `width` columns; nothing when that is 0. */
void view_put_label(const struct view *view, const char *label, int width);
/* "head 3", "the mean over 12 heads"; VIEW_HEAD in memory that is good as long as the block that
 * the macro stands in. */
const char *view_head_text(const struct view *view, char ret_text[48]);
#define VIEW_HEAD(view) view_head_text(view, (char[48]){""})

#endif
