/* SPDX-License-Identifier: MIT */
/* lists: bars of one query, the first keys of each head, the largest entries. */
#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Up to BARS_MOST keys are all shown; of more, the first BARS_OF_MANY. */
#define BARS_MOST       20
#define BARS_OF_MANY    12
#define LABEL_WIDTH_MAX 20
#define BAR_LEAST       4
/* "100.0 %" */
#define PERCENT_WIDTH 7

/* Bars ---------------------------------------------------------------------------------------- */

/* A blank and a bar of this width in columns, to an eighth of one; nothing when that is none. */
static void put_bar(const struct show_screen *screen, double columns)
{
    int eighths = (int)(columns * 8 + 0.5), rest = eighths % 8, whole = (int)(columns + 0.5);
    if (screen->utf8 ? eighths == 0 : whole == 0) {
        return;
    }
    putc(' ', screen->out);
    if (!screen->utf8) {
        for (int i = 0; i < whole; i++) {
            putc('#', screen->out);
        }
        return;
    }
    for (int i = 0; i < eighths / 8; i++) {
        fputs("\xe2\x96\x88", screen->out);
    }
    if (rest > 0) {
        fprintf(screen->out, "\xe2\x96%c", 0x88 + 8 - rest); /* U+2588 full to U+258F an eighth */
    }
}

static void put_percent(const struct show_screen *screen, float weight)
{
    if (isfinite(weight)) {
        fprintf(screen->out, "%*.1f %%", PERCENT_WIDTH - 2, 100 * (double)weight);
    } else {
        fprintf(screen->out, "%*s", PERCENT_WIDTH, "-");
    }
}

static int spot_width(const struct view *view)
{
    char text[SPOT_MAX];
    view_key_spot(view, view->layer->columns - 1, text);
    return (int)strlen(text);
}

/* The widths of labels and bars. */
struct widths {
    int spot, label, bar;
};

static void lists_put_key(const struct view *view, const struct widths *w, uint32_t column)
{
    char spot[SPOT_MAX];
    view_key_spot(view, column, spot);
    fprintf(view->screen.out, "%*s", w->spot, spot);
    if (w->label > 0) {
        putc(' ', view->screen.out);
        view_put_label(view, view_key_label(view, column), w->label);
    }
}

static void put_bar_line(const struct view *view, const struct widths *w, uint32_t column,
                         float weight, double largest)
{
    const struct show_screen *screen = &view->screen;
    fputs("  ", screen->out);
    lists_put_key(view, w, column);
    putc(' ', screen->out);
    put_percent(screen, weight);
    if (w->bar > 0 && isfinite(weight) && weight > 0) {
        put_bar(screen, (double)weight / largest * w->bar);
    }
    putc('\n', screen->out);
}

/* In a pooled map a cell's weight is that of one of its keys; all of them have the sum. */
static double keys_in(const struct view *view, uint32_t column)
{
    const struct source_layer *layer = view->layer;
    return source_edge(column + 1, layer->keys, layer->columns) -
           source_edge(column, layer->keys, layer->columns);
}

void view_token(const struct view *view)
{
    const struct findings *found = view->found;
    uint32_t columns = view->layer->columns;
    struct entry top[BARS_MOST];
    char query[QUERY_TEXT_MAX], head[48];
    int width = view->screen.width;
    struct widths w = {.spot = spot_width(view),
                       .label = view_label_width(view, width >= 60 ? LABEL_WIDTH_MAX : width / 4)};
    /* two blanks, then each part with a blank before it */
    w.bar = width - 2 - w.spot - (w.label ? 1 + w.label : 0) - 1 - PERCENT_WIDTH - 1;
    w.bar = w.bar < BAR_LEAST ? 0 : w.bar;
    uint32_t count =
        measure_top(found->query, columns, columns <= BARS_MOST ? 1 : BARS_OF_MANY, top);
    double largest = count > 0 ? (double)top[0].weight : 0;
    view_query_text(view, query);
    view_head_text(view, head);
    screen_title(&view->screen, "what %s attend%s to, %s%s", query,
                 strncmp(query, "queries", 7) == 0 ? "" : "s", head,
                 columns <= BARS_MOST ? "" : ", the largest first");
    if (columns < view->layer->keys) {
        screen_say(&view->screen, 4, "  (where a cell has several keys: the mean of one)");
    }
    if (found->moved) {
        screen_say(&view->screen, 4,
                   "  (query 0 attends to one key at most; --token N shows any other)");
    }
    if (count == 0 || largest <= 0) {
        screen_say(&view->screen, 4,
                   count == 0 ? "  none of its weights is a number"
                              : "  nothing: all of its weights are 0 (padding?)");
        return;
    }
    if (columns <= BARS_MOST) {
        for (uint32_t c = 0; c < columns; c++) {
            put_bar_line(view, &w, c, found->query[c], largest);
        }
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        put_bar_line(view, &w, top[i].column, top[i].weight, largest);
    }
    double rest = 0;
    const struct source_layer *layer = view->layer;
    for (uint32_t c = 0; c < layer->columns; c++) {
        rest +=
            isfinite(view->found->query[c]) ? (double)view->found->query[c] * keys_in(view, c) : 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        rest -= (double)top[i].weight * keys_in(view, top[i].column);
    }
    screen_say(&view->screen, 4, "  the other %" PRIu32 " %s: %.1f %%", layer->columns - count,
               layer->columns < layer->keys ? "cells" : "keys", 100 * fmax(rest, 0));
}

/* Heads --------------------------------------------------------------------------------------- */

static void put_top(const struct view *view, const struct widths *w, const struct entry *entry)
{
    if (isnan(entry->weight)) {
        fprintf(view->screen.out, "%*s%*s", w->spot, "-",
                (w->label ? 1 + w->label : 0) + 1 + PERCENT_WIDTH, "");
        return;
    }
    lists_put_key(view, w, entry->column);
    putc(' ', view->screen.out);
    put_percent(&view->screen, entry->weight);
}

/* How wide labels may be so that all first keys are on one line; -1 = they are not. */
static int fit_labels(const struct view *view, int head, int spot)
{
    int count = (int)view->found->top_count;
    int room = (view->screen.width - 2 - head) / count - 2 - spot - 1 - PERCENT_WIDTH;
    if (room < 0) {
        return -1;
    }
    int label = room < 4 ? 0 : view_label_width(view, room - 1);
    return label < LABEL_WIDTH_MAX ? label : LABEL_WIDTH_MAX;
}

void view_heads(const struct view *view)
{
    char query[QUERY_TEXT_MAX], last[16];
    int digits = snprintf(last, sizeof last, "%" PRIu32, view->layer->heads - 1);
    digits = digits < 4 ? 4 : digits;
    struct widths w = {.spot = spot_width(view), .bar = 1};
    w.label = fit_labels(view, digits, w.spot);
    if (w.label < 0) { /* a line per key instead */
        w.bar = 0;
        w.label = view_label_width(view, view->screen.width - digits - w.spot - PERCENT_WIDTH - 6);
    }
    view_query_text(view, query);
    screen_title(&view->screen, "top %" PRIu32 " key%s of %s in each head", view->found->top_count,
                 view->found->top_count == 1 ? "" : "s", query);
    fprintf(view->screen.out, "  %*s  KEY\n", digits, "HEAD");
    for (uint32_t h = 0; h < view->layer->heads; h++) {
        const struct entry *tops = view->found->tops + (size_t)h * view->found->top_count;
        bool one_line = w.bar > 0;
        fprintf(view->screen.out, "  %*" PRIu32, digits, h);
        if (tops[0].weight <= 0) {
            fputs("  nothing: all 0\n", view->screen.out);
            continue;
        }
        for (uint32_t i = 0; i < view->found->top_count; i++) {
            if (i > 0 && !one_line) {
                fprintf(view->screen.out, "\n  %*s", digits, "");
            }
            fputs("  ", view->screen.out);
            put_top(view, &w, &tops[i]);
        }
        putc('\n', view->screen.out);
    }
}

/* Pairs --------------------------------------------------------------------------------------- */

void view_pairs(const struct view *view)
{
    const struct findings *found = view->found;
    char head[48], last[SPOT_MAX];
    struct widths query = {.spot = 0}, key = {.spot = spot_width(view)};
    view_query_spot(view, view->layer->rows - 1, last);
    query.spot = (int)strlen(last);
    /* Two blanks, a number, a label, an arrow, a number, a label, a percentage. */
    int room = view->screen.width - 2 - query.spot - 3 - key.spot - 1 - PERCENT_WIDTH;
    int half = room / 2 - 1;
    int most = half < LABEL_WIDTH_MAX ? half : LABEL_WIDTH_MAX;
    char text[TOKEN_FIT_BYTES];
    int widest = 0;
    for (uint32_t i = 0; i < view->found->pair_count && most > 0; i++) {
        const char *label = view_query_label(view, view->found->pairs[i].row);
        int width = label ? token_fit(label, most, view->screen.utf8, text) : 0;
        widest = width > widest ? width : widest;
    }
    query.label = widest;
    key.label = view_label_width(view, most);
    view_head_text(view, head);
    screen_title(&view->screen, "the largest entries of %s: query %s key", head,
                 view->screen.utf8 ? "\xe2\x86\x92" : "->");
    for (uint32_t i = 0; i < found->pair_count; i++) {
        const struct entry *pair = &found->pairs[i];
        const struct show_screen *screen = &view->screen;
        char spot[SPOT_MAX];
        view_query_spot(view, pair->row, spot);
        fprintf(screen->out, "  %*s", query.spot, spot);
        if (query.label > 0) {
            putc(' ', screen->out);
            view_put_label(view, view_query_label(view, pair->row), query.label);
        }
        fputs(screen->utf8 ? " \xe2\x86\x92 " : " -> ", screen->out);
        lists_put_key(view, &key, pair->column);
        putc(' ', screen->out);
        put_percent(screen, pair->weight);
        putc('\n', screen->out);
    }
    if (found->pair_count == 0) {
        screen_say(&view->screen, 4, "  none is above 0");
    }
}
