/* SPDX-License-Identifier: MIT */
/* heat: the map as a picture of characters. Cells are square: two columns of one line; or, with
 * colours and too many cells for that, one column of half a line, two rows to a line by the upper
 * half block, whose two halves have a colour each.
 *
 * Weights are spread over several orders of magnitude, so shades and colours go by the square root
 * of a cell's share of the largest. The lightest shade is also that of a row that attends to all
 * keys alike, however many these are. */
#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LABEL_WIDTH_MAX 12
#define HEADER_LINES    8
/* Lines of a picture when nobody knows the height; and what a screen needs besides it, more when
 * sentences are broken. */
#define LINES_DEFAULT       32
#define LINES_BESIDE        6
#define LINES_BESIDE_NARROW 12
#define WIDTH_NARROW        60
#define LINES_LEAST         8
#define UPPER_HALF          "\xe2\x96\x80"
#define MIDDLE_DOT          "\xc2\xb7"
#define SHADES              5
#define SIGNS               10
#define LEGEND_CELLS        16

struct layout {
    uint32_t rows, columns; /* of the picture */
    int cell;               /* columns of a cell */
    bool halves;
    int digits, label, room; /* of a line: number, label, columns left for cells */
    int header;              /* lines of labels above the cells; 0 = numbers instead */
};

/* Layout -------------------------------------------------------------------------------------- */

static int digits_of(uint32_t number)
{
    int digits = 1;
    for (; number >= 10; number /= 10) {
        digits++;
    }
    return digits;
}

/* Number, label, frame; the cells get the rest. */
static void set_label(const struct show_screen *screen, int label, struct layout *layout)
{
    layout->label = label;
    layout->room = screen->width - layout->digits - (label ? label + 1 : 0) - 3;
}

/* Whether every entry has a cell of its own, two columns wide, within `lines`. */
static bool heat_fits(const struct source_layer *layer, const struct layout *layout, int lines)
{
    return (int64_t)layer->columns * 2 <= layout->room && (int64_t)layer->rows <= lines;
}

/* With names it may be as high as the screen: they are worth that the heading has gone. The labels
 * of the keys stand above it while that line is free. */
static bool plan_labels(const struct view *view, int lines, struct layout *layout)
{
    const struct show_screen *screen = &view->screen;
    int most = screen->height > 0 && screen->height - 1 > lines ? screen->height - 1 : lines;
    if ((int64_t)view->layer->rows > most) {
        return false;
    }
    set_label(screen, view_label_width(view, screen->width >= WIDTH_NARROW ? LABEL_WIDTH_MAX : 6),
              layout);
    if (layout->label == 0 || !heat_fits(view->layer, layout, most)) {
        return false;
    }
    /* Lines that the keys' labels take upright. */
    struct token_unit units[HEADER_LINES];
    int highest = 0;
    bool more;
    for (uint32_t c = 0; c < view->layer->columns; c++) {
        const char *label = view_key_label(view, c);
        int count = label ? token_split(label, view->screen.utf8, units, HEADER_LINES, &more) : 0;
        highest = count > highest ? count : highest;
    }
    layout->header = highest;
    if (screen->height > 0 && (int)view->layer->rows + layout->header > lines + 1) {
        layout->header = 0;
    }
    return true;
}

static struct layout plan(const struct view *view)
{
    const struct source_layer *layer = view->layer;
    const struct show_screen *screen = &view->screen;
    int beside = screen->width < WIDTH_NARROW ? LINES_BESIDE_NARROW : LINES_BESIDE;
    int lines = screen->height > 0 ? screen->height - beside : LINES_DEFAULT;
    lines = lines < LINES_LEAST ? LINES_LEAST : lines;
    struct layout layout = {.rows = layer->rows,
                            .columns = layer->columns,
                            .cell = 2,
                            .digits = digits_of(layer->queries - 1)};
    if (plan_labels(view, lines, &layout)) {
        return layout;
    }
    set_label(screen, 0, &layout);
    if (heat_fits(layer, &layout, lines)) {
        return layout;
    }
    layout.halves = screen->utf8 && screen->colors != COLORS_NONE;
    layout.cell = layout.halves ? 1 : 2;
    /* Shrinks both sides by the same whole factor, so that cells are alike: with 1.5 every other
     * one would be the mean of two entries, and stripes would show that the map has not. */
    uint32_t rows_most = (uint32_t)(layout.halves ? 2 * lines : lines);
    uint32_t columns_most = (uint32_t)(layout.room / layout.cell);
    uint32_t by_rows = (layer->rows - 1) / rows_most + 1;
    uint32_t by_columns = (layer->columns - 1) / columns_most + 1;
    uint32_t factor = by_rows > by_columns ? by_rows : by_columns;
    layout.rows = (layer->rows - 1) / factor + 1;
    layout.columns = (layer->columns - 1) / factor + 1;
    return layout;
}

void view_plan(const struct view *view, uint32_t *ret_rows, uint32_t *ret_columns)
{
    struct layout layout = plan(view);
    *ret_rows = layout.rows;
    *ret_columns = layout.columns;
}

/* Colours ------------------------------------------------------------------------------------- */

/* xterm's 256 colours have no dark purples: from dark grey by blue and green to yellow instead,
 * each lighter than the one before. */
static unsigned index_of(double share)
{
    static const uint8_t table[] = {234, 17, 18, 24, 31, 37, 43, 79, 114, 150, 186, 228};
    int count = sizeof table, at = (int)(share * count);
    return table[at >= count ? count - 1 : at];
}

/* `ground` 38 = characters, 48 = behind them. */
static void put_color(const struct show_screen *screen, int ground, double share)
{
    /* Viridis (Smith and van der Walt 2015, CC0) at ninths, straight lines between. */
    static const uint8_t table[][3] = {{0x44, 0x01, 0x54}, {0x48, 0x28, 0x78}, {0x3e, 0x4a, 0x89},
                                       {0x31, 0x68, 0x8e}, {0x26, 0x82, 0x8e}, {0x1f, 0x9e, 0x89},
                                       {0x35, 0xb7, 0x79}, {0x6e, 0xce, 0x58}, {0xb5, 0xde, 0x2b},
                                       {0xfd, 0xe7, 0x25}};
    double at = share * 9;
    int i = at >= 9 ? 8 : (int)at;
    unsigned rgb[3];
    for (int k = 0; k < 3; k++) {
        rgb[k] = (unsigned)(table[i][k] + (at - i) * (table[i + 1][k] - table[i][k]) + 0.5);
    }
    if (screen->colors == COLORS_TRUE) {
        fprintf(screen->out, "\x1b[%d;2;%u;%u;%um", ground, rgb[0], rgb[1], rgb[2]);
    } else {
        fprintf(screen->out, "\x1b[%d;5;%um", ground, index_of(share));
    }
}

static void put_plain(const struct show_screen *screen)
{
    if (screen->colors != COLORS_NONE) {
        fputs("\x1b[0m", screen->out);
    }
}

/* Cells --------------------------------------------------------------------------------------- */

static const char *shade_of(const struct show_screen *screen, double share)
{
    static const char *const blocks[SHADES] = {" ", "\xe2\x96\x91", "\xe2\x96\x92", "\xe2\x96\x93",
                                               "\xe2\x96\x88"};
    static const char *const signs[SIGNS] = {" ", ".", ":", "-", "=", "+", "*", "#", "%", "@"};
    if (isnan(share)) {
        return screen->utf8 ? MIDDLE_DOT : "?";
    }
    if (screen->utf8) {
        return blocks[share >= 1 ? SHADES - 1 : (int)(share * SHADES)];
    }
    return signs[share >= 1 ? SIGNS - 1 : (int)(share * SIGNS)];
}

/* `lower` NaN: nothing, or the picture has ended. */
static void put_halves(const struct show_screen *screen, double upper, double lower)
{
    put_plain(screen);
    if (isnan(upper) && isnan(lower)) {
        fputs(MIDDLE_DOT, screen->out);
        return;
    }
    if (isnan(upper)) { /* the lower half block */
        put_color(screen, 38, lower);
        fputs("\xe2\x96\x84", screen->out);
        return;
    }
    put_color(screen, 38, upper);
    if (!isnan(lower)) {
        put_color(screen, 48, lower);
    }
    fputs(UPPER_HALF, screen->out);
}

/* Half of what such a row gives to each key, as in a cell at the edge of a causal map. */
static double even_weight(const struct view *view)
{
    return 0.5 / view->layer->keys;
}

static double cell_share(const struct view *view, double largest, uint32_t row, uint32_t column)
{
    const struct findings *found = view->found;
    const struct show_screen *screen = &view->screen;
    if (row >= found->picture_rows) {
        return NAN;
    }
    /* 0 to 1; NaN stays. */
    double value = found->picture[(size_t)row * found->picture_columns + column];
    double share = largest > 0 ? sqrt(fmax(value, 0) / largest) : 0;
    if (screen->colors == COLORS_NONE && value >= even_weight(view)) {
        share = fmax(share, 1.0 / (screen->utf8 ? SHADES : SIGNS));
    }
    return isnan(value) ? NAN : share;
}

/* Above the cells ----------------------------------------------------------------------------- */

static void put_margin(const struct view *view, const struct layout *layout)
{
    int margin = layout->digits + 1 + (layout->label ? layout->label + 1 : 0) + 1;
    fprintf(view->screen.out, "%*s", margin, "");
}

/* The text in line `line` of the header above a column, in at most `width` columns. */
static struct token_unit header_unit(const struct view *view, const struct layout *layout,
                                     const char *label, int line)
{
    struct token_unit units[HEADER_LINES], cut = {.text = "~", .width = 1}, none = {.width = 0};
    bool more = false;
    int count = label ? token_split(label, view->screen.utf8, units, HEADER_LINES, &more) : 0;
    int at = line - (layout->header - count); /* they stand on the map */
    if (view->screen.utf8) {
        strcpy(cut.text, "\xe2\x80\xa6");
    }
    if (at < 0) {
        return none;
    }
    /* An escape has no room. */
    return (more && at == count - 1) || units[at].width > layout->cell ? cut : units[at];
}

static void put_ticks(const struct view *view, const struct layout *layout)
{
    const struct source_layer *layer = view->layer;
    uint64_t keys = layer->keys, step = 1, apart = (uint64_t)digits_of(layer->keys - 1) + 1;
    int at = 0;
    put_margin(view, layout);
    /* A round number of keys whose ticks are far enough apart: 1, 2, 5, 10, 20, 50, ... */
    for (int i = 0; step * layout->columns * (uint64_t)layout->cell < keys * apart; i++) {
        step = i % 3 == 1 ? step / 2 * 5 : step * 2;
    }
    for (uint64_t key = 0; key < keys; key += step) {
        char text[16];
        /* The picture's cells are of the source's, and those of keys. */
        uint32_t cell = source_cell((uint32_t)key, layer->keys, layer->columns);
        int place = (int)source_cell(cell, layer->columns, layout->columns) * layout->cell;
        int len = snprintf(text, sizeof text, "%" PRIu64, key);
        if (place < at || place + len > (int)layout->columns * layout->cell + 1) {
            continue;
        }
        fprintf(view->screen.out, "%*s%s", place - at, "", text);
        at = place + len;
    }
    putc('\n', view->screen.out);
}

/* Below them ---------------------------------------------------------------------------------- */

static void put_legend(const struct view *view, double largest)
{
    const struct show_screen *screen = &view->screen;
    double least[SHADES];
    for (int i = 0; i < SHADES; i++) {
        least[i] = largest * i * i / (SHADES * SHADES);
    }
    least[1] = fmin(least[1], even_weight(view));
    if (!(largest > 0)) {
        screen_say(screen, 2, "no entry is above 0");
    } else if (screen->colors != COLORS_NONE) {
        fputs("0 ", screen->out);
        for (int i = 0; i < LEGEND_CELLS; i++) {
            put_color(screen, 48, (double)i / (LEGEND_CELLS - 1));
            putc(' ', screen->out);
        }
        put_plain(screen);
        fprintf(screen->out, " %.3g, by its square root\n", largest);
    } else if (screen->utf8) {
        screen_say(screen, 2,
                   "\xe2\x96\x91 from %.2g, \xe2\x96\x92 from %.2g, \xe2\x96\x93 from %.2g, "
                   "\xe2\x96\x88 from %.2g to %.2g",
                   least[1], least[2], least[3], least[4], largest);
    } else {
        screen_say(screen, 2, ".:-=+*#%%@ from %.2g to %.2g, by the square root",
                   fmin(largest / (SIGNS * SIGNS), even_weight(view)), largest);
    }
}

void view_map(const struct view *view)
{
    const struct show_screen *screen = &view->screen;
    struct layout layout = plan(view);
    const struct findings *found = view->found;
    double largest = 0;
    bool missing = false;
    for (size_t i = 0; i < (size_t)found->picture_rows * found->picture_columns; i++) {
        largest = fmax(largest, found->picture[i]);
        missing = missing || isnan(found->picture[i]);
    }
    screen_title(screen, "map of %s: a line per query, a column per key", VIEW_HEAD(view));
    if (layout.header > 0) {
        /* Labels of the keys from top to bottom; a wide character fits the two columns of a cell.
         */
        for (int line = 0; line < layout.header; line++) {
            put_margin(view, &layout);
            for (uint32_t c = 0; c < layout.columns; c++) {
                struct token_unit unit = header_unit(view, &layout, view_key_label(view, c), line);
                /* Neighbours that run from right to left would change places. */
                fprintf(view->screen.out,
                        unit.right_to_left ? TOKEN_ISOLATE "%s" TOKEN_ISOLATE_END : "%s",
                        unit.text);
                fprintf(view->screen.out, "%*s", layout.cell - unit.width, "");
            }
            putc('\n', view->screen.out);
        }
    } else {
        put_ticks(view, &layout);
    }
    for (uint32_t r = 0; r < layout.rows; r += layout.halves ? 2 : 1) {
        const char *frame = screen->utf8 ? "\xe2\x94\x82" : "|";
        /* The picture's cells are of the source's, and those of queries. */
        uint32_t cell = source_edge(r, view->layer->rows, layout.rows);
        fprintf(screen->out, "%*" PRIu32 " ", layout.digits,
                source_edge(cell, view->layer->queries, view->layer->rows));
        if (layout.label > 0) {
            view_put_label(view, view_query_label(view, cell), layout.label);
            putc(' ', screen->out);
        }
        fputs(frame, screen->out);
        for (uint32_t c = 0; c < layout.columns; c++) {
            double share = cell_share(view, largest, r, c);
            if (layout.halves) {
                put_halves(screen, share, cell_share(view, largest, r + 1, c));
            } else {
                bool colored = screen->colors != COLORS_NONE && !isnan(share);
                if (colored) {
                    put_color(screen, 48, share);
                } else {
                    put_plain(screen);
                }
                for (int i = 0; i < layout.cell; i++) {
                    fputs(colored ? " " : shade_of(screen, share), screen->out);
                }
            }
        }
        put_plain(screen);
        fprintf(screen->out, "%s\n", frame);
    }
    put_legend(view, largest);
    if (missing) {
        screen_say(screen, 2, "%s no number", screen->utf8 ? MIDDLE_DOT : "?");
    }
    const struct source_layer *layer = view->layer;
    if (layout.rows != layer->queries || layout.columns != layer->keys) {
        screen_say(screen, 2,
                   "each cell is the mean of about %.3g x %.3g entries; a larger terminal shows "
                   "more",
                   (double)layer->queries / layout.rows, (double)layer->keys / layout.columns);
    }
}
