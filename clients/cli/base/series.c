/* SPDX-License-Identifier: MIT */
/* A row has where and when it is, then every statistic. Text comes from names that attnd has
 * checked ([A-Za-z0-9._-]), so that neither commas nor quotes need care; other characters, which an
 * answer of something else could hold, are replaced by field_text or here. */
#include "clients/cli/base/series.h"

#include "clients/cli/base/field.h"
#include "proto/header.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const statistics[] = {"mean", "std", "min", "max",  "p10",
                                         "p50",  "p90", "p99", "last", "count"};
enum { STATISTICS = sizeof statistics / sizeof statistics[0] };

/* first_unit, last_unit: `last` alone is a statistic. */
static const char *const columns[] = {
    "job",  "run",     "unit",    "length", "every", "first_unit", "last_unit", "epoch",
    "step", "time_ns", "partial", "stack",  "layer", "site",       "head",      "metric"};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

struct series series_of(const msgpack_object *map)
{
    struct series series = {.map = map, .heads = mpk_items(mpk_find(map, "heads"))};
    const msgpack_object *values = mpk_find(map, "values");
    series.windows = mpk_items(mpk_find(mpk_find(map, "windows"), "last"));
    if (mpk_pairs(values) > 0) {
        const msgpack_object *first = field_at(&values->via.map.ptr[0].val, 0);
        series.nested = first && first->type == MSGPACK_OBJECT_ARRAY;
    }
    return series;
}

static const msgpack_object *window_item(const struct series *series, const char *key,
                                         uint32_t window)
{
    return field_at(mpk_find(mpk_find(series->map, "windows"), key), window);
}

uint64_t series_window(const struct series *series, const char *key, uint32_t window)
{
    const msgpack_object *value = window_item(series, key, window);
    uint64_t number;
    return value && mpk_get_u64(value, UINT64_MAX, &number) == 0 ? number : 0;
}

bool series_partial(const struct series *series, uint32_t window)
{
    const msgpack_object *value = window_item(series, "partial", window);
    bool partial;
    return value && mpk_get_bool(value, &partial) == 0 && partial;
}

double series_value(const struct series *series, const char *statistic, uint32_t head,
                    uint32_t window)
{
    const msgpack_object *list = mpk_find(mpk_find(series->map, "values"), statistic);
    if (series->nested) {
        list = field_at(list, head);
    }
    return field_item(list, window);
}

/* Rows */

void series_print_header(FILE *out)
{
    for (int i = 0; i < COLUMNS; i++) {
        fprintf(out, "%s%s", i > 0 ? "," : "", columns[i]);
    }
    for (int i = 0; i < STATISTICS; i++) {
        fprintf(out, ",%s", statistics[i]);
    }
    putc('\n', out);
}

/* How the values of a row are written. */
struct form {
    bool json;
    FILE *out;
    bool first;
};

static void begin_value(struct form *form, const char *name)
{
    if (!form->first) {
        putc(',', form->out);
    }
    if (form->json) {
        fprintf(form->out, "\"%s\":", name);
    }
    form->first = false;
}

static void series_print_text(struct form *form, const char *name, const msgpack_object *map)
{
    char text[JOB_NAME_MAX + 1];
    field_text(map, name, text, sizeof text);
    field_unquote(text);
    begin_value(form, name);
    fprintf(form->out, form->json ? "\"%s\"" : "%s", text);
}

static void series_print_u64(struct form *form, const char *name, uint64_t number)
{
    begin_value(form, name);
    fprintf(form->out, "%" PRIu64, number);
}

/* As few digits as give the same number back. */
static void shortest(double number, char ret_text[32])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(ret_text, 32, "%.*g", digits, number);
        if (strtod(ret_text, NULL) == number) {
            return;
        }
    }
}

static void print_f64(struct form *form, const char *name, double number)
{
    char text[32] = "";
    begin_value(form, name);
    if (isfinite(number)) {
        shortest(number, text);
    } else if (form->json) {
        snprintf(text, sizeof text, "null");
    }
    fputs(text, form->out);
}

void series_print(const struct series *series, bool json, FILE *out)
{
    struct form rows = {.json = json, .out = out}, *form = &rows;
    for (uint32_t head = 0; head < series->heads; head++) {
        for (uint32_t window = 0; window < series->windows; window++) {
            fputs(json ? "{" : "", out);
            form->first = true;
            series_print_text(form, "job", series->map);
            series_print_text(form, "run", series->map);
            series_print_text(form, "unit", series->map);
            series_print_u64(form, "length", mpk_find_u64(series->map, "length"));
            series_print_u64(form, "every", mpk_find_u64(series->map, "every"));
            series_print_u64(form, "first_unit", series_window(series, "first", window));
            series_print_u64(form, "last_unit", series_window(series, "last", window));
            series_print_u64(form, "epoch", series_window(series, "epoch", window));
            series_print_u64(form, "step", series_window(series, "step", window));
            series_print_u64(form, "time_ns", series_window(series, "time_ns", window));
            begin_value(form, "partial");
            fputs(series_partial(series, window) ? "true" : "false", out);
            const msgpack_object *where_head = field_at(mpk_find(series->map, "heads"), head);
            series_print_text(form, "stack", where_head);
            series_print_u64(form, "layer", mpk_find_u64(where_head, "layer"));
            series_print_text(form, "site", where_head);
            print_f64(form, "head", mpk_number(mpk_find(where_head, "head")));
            series_print_text(form, "metric", series->map);
            for (int i = 0; i < STATISTICS; i++) {
                print_f64(form, statistics[i], series_value(series, statistics[i], head, window));
            }
            fputs(json ? "}\n" : "\n", out);
        }
    }
}
