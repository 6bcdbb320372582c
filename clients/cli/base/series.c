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

/* How the values of a row are written; as a header only their names are. */
struct form {
    enum { FORM_HEADER, FORM_CSV, FORM_JSON } kind;
    FILE *out;
    bool first;
};

static void put_value(struct form *form, const char *name, const char *text)
{
    fputs(form->first ? "" : ",", form->out);
    form->first = false;
    if (form->kind == FORM_JSON) {
        fprintf(form->out, "\"%s\":", name);
    }
    fputs(form->kind == FORM_HEADER ? name : text, form->out);
}

static void series_print_text(struct form *form, const char *name, const msgpack_object *map)
{
    char text[JOB_NAME_MAX + 1], quoted[sizeof text + 2];
    field_text(map, name, text, sizeof text);
    field_unquote(text);
    snprintf(quoted, sizeof quoted, form->kind == FORM_JSON ? "\"%s\"" : "%s", text);
    put_value(form, name, quoted);
}

static void series_print_u64(struct form *form, const char *name, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    put_value(form, name, text);
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
    if (isfinite(number)) {
        shortest(number, text);
    }
    put_value(form, name, *text || form->kind != FORM_JSON ? text : "null");
}

/* first_unit, last_unit: `last` alone is a statistic. */
static void print_row(struct form *form, const struct series *series, uint32_t head,
                      uint32_t window)
{
    const msgpack_object *map = series->map, *place = field_at(mpk_find(map, "heads"), head);
    bool json = form->kind == FORM_JSON;
    fputs(json ? "{" : "", form->out);
    form->first = true;
    series_print_text(form, "job", map);
    series_print_text(form, "run", map);
    series_print_text(form, "unit", map);
    series_print_u64(form, "length", mpk_find_u64(map, "length"));
    series_print_u64(form, "every", mpk_find_u64(map, "every"));
    series_print_u64(form, "first_unit", series_window(series, "first", window));
    series_print_u64(form, "last_unit", series_window(series, "last", window));
    series_print_u64(form, "epoch", series_window(series, "epoch", window));
    series_print_u64(form, "step", series_window(series, "step", window));
    series_print_u64(form, "time_ns", series_window(series, "time_ns", window));
    put_value(form, "partial", series_partial(series, window) ? "true" : "false");
    series_print_text(form, "stack", place);
    series_print_u64(form, "layer", mpk_find_u64(place, "layer"));
    series_print_text(form, "site", place);
    print_f64(form, "head", mpk_number(mpk_find(place, "head")));
    series_print_text(form, "metric", map);
    for (int i = 0; i < STATISTICS; i++) {
        print_f64(form, statistics[i], series_value(series, statistics[i], head, window));
    }
    fputs(json ? "}\n" : "\n", form->out);
}

void series_print_header(FILE *out)
{
    print_row(&(struct form){FORM_HEADER, out, true}, &(struct series){.map = NULL}, 0, 0);
}

void series_print(const struct series *series, bool json, FILE *out)
{
    struct form form = {.kind = json ? FORM_JSON : FORM_CSV, .out = out};
    for (uint32_t head = 0; head < series->heads; head++) {
        for (uint32_t window = 0; window < series->windows; window++) {
            print_row(&form, series, head, window);
        }
    }
}
