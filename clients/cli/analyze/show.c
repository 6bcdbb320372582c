/* SPDX-License-Identifier: MIT */
/* show: prints the columns that fit a terminal of 80 columns; --json has everything. Columns that a
 * layer has no number for are left out. */
#include "clients/cli/analyze/options.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Pairs that are listed. */
#define PAIRS_SHOWN 5
/* Sums that are this near to 1 were the reason for nothing. */
#define SUM_SOUND 1e-3

/* Two heads, and how far apart they are, in nats. */
struct alike {
    uint32_t a, b;
    double js;
};

struct metric_column {
    const char *title, *map, *name, *help;
};

static const struct metric_column columns[] = {
    {"ENTROPY", "heads", "entropy_normalized", "0 = one key, 1 = uniform over visible keys"},
    {"KEYS", "heads", "effective_keys", "number of keys with that entropy"},
    {"CONF", "heads", "confidence", "mean of the largest weight of a row"},
    {"DIST", "heads", "mean_distance", "tokens between query and key"},
    {"PREV", "heads", "previous_token", "weight on the token before"},
    {"FIRST", "heads", "first_token", "weight on the first token (sink)"},
    {"INDUCT", "heads", "induction", "behind an earlier occurrence; needs .tokens"},
    {"LOGIT", "heads", "max_logit", "mean of the largest logit of a row; q and k only"},
    {"NORM", "spectrum", "spectral_norm", "largest singular value"},
    {"SRANK", "spectrum", "stable_rank", "stable rank"},
    {"PATTERN", "heads", "pattern", "name of the head's behaviour"},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

void show_print_legend(FILE *out)
{
    for (int i = 0; i < COLUMNS; i++) {
        int length = fprintf(out, "  %-8s %s:", columns[i].title, columns[i].name);
        fprintf(out, "%*s  %s\n", length < 29 ? 29 - length : 0, "", columns[i].help);
    }
}

static void show_put_number(struct out_table *table, double value)
{
    if (isnan(value)) {
        out_cell(table, "-");
    } else if (fabs(value) < 100) {
        out_cell(table, "%.3f", value);
    } else {
        out_cell(table, fabs(value) < 1e6 ? "%.1f" : "%.3g", value);
    }
}

static bool is_all_null(const msgpack_object *list)
{
    for (uint32_t i = 0; i < mpk_items(list); i++) {
        if (list->via.array.ptr[i].type != MSGPACK_OBJECT_NIL) {
            return false;
        }
    }
    return true;
}

/* Rows that were left out; when they are most rows, what may be the matter. */
static void show_invalid(const msgpack_object *layer, uint64_t rows, uint64_t invalid, FILE *out)
{
    double error = mpk_number(mpk_find(layer, "row_sum_error"));
    fprintf(out, "%" PRIu64 " of %" PRIu64 " rows left out: ", invalid, rows + invalid);
    if (!(error > SUM_SOUND)) {
        fputs("not finite, or negative\n", out);
        return;
    }
    fprintf(out, "not finite, negative, or the sum is off (by up to %.2g)\n", error);
    if (invalid > rows) {
        fprintf(out, "the sums over visible keys are not 1: %s\n",
                field_bool(layer, "causal") ? "is this causal?"
                                            : "--dropout? --learned-sink? a mask?");
    }
}

static void show_heads(const msgpack_object *layer, int width, FILE *out)
{
    const msgpack_object *lists[COLUMNS];
    const char *titles[COLUMNS];
    struct out_table table;
    int used = 0;
    for (int i = 0; i < COLUMNS; i++) {
        titles[used] = columns[i].title;
        lists[used] = mpk_find(mpk_find(layer, columns[i].map), columns[i].name);
        used += !is_all_null(lists[used]);
    }
    if (used == 0) {
        return;
    }
    out_begin(&table, "HEAD");
    for (int i = 0; i < used; i++) {
        out_more(&table, titles[i]);
    }
    uint32_t heads = (uint32_t)fmax(field_item(mpk_find(layer, "shape"), 1), 0);
    for (uint32_t h = 0; h < heads; h++) {
        out_cell(&table, "%" PRIu32, h);
        for (int i = 0; i < used; i++) {
            const msgpack_object *cell = field_at(lists[i], h);
            if (cell && cell->type == MSGPACK_OBJECT_STR) {
                out_cell(&table, "%.*s", (int)cell->via.str.size, cell->via.str.ptr);
            } else {
                show_put_number(&table, mpk_number(cell));
            }
        }
    }
    out_print(&table, width, false, out);
}

/* Pairs --------------------------------------------------------------------------------------- */

static void show_pair_of_heads(uint32_t shown, const struct alike *pair, const char *title,
                               FILE *out)
{
    fprintf(out, "%sh%" PRIu32 "%sh%" PRIu32 " %.4f", shown ? "  " : title, pair->a,
            *title == 'r' ? "=" : "~", pair->b, pair->js);
}

/* Puts a pair in its place among the nearest; `count` are there already. */
static uint32_t show_insert_pair(struct alike nearest[PAIRS_SHOWN], uint32_t count,
                                 struct alike pair)
{
    uint32_t at = count < PAIRS_SHOWN ? count : PAIRS_SHOWN - 1;
    if (count == PAIRS_SHOWN && pair.js >= nearest[at].js) {
        return count;
    }
    for (; at > 0 && nearest[at - 1].js > pair.js; at--) {
        nearest[at] = nearest[at - 1];
    }
    nearest[at] = pair;
    return count < PAIRS_SHOWN ? count + 1 : count;
}

static void show_redundant(const msgpack_object *layer, FILE *out)
{
    const msgpack_object *pairs = mpk_find(layer, "redundant_pairs");
    uint64_t total = mpk_find_u64(layer, "redundant_total");
    uint32_t count = mpk_items(pairs);
    if (count == 0) {
        /* No heads are redundant: those that come nearest to it. */
        const msgpack_object *js = mpk_find(layer, "head_js");
        struct alike nearest[PAIRS_SHOWN];
        uint32_t alike_count = 0, alike_heads = mpk_items(js);
        for (uint32_t a = 0; a < alike_heads; a++) {
            for (uint32_t b = a + 1; b < alike_heads; b++) {
                struct alike alike_pair = {a, b, field_item(&js->via.array.ptr[a], b)};
                if (!isnan(alike_pair.js)) {
                    alike_count = show_insert_pair(nearest, alike_count, alike_pair);
                }
            }
        }
        for (uint32_t i = 0; i < alike_count; i++) {
            show_pair_of_heads(i, &nearest[i], "most alike  ", out);
        }
        if (alike_count > 0) {
            putc('\n', out);
        }
        return;
    }
    for (uint32_t i = 0; i < count && i < PAIRS_SHOWN; i++) {
        const msgpack_object *pair = &pairs->via.array.ptr[i], *heads = mpk_find(pair, "heads");
        struct alike alike = {(uint32_t)field_item(heads, 0), (uint32_t)field_item(heads, 1),
                              mpk_number(mpk_find(pair, "js"))};
        show_pair_of_heads(i, &alike, "redundant  ", out);
    }
    if (total > PAIRS_SHOWN) {
        fprintf(out, "  and %" PRIu64 " more", total - PAIRS_SHOWN);
    }
    putc('\n', out);
}

/* Projections --------------------------------------------------------------------------------- */

static const char *const whole_fields[] = {"spectral_norm", "stable_rank", "effective_rank",
                                           "condition_number"};
enum { WHOLE_FIELDS = sizeof whole_fields / sizeof whole_fields[0] };

static void show_put_key(struct out_table *table, const msgpack_object_kv *pair)
{
    out_cell(table, "%.*s", (int)pair->key.via.str.size, pair->key.via.str.ptr);
}

/* Projections are measured whole, products of two per head only. */
static void show_whole(const msgpack_object_map *matrices, int width, FILE *out)
{
    struct out_table table;
    out_begin(&table, "MATRIX|NORM|SRANK|ERANK|LOG10 COND|HEAD CORR");
    for (uint32_t m = 0; m < matrices->size; m++) {
        const msgpack_object *matrix = &matrices->ptr[m].val, *whole = mpk_find(matrix, "whole");
        if (!whole) {
            continue;
        }
        show_put_key(&table, &matrices->ptr[m]);
        for (int i = 0; i < WHOLE_FIELDS; i++) {
            /* A spectrum with a rank but no condition number: a matrix that is short of rank. */
            const char *name = whole_fields[i];
            double value = mpk_number(mpk_find(whole, name));
            if (isnan(value) && strcmp(name, "condition_number") == 0 &&
                !isnan(mpk_number(mpk_find(whole, "rank")))) {
                out_cell(&table, "inf");
            } else {
                show_put_number(&table, value);
            }
        }
        show_put_number(&table, mpk_number(mpk_find(matrix, "head_correlation_mean")));
    }
    out_print(&table, width, false, out);
}

static const msgpack_object *norms_of(const msgpack_object_kv *matrix)
{
    return mpk_find(mpk_find(&matrix->val, "heads"), "spectral_norm");
}

void show_layer(const msgpack_object *layer, int width, FILE *out)
{
    const msgpack_object *weights = mpk_find(layer, "weights");
    const char *tier = FIELD_TEXT(layer, "tier");
    uint64_t rows = mpk_find_u64(layer, "rows"), invalid = mpk_find_u64(layer, "invalid_rows");
    double sinks = mpk_number(mpk_find(layer, "sink_rate"));
    fprintf(out, "%s  %s", FIELD_LAYER(layer), tier);
    const msgpack_object *shape = mpk_find(layer, "shape");
    for (uint32_t i = 0; i < mpk_items(shape); i++) {
        fprintf(out, "%s%.0f%s", i ? ", " : "  [", field_item(shape, i),
                i + 1 == mpk_items(shape) ? "]" : "");
    }
    if (strcmp(tier, "weights") != 0) {
        fprintf(out, "%s  %" PRIu64 " row%s", field_bool(layer, "causal") ? "  causal" : "", rows,
                out_plural(rows));
    }
    if (!isnan(sinks)) {
        fprintf(out, "  sink rate %.2f", sinks);
    }
    putc('\n', out);
    if (invalid > 0) {
        show_invalid(layer, rows, invalid, out);
    }
    if (mpk_pairs(weights) > 0) {
        show_whole(&weights->via.map, width, out);
        /* The norm of each head's slice and product; with fewer key and value heads the rest is
         * empty. */
        struct out_table table;
        uint32_t heads = 0;
        out_begin(&table, "NORM OF HEAD");
        table.columns += (int)weights->via.map.size;
        for (uint32_t m = 0; m < weights->via.map.size; m++) {
            uint32_t own = mpk_items(norms_of(&weights->via.map.ptr[m]));
            heads = own > heads ? own : heads;
            show_put_key(&table, &weights->via.map.ptr[m]);
        }
        for (uint32_t h = 0; h < heads; h++) {
            out_cell(&table, "%" PRIu32, h);
            for (uint32_t m = 0; m < weights->via.map.size; m++) {
                show_put_number(&table, field_item(norms_of(&weights->via.map.ptr[m]), h));
            }
        }
        out_print(&table, width, false, out);
    }
    show_heads(layer, width, out);
    const msgpack_object *pairs = mpk_find(layer, "top_pairs");
    uint32_t count = mpk_items(pairs);
    for (uint32_t i = 0; i < count && i < PAIRS_SHOWN; i++) {
        const msgpack_object *pair = &pairs->via.array.ptr[i];
        fprintf(out, "%s%" PRIu64 ">%" PRIu64 " %.3f", i ? "  " : "top pairs  ",
                mpk_find_u64(pair, "query"), mpk_find_u64(pair, "key"),
                mpk_number(mpk_find(pair, "weight")));
    }
    if (count > 0) {
        putc('\n', out);
    }
    show_redundant(layer, out);
}
