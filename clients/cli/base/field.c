/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/field.h"

#include "proto/metric.h"
#include "proto/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void copy_text(const msgpack_object_str *text, char *ret_text, size_t size)
{
    size_t length = text->size < size - 1 ? text->size : size - 1;
    memcpy(ret_text, text->ptr, length);
    utf8_make_plain(ret_text, length);
}

const char *field_text(const msgpack_object *map, const char *key, char *ret_text, size_t size)
{
    const msgpack_object *value = mpk_find(map, key);
    ret_text[0] = '\0';
    if (value && value->type == MSGPACK_OBJECT_STR) {
        copy_text(&value->via.str, ret_text, size);
    }
    return ret_text;
}

bool field_bool(const msgpack_object *map, const char *key)
{
    const msgpack_object *value = mpk_find(map, key);
    bool result;
    return value && mpk_get_bool(value, &result) == 0 && result;
}

const msgpack_object *field_at(const msgpack_object *array, uint32_t index)
{
    return index < mpk_items(array) ? &array->via.array.ptr[index] : NULL;
}

double field_item(const msgpack_object *array, uint32_t index)
{
    return mpk_number(field_at(array, index));
}

/* The value itself, or of a window's statistics what stands for all of them. */
static const msgpack_object *representative(const msgpack_object *value)
{
    if (!value || value->type != MSGPACK_OBJECT_MAP) {
        return value;
    }
    const msgpack_object *mean = mpk_find(value, "mean");
    return mean ? mean : mpk_find(value, "last");
}

const msgpack_object *field_metric(const msgpack_object *map, const char *name)
{
    const msgpack_object *value = mpk_find(mpk_find(map, "heads"), name);
    if (!value) {
        value = mpk_find(mpk_find(map, "spectrum"), name);
    }
    if (!value && strcmp(name, "sink_rate") == 0) {
        value = mpk_find(map, name);
    }
    /* NULL instead of what does not fit a table. */
    const msgpack_object *shown = representative(value), *first = field_at(shown, 0);
    if (shown && shown->type == MSGPACK_OBJECT_ARRAY) {
        return first && first->type != MSGPACK_OBJECT_ARRAY ? shown : NULL;
    }
    return shown && shown->type != MSGPACK_OBJECT_MAP ? shown : NULL;
}

/* Visits the keys of a map that are metrics of the whole result. */
static void field_each_key(const msgpack_object *map, const msgpack_object *keys,
                           void (*visit)(void *data, const char *name), void *data)
{
    for (uint32_t i = 0; i < mpk_pairs(keys); i++) {
        char name[FIELD_NAME_MAX];
        field_show(&keys->via.map.ptr[i].key, name, sizeof name);
        if (field_metric(map, name)) {
            visit(data, name);
        }
    }
}

void field_each_metric(const msgpack_object *map, void (*visit)(void *data, const char *name),
                       void *data)
{
    field_each_key(map, mpk_find(map, "heads"), visit, data);
    if (field_metric(map, "sink_rate")) {
        visit(data, "sink_rate");
    }
    field_each_key(map, mpk_find(map, "spectrum"), visit, data);
}

static void keep_first(void *data, const char *name)
{
    char *first = data;
    if (*first == '\0') {
        snprintf(first, FIELD_NAME_MAX, "%s", name);
    }
}

bool field_choose_metric(const msgpack_object *maps, uint32_t count, char ret_name[FIELD_NAME_MAX])
{
    static const char *const first[] = {
        "entropy_normalized", "max_logit",        "spectral_norm",    "qk_spectral_norm",
        "wq.spectral_norm",   "wk.spectral_norm", "wv.spectral_norm", "wo.spectral_norm",
    };
    ret_name[0] = '\0';
    for (size_t f = 0; f < sizeof first / sizeof first[0]; f++) {
        for (uint32_t i = 0; i < count; i++) {
            if (field_metric(&maps[i], first[f])) {
                snprintf(ret_name, FIELD_NAME_MAX, "%s", first[f]);
                return true;
            }
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        field_each_metric(&maps[i], keep_first, ret_name);
    }
    return ret_name[0] != '\0';
}

uint32_t field_columns(const msgpack_object *value)
{
    return value && value->type != MSGPACK_OBJECT_ARRAY ? 1 : mpk_items(value);
}

const msgpack_object *field_column(const msgpack_object *value, uint32_t index)
{
    if (index >= field_columns(value)) {
        return NULL;
    }
    return value->type == MSGPACK_OBJECT_ARRAY ? &value->via.array.ptr[index] : value;
}

double field_standard_error(const msgpack_object *map, const char *metric, double std, double rows)
{
    bool sampled = mpk_find_u64(map, "rows_of") > mpk_find_u64(map, "rows");
    return metric_find(metric) < METRIC_ROW_COUNT && sampled && rows > 0 ? std / sqrt(rows) : NAN;
}

uint64_t field_sum(const msgpack_object *map)
{
    uint64_t sum = 0, number;
    for (uint32_t i = 0; i < mpk_pairs(map); i++) {
        bool is_number = mpk_get_u64(&map->via.map.ptr[i].val, UINT64_MAX, &number) == 0;
        sum += is_number ? number : 0;
    }
    return sum;
}

uint64_t field_dropped(const msgpack_object *map)
{
    const msgpack_object *dropped = mpk_find(map, "dropped");
    return field_sum(dropped) - mpk_find_u64(dropped, "repeated");
}

uint64_t field_received(const msgpack_object *map)
{
    return mpk_find_u64(map, "received") - mpk_find_u64(mpk_find(map, "dropped"), "repeated");
}

const char *field_show(const msgpack_object *value, char *ret_text, size_t size)
{
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        snprintf(ret_text, size, "-");
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        snprintf(ret_text, size, "%s", value->via.boolean ? "true" : "false");
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        snprintf(ret_text, size, "%" PRIu64, value->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        snprintf(ret_text, size, "%" PRId64, value->via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        snprintf(ret_text, size, "%.6g", value->via.f64);
        break;
    case MSGPACK_OBJECT_STR:
        copy_text(&value->via.str, ret_text, size);
        break;
    default:
        snprintf(ret_text, size, "(%" PRIu32 " items)", mpk_items(value) + mpk_pairs(value));
    }
    return ret_text;
}

void field_unquote(char *text)
{
    while ((text = strpbrk(text, ",\"\\"))) {
        *text++ = '?';
    }
}

const char *field_layer(const msgpack_object *map, char ret_text[LAYER_TEXT_MAX])
{
    char stack[16], site[16];
    field_text(map, "stack", stack, sizeof stack);
    field_text(map, "site", site, sizeof site);
    if (stack[0] == '\0' && site[0] == '\0') {
        snprintf(ret_text, LAYER_TEXT_MAX, "-");
    } else {
        snprintf(ret_text, LAYER_TEXT_MAX, "%s.%" PRIu64 ".%s", stack, mpk_find_u64(map, "layer"),
                 site);
    }
    return ret_text;
}

const char *field_place(const msgpack_object *map, char ret_text[LAYER_TEXT_MAX])
{
    double head = mpk_number(mpk_find(map, "head"));
    size_t used = strlen(field_layer(map, ret_text));
    if (head >= 0) {
        snprintf(ret_text + used, LAYER_TEXT_MAX - used, ".h%.0f", head);
    }
    return ret_text;
}

bool field_is_over(const msgpack_object *run)
{
    const msgpack_object *state = mpk_find(run, "state");
    return mpk_is_str(state, "ended") || mpk_is_str(state, "failed");
}

uint64_t field_began(const msgpack_object *alert)
{
    const msgpack_object *since = mpk_find(alert, "since");
    uint64_t step = 0;
    if (mpk_items(since) == 2) {
        mpk_get_u64(&since->via.array.ptr[1], UINT64_MAX, &step);
    }
    return step;
}

const char *field_alert_since(const msgpack_object *alert, char ret_text[FIELD_SINCE_MAX])
{
    const msgpack_object *since = mpk_find(alert, "since");
    uint64_t after = 0;
    if (mpk_items(since) == 2 && since->via.array.ptr[0].type == MSGPACK_OBJECT_NIL) {
        snprintf(ret_text, FIELD_SINCE_MAX, "from the start");
    } else if (mpk_items(since) == 2 &&
               mpk_get_u64(&since->via.array.ptr[0], UINT64_MAX, &after) == 0) {
        snprintf(ret_text, FIELD_SINCE_MAX, "between steps %" PRIu64 " and %" PRIu64, after,
                 field_began(alert));
    }
    return ret_text;
}

const char *field_alert_state(const msgpack_object *alert, char ret_text[FIELD_STATE_MAX])
{
    field_text(alert, "state", ret_text, FIELD_STATE_MAX);
    for (char *letter = ret_text; *letter; letter++) {
        *letter = *letter == '_' ? ' ' : *letter;
    }
    return ret_text;
}

bool field_node_is_late(const msgpack_object *node)
{
    const msgpack_object *state = mpk_find(node, "state");
    return state && !mpk_is_str(state, "ok") && !mpk_is_str(state, "ended");
}

const msgpack_object *field_run(const msgpack_object *runs, const char *job, const char *run)
{
    const msgpack_object *last = NULL;
    for (uint32_t i = 0; i < mpk_items(runs); i++) {
        const msgpack_object *one = field_at(runs, i);
        if (!mpk_is_str(mpk_find(one, "job"), job) ||
            (run && strncmp(FIELD_TEXT(one, "run"), run, strlen(run)) != 0)) {
            continue;
        }
        if (mpk_is_str(mpk_find(one, "state"), "active")) {
            return one;
        }
        bool later = !last || mpk_find_u64(one, "heard_ns") > mpk_find_u64(last, "heard_ns");
        last = later ? one : last;
    }
    return last;
}
