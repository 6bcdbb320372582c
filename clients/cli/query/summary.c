/* SPDX-License-Identifier: MIT */
/* summary: the verdict of a job, and its newest window as one table per window: a row per layer, a
 * column per head, of one metric; patterns are names. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/unknown.h"

#include "proto/header.h"
#include "proto/metric.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One summary, with what it is sorted and grouped by. */
struct summary_row {
    const msgpack_object *map, *values; /* values: those of the metric, by field_metric; or NULL */
    const msgpack_object *drift;        /* of the metric: delta, shift, js, change; or NULL */
    char run[33], stack[16], site[16];
    uint64_t first, last, layer;
};

static int summary_compare_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int compare_window(const struct summary_row *a, const struct summary_row *b)
{
    int order = strcmp(a->run, b->run);
    order = order ? order : summary_compare_u64(a->first, b->first);
    return order ? order : summary_compare_u64(a->last, b->last);
}

/* Within a window: encoder before decoder, by layer, self before cross. */
static int summary_compare_rows(const void *left, const void *right)
{
    const struct summary_row *a = left, *b = right;
    int order = compare_window(a, b);
    order = order ? order : strcmp(b->stack, a->stack);
    order = order ? order : summary_compare_u64(a->layer, b->layer);
    return order ? order : strcmp(b->site, a->site);
}

static bool summary_is_plain(const struct summary_row *rows, uint32_t count)
{
    bool plain = true;
    for (uint32_t i = 0; i < count && plain; i++) {
        for (uint32_t head = 0; head < field_columns(rows[i].values) && plain; head++) {
            plain = out_is_plain(mpk_number(field_column(rows[i].values, head)));
        }
    }
    return plain;
}

static double summary_error(const struct summary_row *row, const char *metric, uint32_t head)
{
    const msgpack_object *stat = mpk_find(mpk_find(row->map, "heads"), metric);
    return field_standard_error(row->map, metric, field_item(mpk_find(stat, "std"), head),
                                field_item(mpk_find(stat, "count"), head));
}

static void summary_add_value(struct out_table *table, const msgpack_object *value, double error,
                              bool plain)
{
    if (value && value->type == MSGPACK_OBJECT_STR) {
        out_cell(table, "%s", FIELD_VALUE(value));
    } else {
        out_mean(table, mpk_number(value), error, plain);
    }
}

/* Heads that the metric has, or its drift. */
static uint32_t heads_max(const struct summary_row *rows, uint32_t count, bool drift)
{
    uint32_t heads = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t found =
            drift ? mpk_items(mpk_find(rows[i].drift, "delta")) : field_columns(rows[i].values);
        heads = found > heads ? found : heads;
    }
    return heads;
}

/* Drift: a line per head, the farthest from the baseline first. A mark says that a head is 30 % of
 * the natural range or more away; it is no alert by itself. */

#define SHIFT_MARKED 6

struct drift_row {
    const struct summary_row *layer;
    uint32_t head, place;
    double shift; /* NaN = none */
};

static int compare_drift(const void *left, const void *right)
{
    const struct drift_row *a = left, *b = right;
    double order = fmax(-1, fabs(b->shift)) - fmax(-1, fabs(a->shift));
    return order < 0 ? -1 : order > 0 ? 1 : summary_compare_u64(a->place, b->place);
}

static void print_drift_table(struct cli *cli, const struct summary_row *rows, uint32_t count)
{
    static const char *const numbers[] = {"delta", "js", "change"};
    struct out_table table;
    uint32_t heads = heads_max(rows, count, true), used = 0;
    struct drift_row *row = memory_new((size_t)heads * count, sizeof *row);
    out_begin(&table, "HEAD|SHIFT|DELTA|JS|CHANGE");
    for (uint32_t i = 0; i < heads * count; i++) {
        const struct summary_row *layer = &rows[i / heads];
        if (i % heads < mpk_items(mpk_find(layer->drift, "delta"))) {
            double shift = mpk_number(field_column(mpk_find(layer->drift, "shift"), i % heads));
            row[used++] = (struct drift_row){layer, i % heads, i, shift};
        }
    }
    if (used > 0) {
        qsort(row, used, sizeof *row, compare_drift);
    }
    for (uint32_t i = 0; i < used; i++) {
        double shift = row[i].shift;
        out_cell(&table, "%s h%" PRIu32, FIELD_LAYER(row[i].layer->map), row[i].head);
        out_cell(&table, isnan(shift) ? "-" : "%s%.1f", fabs(shift) >= SHIFT_MARKED ? "*" : "",
                 shift);
        for (int n = 0; n < 3; n++) {
            out_number(&table,
                       field_column(mpk_find(row[i].layer->drift, numbers[n]), row[i].head));
        }
    }
    out_print(&table, cli->width, false, cli->out);
    free(row);
}

/* Whether a sample of the rows has this metric: others are of messages with all rows. */
static bool summary_is_of_rows_taken(const char *metric)
{
    unsigned m = metric_find(metric);
    return m < METRIC_COUNT && metric_info[m].group == METRIC_GROUP_CORE;
}

/* With totals over the layers of one window. */
static void summary_print_heading(struct cli *cli, const struct summary_row *rows, uint32_t count)
{
    const struct summary_row *row = &rows[0];
    uint64_t epoch = 0, step = 0, ranks = 0, messages = 0, lost = 0, dropped = 0;
    const msgpack_object *sampled = NULL; /* a layer whose rows are a sample */
    uint64_t taken = 0, of = 0;           /* the rows of these layers */
    bool partial = false;
    uint64_t last = row->last;
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *map = rows[i].map;
        epoch = mpk_find_u64(map, "epoch") > epoch ? mpk_find_u64(map, "epoch") : epoch;
        step = mpk_find_u64(map, "step") > step ? mpk_find_u64(map, "step") : step;
        ranks = mpk_find_u64(map, "ranks") > ranks ? mpk_find_u64(map, "ranks") : ranks;
        messages += mpk_find_u64(map, "messages");
        lost += mpk_find_u64(map, "lost");
        dropped += field_dropped(map);
        partial = partial || field_bool(mpk_find(map, "window"), "partial");
        sampled = mpk_find(map, "rows_of") ? map : sampled;
        taken += mpk_find(map, "rows_of") ? mpk_find_u64(map, "rows") : 0;
        of += mpk_find_u64(map, "rows_of");
    }
    const char *unit = FIELD_TEXT(mpk_find(row->map, "window"), "unit");
    fprintf(cli->out, "%s, run %.8s, epoch %" PRIu64 ", step %" PRIu64 "\n",
            FIELD_TEXT(row->map, "job"), row->run, epoch, step);
    fprintf(cli->out, "window: %s %" PRIu64, unit, row->first);
    if (partial && strcmp(unit, "step") == 0 && step >= row->first && step < last) {
        last = step; /* the run has come no further */
    }
    if (last != row->first) {
        fprintf(cli->out, " to %" PRIu64, last);
    }
    fprintf(cli->out,
            "%s, %" PRIu64 " rank%s, %" PRIu64 " message%s, %" PRIu64 " lost, %" PRIu64
            " dropped\n",
            partial ? " (partial)" : "", ranks, out_plural(ranks), messages, out_plural(messages),
            lost, dropped);
    if (cli->args->given & ARGS_DRIFT) {
        fprintf(cli->out, "%s, compared with the baseline; *: |shift| of %d or more\n\n",
                cli->args->metric, SHIFT_MARKED);
        return;
    }
    bool pattern = strcmp(cli->args->metric, "pattern") == 0; /* it has no mean */
    fprintf(cli->out, "%s, %s\n", cli->args->metric,
            pattern ? "of the newest message (attnctl roles: why, and since when)"
                    : "mean over the window");
    if (of > taken && summary_is_of_rows_taken(cli->args->metric)) {
        bool has_errors = isfinite(field_standard_error(sampled, cli->args->metric, 1, 1));
        fprintf(cli->out,
                "of the rows taken: %" PRIu64 " of about %" PRIu64 ", over all heads%s%s%s\n",
                taken, of, has_errors ? "; " : "", has_errors ? out_plus_minus() : "",
                has_errors ? ": standard error, at most" : "");
    }
    putc('\n', cli->out);
}

static void print_groups(struct cli *cli, const struct summary_row *rows, uint32_t count)
{
    bool drift = cli->args->given & ARGS_DRIFT;
    uint32_t shown = 0;
    for (uint32_t from = 0, to; from < count; from = to) {
        to = from + 1;
        while (to < count && compare_window(&rows[from], &rows[to]) == 0) {
            to++;
        }
        if (drift && heads_max(rows + from, to - from, true) == 0) {
            continue; /* of its first windows */
        }
        if (shown++ > 0) {
            putc('\n', cli->out);
        }
        summary_print_heading(cli, rows + from, to - from);
        if (drift) {
            print_drift_table(cli, rows + from, to - from);
        } else {
            const struct summary_row *table_rows = rows + from;
            uint32_t table_count = to - from;
            struct out_table table;
            uint32_t heads = heads_max(table_rows, table_count, false);
            bool plain = summary_is_plain(table_rows, table_count);
            bool modules = false, per_head = false; /* or one column, of the whole layer */
            for (uint32_t i = 0; i < table_count; i++) {
                modules = modules || mpk_find(table_rows[i].map, "module");
                per_head = per_head || mpk_items(table_rows[i].values) > 0;
            }
            heads = heads > 0 ? heads : 1; /* other windows have the metric */
            out_init(&table, 1 + (int)heads + modules);
            out_cell(&table, "LAYER");
            for (uint32_t head = 0; head < heads; head++) {
                out_cell(&table, per_head ? "h%" PRIu32 : "ALL HEADS", head);
            }
            if (modules) {
                out_cell(&table, "MODULE");
            }
            for (uint32_t i = 0; i < table_count; i++) {
                out_cell(&table, "%s", FIELD_LAYER(table_rows[i].map));
                for (uint32_t head = 0; head < heads; head++) {
                    summary_add_value(&table, field_column(table_rows[i].values, head),
                                      summary_error(&table_rows[i], cli->args->metric, head),
                                      plain);
                }
                if (modules) {
                    out_text(&table, table_rows[i].map, "module", 0);
                }
            }
            out_print(&table, cli->width, false, cli->out);
        }
    }
}

/* The names of the rows before this one have been added, each name once. */
struct summary_names {
    struct unknown unknown;
    const struct summary_row *rows;
    uint32_t before;
    bool drift; /* only what has a baseline */
};

static void summary_add_name(void *data, const char *name)
{
    struct summary_names *names = data;
    for (uint32_t i = 0; i <= names->before; i++) {
        const msgpack_object *map = names->rows[i].map;
        if (names->drift ? mpk_find(mpk_find(map, "drift"), name) : field_metric(map, name)) {
            if (i == names->before) {
                unknown_add(&names->unknown, name);
            }
            return;
        }
    }
}

int show_summary(struct cli *cli, const msgpack_object *result)
{
    uint32_t count = mpk_items(result);
    char chosen[FIELD_NAME_MAX];
    struct args args = *cli->args;
    struct cli shown = *cli;
    if (count == 0) {
        return cli_fail(cli, CLI_FINDING, "no summary of %s matches yet", args.words[1]);
    }
    bool any = !(args.given & ARGS_DRIFT); /* any layer has a baseline */
    for (uint32_t i = 0; i < count && !any; i++) {
        any = mpk_pairs(mpk_find(&result->via.array.ptr[i], "drift")) > 0;
    }
    if (!any) {
        return cli_fail(cli, CLI_FINDING,
                        "%s has no baseline yet: its first windows that neither rise nor fall make "
                        "one (drift.windows in attnctl config)",
                        args.words[1]);
    }
    if (!args.metric) {
        if (!field_choose_metric(result->via.array.ptr, count, chosen)) {
            return cli_fail(cli, CLI_FINDING, "the summary of %s has no metrics", args.words[1]);
        }
        args.metric = chosen;
    }
    shown.args = &args;
    struct summary_row *rows = memory_new(count, sizeof *rows);
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *map = &result->via.array.ptr[i];
        struct summary_row row = {.map = map, .values = field_metric(map, shown.args->metric)};
        row.drift = mpk_find(mpk_find(map, "drift"), shown.args->metric);
        field_text(map, "run", row.run, sizeof row.run);
        field_text(map, "stack", row.stack, sizeof row.stack);
        field_text(map, "site", row.site, sizeof row.site);
        row.layer = mpk_find_u64(map, "layer");
        row.first = mpk_find_u64(mpk_find(map, "window"), "first");
        row.last = mpk_find_u64(mpk_find(map, "window"), "last");
        rows[i] = row;
    }
    qsort(rows, count, sizeof *rows, summary_compare_rows);
    int code = CLI_OK;
    bool drift = shown.args->given & ARGS_DRIFT;
    if (heads_max(rows, count, drift) == 0) {
        /* No layer has the metric: name those there are. */
        struct summary_names names = {.rows = rows, .drift = drift};
        char text[UNKNOWN_TEXT_MAX], see[160];
        unknown_init(&names.unknown, shown.args->metric);
        for (; names.before < count; names.before++) {
            field_each_metric(rows[names.before].map, summary_add_name, &names);
        }
        snprintf(see, sizeof see, "attnctl summary %.128s --json", shown.args->words[1]);
        unknown_text(&names.unknown, see, text);
        code = cli_usage(&shown, "--metric: '%.80s': not in %s%s", shown.args->metric,
                         drift ? "the drift of this summary" : "this summary", text);
    } else {
        if (verdict_print(&shown, true)) {
            putc('\n', shown.out);
        }
        print_groups(&shown, rows, count);
        runs_print_history(&shown);
    }
    free(rows);
    return code;
}
