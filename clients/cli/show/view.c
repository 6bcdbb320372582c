/* SPDX-License-Identifier: MIT */
#include "clients/cli/show/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* "12", of a pooled cell "12-15". */
#define SPOT_MAX 24
static const char *write_spot(uint32_t cell, uint32_t length, uint32_t cells,
                              char ret_text[SPOT_MAX])
{
    uint32_t first = source_edge(cell, length, cells), last = source_edge(cell + 1, length, cells);
    if (last - first == 1) {
        snprintf(ret_text, SPOT_MAX, "%" PRIu32, first);
    } else {
        snprintf(ret_text, SPOT_MAX, "%" PRIu32 "-%" PRIu32, first, last - 1);
    }
    return ret_text;
}
/* Good as long as the block that they stand in. */
#define QUERY_SPOT(layer, row)                                                                     \
    write_spot(row, (layer)->queries, (layer)->rows, (char[SPOT_MAX]){""})
#define KEY_SPOT(layer, column)                                                                    \
    write_spot(column, (layer)->keys, (layer)->columns, (char[SPOT_MAX]){""})

const char *view_query_label(const struct view *view, uint32_t row)
{
    if (view->layer->rows < view->layer->queries) {
        return NULL;
    }
    return source_query_label(view->source, view->request->layer, view->request->sample, row);
}

const char *view_key_label(const struct view *view, uint32_t column)
{
    if (view->layer->columns < view->layer->keys) {
        return NULL;
    }
    return source_label(view->source, view->request->layer, view->request->sample, column);
}

int view_label_width(const struct view *view, int most)
{
    char text[TOKEN_FIT_BYTES];
    int widest = 0;
    for (uint32_t c = 0; c < view->layer->columns && widest < most; c++) {
        const char *label = view_key_label(view, c);
        int width = label ? token_fit(label, most, view->screen.utf8, text) : 0;
        widest = width > widest ? width : widest;
    }
    return widest;
}

void view_put_label(const struct view *view, const char *label, int width)
{
    char text[TOKEN_FIT_BYTES] = "";
    int used = label && width > 0 ? token_fit(label, width, view->screen.utf8, text) : 0;
    fprintf(view->screen.out, "%s%*s", text, width - used, "");
}

const char *view_head_text(const struct view *view, char ret_text[48])
{
    if (view->request->head != HEAD_MEAN) {
        snprintf(ret_text, 48, "head %" PRIu32, view->request->head);
    } else if (view->layer->heads == 1) {
        snprintf(ret_text, 48, "its only head");
    } else {
        snprintf(ret_text, 48, "the mean over %" PRIu32 " heads", view->layer->heads);
    }
    return ret_text;
}

/* "query 5 'mat'". */
#define QUERY_TEXT_MAX (SPOT_MAX + TOKEN_FIT_BYTES + 16)
static void view_query_text(const struct view *view, char ret_text[QUERY_TEXT_MAX])
{
    char text[TOKEN_FIT_BYTES];
    const char *label = view_query_label(view, view->found->row);
    const char *spot = QUERY_SPOT(view->layer, view->found->row);
    const char *noun = strchr(spot, '-') ? "queries" : "query";
    if (label) {
        token_fit(label, view->screen.width >= 60 ? 24 : 10, view->screen.utf8, text);
    }
    snprintf(ret_text, QUERY_TEXT_MAX, label ? "%s %s '%s'" : "%s %s", noun, spot,
             label ? text : "");
}

/* The numbers, as JSON. Numbers that do not exist are null; cells of a pooled map are given by
 * their first query or key. */

int view_json(const struct view *view, struct cli *cli)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    const struct source *source = view->source;
    bool timed = source->kind != SOURCE_FILES;
    mpk_put_map(&writer, timed ? 18 : 16);
    mpk_pair_str(&writer, "schema", "attnd.show/1");
    mpk_pair_str(&writer, "source", view->origin);
    mpk_pair_str(&writer, "run", *source->run ? source->run : NULL);
    mpk_pair_array(&writer, "layers", (uint32_t)source->layer_count);
    for (size_t i = 0; i < source->layer_count; i++) {
        mpk_put_str(&writer, PLACE_LAYER(source->layers[i].id));
    }
    mpk_pair_str(&writer, "layer", PLACE_LAYER(view->layer->id));
    mpk_pair_str(&writer, "module", *view->layer->module ? view->layer->module : NULL);
    if (timed) {
        mpk_pair_u64(&writer, "epoch", view->layer->epoch);
        mpk_pair_u64(&writer, "step", view->layer->step);
    }
    const struct source_layer *l = view->layer;
    mpk_pair_map(&writer, "shape", 4);
    mpk_pair_u64(&writer, "batch", l->batch);
    mpk_pair_u64(&writer, "heads", l->heads);
    mpk_pair_u64(&writer, "query", l->queries);
    mpk_pair_u64(&writer, "key", l->keys);
    mpk_pair_u64(&writer, "rows", view->layer->rows);
    mpk_pair_u64(&writer, "columns", view->layer->columns);
    mpk_pair_u64(&writer, "sample", view->request->sample);
    mpk_put_str(&writer, "head");
    if (view->request->head == HEAD_MEAN) {
        mpk_put_str(&writer, "mean");
    } else {
        mpk_put_u64(&writer, view->request->head);
    }
    const struct row_sums *sums = &view->found->sums;
    bool any = sums->sound + sums->other > 0;
    mpk_pair_map(&writer, "row_sums", 9);
    mpk_pair_u64(&writer, "rows", sums->rows);
    mpk_pair_u64(&writer, "sound", sums->sound);
    mpk_pair_u64(&writer, "zero", sums->zero);
    mpk_pair_u64(&writer, "missing", sums->missing);
    mpk_pair_u64(&writer, "other", sums->other);
    mpk_pair_f64(&writer, "tolerance", view->layer->tolerance);
    mpk_pair_f64(&writer, "min", any ? sums->min : NAN);
    mpk_pair_f64(&writer, "max", any ? sums->max : NAN);
    mpk_pair_f64(&writer, "mean_deviation", sums->deviation);
    mpk_put_str(&writer, "labels");
    if (view_label_width(view, 2) > 0) {
        mpk_put_array(&writer, l->columns);
        for (uint32_t c = 0; c < l->columns; c++) {
            mpk_put_str(&writer, view_key_label(view, c));
        }
    } else {
        mpk_put_nil(&writer);
    }
    const struct findings *found = view->found;
    mpk_pair_map(&writer, "token", 3);
    mpk_pair_u64(&writer, "query", source_edge(found->row, l->queries, l->rows));
    mpk_pair_str(&writer, "label", view_query_label(view, found->row));
    mpk_pair_array(&writer, "weights", view->layer->columns);
    for (uint32_t c = 0; c < view->layer->columns; c++) {
        mpk_put_f64(&writer, (double)found->query[c]);
    }
    mpk_pair_array(&writer, "top_keys", l->heads);
    for (uint32_t h = 0; h < l->heads; h++) {
        mpk_put_array(&writer, found->top_count);
        for (uint32_t i = 0; i < found->top_count; i++) {
            const struct entry *entry = &found->tops[(size_t)h * found->top_count + i];
            if (isnan(entry->weight)) {
                mpk_put_nil(&writer);
                continue;
            }
            mpk_put_map(&writer, 2);
            mpk_pair_u64(&writer, "key", source_edge(entry->column, l->keys, l->columns));
            mpk_pair_f64(&writer, "weight", (double)entry->weight);
        }
    }
    mpk_pair_array(&writer, "top_pairs", found->pair_count);
    for (uint32_t i = 0; i < found->pair_count; i++) {
        mpk_put_map(&writer, 3);
        mpk_pair_u64(&writer, "query", source_edge(found->pairs[i].row, l->queries, l->rows));
        mpk_pair_u64(&writer, "key", source_edge(found->pairs[i].column, l->keys, l->columns));
        mpk_pair_f64(&writer, "weight", (double)found->pairs[i].weight);
    }
    return cli_print_written(cli, &writer, 2);
}

/* The layer's structure in words. */

static void say_sums(const struct view *view)
{
    const struct row_sums *sums = &view->found->sums;
    const struct show_screen *screen = &view->screen;
    const char *rows = view->layer->rows < view->layer->queries ? "rows of cells" : "rows";
    if (sums->sound + sums->other == 0) {
        screen_say(screen, 4, "  row sums: no row of sample %" PRIu32 " attends to anything",
                   view->request->sample);
    } else if (isinf(view->layer->tolerance)) {
        screen_say(screen, 4,
                   "  row sums: not expected to be 1 (dropout, or a learned sink); least %.6g, "
                   "largest %.6g",
                   sums->min, sums->max);
    } else {
        screen_say(screen, 4,
                   "  row sums: %" PRIu64 " of %" PRIu64 " %s of sample %" PRIu32
                   " sum to 1 within %g; least %.7g, largest %.7g, mean |sum - 1| %.2g",
                   sums->sound, sums->rows, rows, view->request->sample, view->layer->tolerance,
                   sums->min, sums->max, sums->deviation);
    }
    if (sums->zero > 0) {
        screen_say(screen, 4, "  %" PRIu64 " %s all 0 (padding?)", sums->zero,
                   sums->zero == 1 ? "row is" : "rows are");
    }
    if (sums->missing > 0) {
        screen_say(screen, 4, "  %" PRIu64 " %s entries that are no number (NaN or infinite)",
                   sums->missing, sums->missing == 1 ? "row has" : "rows have");
    }
    if (sums->other > 0) {
        screen_say(screen, 4,
                   "  %" PRIu64 " %s to something else, the first to %.6g: head %" PRIu32
                   ", query %" PRIu32 ". Weights before or without softmax, or after dropout?",
                   sums->other, sums->other == 1 ? "row sums" : "rows sum", sums->other_sum,
                   sums->other_head,
                   source_edge(sums->other_row, view->layer->queries, view->layer->rows));
    }
}

void view_report(const struct view *view)
{
    const struct source_layer *layer = view->layer;
    const struct source *source = view->source;
    char where[96] = "";
    if (source->kind != SOURCE_FILES) {
        snprintf(where, sizeof where, ", epoch %" PRIu64 ", step %" PRIu64 ", run %.8s",
                 layer->epoch, layer->step, source->run);
    }
    screen_title(&view->screen, "%s of %s%s", PLACE_LAYER(view->layer->id), view->origin, where);
    if (layer->module[0]) {
        screen_say(&view->screen, 4, "  module %s", layer->module);
    }
    /* A running attnd has one sample. */
    if (source->kind == SOURCE_DAEMON) {
        char of[16] = "";
        if (layer->whole_batch) {
            snprintf(of, sizeof of, " of %" PRIu32, layer->whole_batch);
        }
        screen_say(&view->screen, 4,
                   "  [heads, query, key] = [%" PRIu32 ", %" PRIu32 ", %" PRIu32
                   "], sample %" PRIu32 "%s",
                   layer->heads, layer->queries, layer->keys, layer->first_sample, of);
    } else {
        screen_say(&view->screen, 4,
                   "  [batch, heads, query, key] = [%" PRIu32 ", %" PRIu32 ", %" PRIu32 ", %" PRIu32
                   "]%s",
                   layer->batch, layer->heads, layer->queries, layer->keys,
                   layer->causal ? ", causal" : "");
    }
    screen_say(&view->screen, 4,
               "  entry [b, h, i, j]: the share of its attention that query i gives to key j, in "
               "head h of sample b");
    if (layer->tier == MESSAGE_QK) {
        screen_say(&view->screen, 4,
                   "  made of queries and keys: softmax(scale q k), excluded keys are 0");
    }
    bool brought = layer->tier == MESSAGE_ROWS;
    if (layer->rows < layer->queries || layer->columns < layer->keys) {
        screen_say(&view->screen, 4,
                   "  %s has pooled it into %" PRIu32 " x %" PRIu32
                   " cells (maps.size): each is the mean of its entries, so single tokens are "
                   "not to be seen%s",
                   brought ? "the training" : "attnd", layer->rows, layer->columns,
                   brought ? "" : "; a recording has every entry");
    }
    if (layer->padding_queries + layer->padding_keys > 0) {
        screen_say(&view->screen, 4,
                   "  without the padding of sample %" PRIu32 ": %" PRIu32 " quer%s and %" PRIu32
                   " key%s (--padding shows them)",
                   view->request->sample, layer->padding_queries,
                   layer->padding_queries == 1 ? "y" : "ies", layer->padding_keys,
                   layer->padding_keys == 1 ? "" : "s");
    }
    say_sums(view);
    if (source->layer_count > 1) {
        screen_say(&view->screen, 4, "  %zu layers, %s to %s: --layer chooses another",
                   source->layer_count, PLACE_LAYER(source->layers[0].id),
                   PLACE_LAYER(source->layers[source->layer_count - 1].id));
    }
}

/* Bars of one query, the first keys of each head, the largest entries. */

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

/* The widths of labels and bars. */
struct widths {
    int spot, label, bar;
};

static void lists_put_key(const struct view *view, const struct widths *w, uint32_t column,
                          float weight)
{
    FILE *out = view->screen.out;
    fprintf(out, "%*s", w->spot, KEY_SPOT(view->layer, column));
    if (w->label > 0) {
        putc(' ', out);
        view_put_label(view, view_key_label(view, column), w->label);
    }
    if (isfinite(weight)) {
        fprintf(out, " %*.1f %%", PERCENT_WIDTH - 2, 100 * (double)weight);
    } else {
        fprintf(out, " %*s", PERCENT_WIDTH, "-");
    }
}

static void put_bar_line(const struct view *view, const struct widths *w, uint32_t column,
                         float weight, double largest)
{
    const struct show_screen *screen = &view->screen;
    fputs("  ", screen->out);
    lists_put_key(view, w, column, weight);
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
    char query[QUERY_TEXT_MAX];
    int width = view->screen.width;
    struct widths w = {.spot = (int)strlen(KEY_SPOT(view->layer, columns - 1)),
                       .label = view_label_width(view, width >= 60 ? LABEL_WIDTH_MAX : width / 4)};
    /* two blanks, then each part with a blank before it */
    w.bar = width - 2 - w.spot - (w.label ? 1 + w.label : 0) - 1 - PERCENT_WIDTH - 1;
    w.bar = w.bar < BAR_LEAST ? 0 : w.bar;
    uint32_t count =
        measure_top(found->query, columns, columns <= BARS_MOST ? 1 : BARS_OF_MANY, top);
    double largest = count > 0 ? (double)top[0].weight : 0;
    view_query_text(view, query);
    screen_title(&view->screen, "what %s attend%s to, %s%s", query,
                 strncmp(query, "queries", 7) == 0 ? "" : "s", VIEW_HEAD(view),
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
    struct widths w = {.spot = (int)strlen(KEY_SPOT(view->layer, view->layer->columns - 1)),
                       .bar = 1};
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
            if (isnan(tops[i].weight)) {
                fprintf(view->screen.out, "%*s%*s", w.spot, "-",
                        (w.label ? 1 + w.label : 0) + 1 + PERCENT_WIDTH, "");
            } else {
                lists_put_key(view, &w, tops[i].column, tops[i].weight);
            }
        }
        putc('\n', view->screen.out);
    }
}

void view_pairs(const struct view *view)
{
    const struct findings *found = view->found;
    const struct source_layer *layer = view->layer;
    struct widths query = {.spot = (int)strlen(QUERY_SPOT(layer, layer->rows - 1))};
    struct widths key = {.spot = (int)strlen(KEY_SPOT(layer, layer->columns - 1))};
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
    screen_title(&view->screen, "the largest entries of %s: query %s key", VIEW_HEAD(view),
                 view->screen.utf8 ? "\xe2\x86\x92" : "->");
    for (uint32_t i = 0; i < found->pair_count; i++) {
        const struct entry *pair = &found->pairs[i];
        const struct show_screen *screen = &view->screen;
        fprintf(screen->out, "  %*s", query.spot, QUERY_SPOT(layer, pair->row));
        if (query.label > 0) {
            putc(' ', screen->out);
            view_put_label(view, view_query_label(view, pair->row), query.label);
        }
        fputs(screen->utf8 ? " \xe2\x86\x92 " : " -> ", screen->out);
        lists_put_key(view, &key, pair->column, pair->weight);
        putc('\n', screen->out);
    }
    if (found->pair_count == 0) {
        screen_say(&view->screen, 4, "  none is above 0");
    }
}
