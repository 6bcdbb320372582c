/* SPDX-License-Identifier: MIT */
#include "daemon/history/params.h"

#include "config/config.h"
#include "proto/err.h"
#include "proto/method.h"
#include "proto/utf8.h"
#include "config/value.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a text that a sentence repeats. */
#define SHOWN_MAX 64

const char *const statistic_name[STATISTIC_COUNT] = {
    [STATISTIC_MEAN] = "mean",    [STATISTIC_STD] = "std", [STATISTIC_MIN] = "min",
    [STATISTIC_MAX] = "max",      [STATISTIC_P10] = "p10", [STATISTIC_P50] = "p50",
    [STATISTIC_P90] = "p90",      [STATISTIC_P99] = "p99", [STATISTIC_LAST] = "last",
    [STATISTIC_NUMBER] = "count",
};

enum params_kind {
    KIND_TEXT,
    KIND_LINE,
    KIND_LINES,
    KIND_TAGS,
    KIND_NUMBER,
    KIND_BOOL,
    KIND_TRACK,
    KIND_STATISTICS,
    KIND_STATISTIC
};

static const struct info {
    const char *name;
    enum params_kind kind;
    size_t offset, room;
    uint64_t least, most;
    const char *valid;
} info[] = {
#define PARAM(symbol, name, kind, field, least, most, valid)                                       \
    {name,                                                                                         \
     KIND_##kind,                                                                                  \
     offsetof(struct history_params, field),                                                       \
     sizeof(((struct history_params *)NULL)->field),                                               \
     least,                                                                                        \
     most,                                                                                         \
     valid},
#include "daemon/history/param.def"
#undef PARAM
};
enum { INFO_COUNT = sizeof info / sizeof info[0] };

static bool history_params_read_text(const msgpack_object *value, char *field, uint64_t room)
{
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size == 0 ||
        value->via.str.size >= room || memchr(value->via.str.ptr, '\0', value->via.str.size)) {
        return false;
    }
    memcpy(field, value->via.str.ptr, value->via.str.size);
    field[value->via.str.size] = '\0';
    return true;
}

/* Text that people write, which may be empty; with `lines` of several lines. */
static bool params_read_lines(const msgpack_object *value, bool lines, char *field, uint64_t room)
{
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size >= room) {
        return false;
    }
    const char *text = value->via.str.ptr;
    for (size_t left = value->via.str.size, size; left > 0; left -= size + (size < left)) {
        size = 0;
        while (size < left && !(lines && (text[size] == '\n' || text[size] == '\t'))) {
            size++;
        }
        if (!utf8_is_plain(text, size)) {
            return false;
        }
        text += size + (size < left);
    }
    memcpy(field, value->via.str.ptr, value->via.str.size);
    field[value->via.str.size] = '\0';
    return true;
}

static int params_compare_tags(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* In their order, each once. */
static bool params_read_tags(const msgpack_object *value, char *field)
{
    char tags[STORE_TAGS_MAX][STORE_TAG_MAX + 1];
    uint32_t count = mpk_items(value);
    bool valid = value->type == MSGPACK_OBJECT_ARRAY && count <= STORE_TAGS_MAX;
    for (uint32_t i = 0; i < count && valid; i++) {
        valid = params_read_lines(&value->via.array.ptr[i], false, tags[i], sizeof tags[i]) &&
                *tags[i] && !strchr(tags[i], ' ');
    }
    if (!valid) {
        return false;
    }
    qsort(tags, count, sizeof tags[0], params_compare_tags);
    *field = '\0';
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(tags[i], tags[i - 1]) != 0) {
            field = stpcpy(stpcpy(field, i ? " " : ""), tags[i]);
        }
    }
    return true;
}

bool history_track_parse(const char *text, struct history_track *ret_track)
{
    static const struct value_rule rule = {VALUE_WINDOWS, 0, 0};
    char reason[VALUE_REASON_MAX];
    config_windows windows = {.count = 0};
    if (value_parse(&rule, text, &windows, reason) != 0 || windows.count != 1) {
        return false;
    }
    *ret_track = (struct history_track){(enum window_unit)windows.window[0].unit,
                                        windows.window[0].length, windows.window[0].every};
    return true;
}

bool history_is_word(const char *text, const char *words)
{
    size_t length = strlen(text);
    for (; words; words = strchr(words, ',') ? strchr(words, ',') + 2 : NULL) {
        if (strncmp(words, text, length) == 0 && (words[length] == ',' || words[length] == '\0')) {
            return true;
        }
    }
    return false;
}

static bool text_fits(unsigned bit, const char *text)
{
    if (bit & (PARAM_RUN | PARAM_RUN_B)) {
        /* Lower-case digits; a prefix of a run. */
        return text[strspn(text, "0123456789abcdef")] == '\0';
    }
    if (bit & (PARAM_JOB | PARAM_JOB_B)) {
        return job_name_valid(text, strlen(text));
    }
    if (bit & (PARAM_STACK | PARAM_SITE | PARAM_SEVERITY | PARAM_STATE | PARAM_KIND)) {
        return history_is_word(text, info[__builtin_ctz(bit)].valid);
    }
    return true;
}

/* 0 for what is none. */
static unsigned statistic_bit(const msgpack_object *name)
{
    unsigned bit = 0;
    for (int i = 0; i < STATISTIC_COUNT && !bit; i++) {
        bit = mpk_is_str(name, statistic_name[i]) ? 1u << i : 0;
    }
    return bit;
}

static bool history_params_read_value(const msgpack_object *value, int index,
                                      struct history_params *params)
{
    const struct info *one = &info[index];
    void *field = (char *)params + one->offset;
    char text[80];
    switch (one->kind) {
    case KIND_TEXT:
        return history_params_read_text(value, field, one->room) && text_fits(1u << index, field);
    case KIND_LINE:
    case KIND_LINES:
        return params_read_lines(value, one->kind == KIND_LINES, field, one->room);
    case KIND_TAGS:
        return params_read_tags(value, field);
    case KIND_NUMBER:
        return mpk_get_u64(value, one->most, field) == 0 && *(uint64_t *)field >= one->least;
    case KIND_BOOL:
        return mpk_get_bool(value, field) == 0;
    case KIND_TRACK:
        return history_params_read_text(value, text, sizeof text) &&
               history_track_parse(text, &params->track);
    case KIND_STATISTICS:
        if (value->type != MSGPACK_OBJECT_ARRAY || value->via.array.size == 0) {
            return false;
        }
        params->statistics = 0;
        for (uint32_t i = 0; i < value->via.array.size; i++) {
            unsigned bit = statistic_bit(&value->via.array.ptr[i]);
            if (!bit) {
                return false;
            }
            params->statistics |= bit;
        }
        return true;
    case KIND_STATISTIC:
        params->statistics = statistic_bit(value);
        return params->statistics != 0;
    }
    return false;
}

static enum method_parameter params_find(const char *takes, int index)
{
    return method_parameter_find(takes, info[index].name, strlen(info[index].name));
}

/* The beginning of a text, for a sentence: what cannot be shown becomes '?'. */
static void params_show_text(const msgpack_object *text, char ret_shown[SHOWN_MAX])
{
    size_t length = text->via.str.size < SHOWN_MAX - 1 ? text->via.str.size : SHOWN_MAX - 1;
    for (size_t i = 0; i < length; i++) {
        char c = text->via.str.ptr[i];
        ret_shown[i] = c < ' ' || c > '~' ? '?' : c;
    }
    ret_shown[length] = '\0';
}

void history_refuse_key(const msgpack_object *key, char *reterr, size_t size)
{
    char name[SHOWN_MAX] = "?";
    if (key->type == MSGPACK_OBJECT_STR) {
        params_show_text(key, name);
    }
    snprintf(reterr, size, "this method has no parameter '%s'", name);
}

const char *history_show_value(const msgpack_object *value, char ret_shown[HISTORY_SHOWN_MAX])
{
    const size_t size = HISTORY_SHOWN_MAX;
    char text[SHOWN_MAX];
    switch (value ? value->type : MSGPACK_OBJECT_NIL) {
    case MSGPACK_OBJECT_NIL:
        snprintf(ret_shown, size, "none");
        break;
    case MSGPACK_OBJECT_STR:
        params_show_text(value, text);
        snprintf(ret_shown, size, "the text '%s'", text);
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        snprintf(ret_shown, size, "%" PRIu64, value->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        snprintf(ret_shown, size, "%" PRId64, value->via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        snprintf(ret_shown, size, "the float %.17g", value->via.f64);
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        snprintf(ret_shown, size, "%s", value->via.boolean ? "true" : "false");
        break;
    case MSGPACK_OBJECT_ARRAY:
        snprintf(ret_shown, size, "a list of %" PRIu32, value->via.array.size);
        break;
    case MSGPACK_OBJECT_MAP:
        snprintf(ret_shown, size, "a map");
        break;
    default:
        snprintf(ret_shown, size, "a binary");
    }
    return ret_shown;
}

void history_refuse_value(const char *name, const msgpack_object *value, const char *valid,
                          char *reterr, size_t size)
{
    char shown[HISTORY_SHOWN_MAX];
    snprintf(reterr, size, "%s is not accepted: %s (valid: %s)", name,
             history_show_value(value, shown), valid);
}

int history_params_read(const msgpack_object *map, const char *takes,
                        struct history_params *ret_params, char *reterr, size_t size)
{
    struct history_params params = {.to = UINT64_MAX,
                                    .limit = HISTORY_LIMIT,
                                    .count = HISTORY_LIMIT_MAX,
                                    .points = HISTORY_POINTS,
                                    .statistics = (1u << STATISTIC_COUNT) - 1};
    bool is_map = map->type == MSGPACK_OBJECT_MAP;
    if (!is_map && map->type != MSGPACK_OBJECT_NIL) {
        snprintf(reterr, size, "the parameters are no map");
        return ERR_ARGUMENT;
    }
    for (uint32_t i = 0; is_map && i < map->via.map.size; i++) {
        const msgpack_object_kv *pair = &map->via.map.ptr[i];
        int index = 0;
        while (index < INFO_COUNT &&
               (!mpk_is_str(&pair->key, info[index].name) || !params_find(takes, index))) {
            index++;
        }
        if (index == INFO_COUNT) {
            history_refuse_key(&pair->key, reterr, size);
            return ERR_ARGUMENT;
        }
        if (pair->val.type == MSGPACK_OBJECT_NIL) {
            continue;
        }
        if (!history_params_read_value(&pair->val, index, &params)) {
            history_refuse_value(info[index].name, &pair->val, info[index].valid, reterr, size);
            return ERR_ARGUMENT;
        }
        params.given |= 1u << index;
    }
    int missing = 0;
    while (missing < INFO_COUNT &&
           ((params.given & 1u << missing) || params_find(takes, missing) != METHOD_NEEDS)) {
        missing++;
    }
    if (missing < INFO_COUNT) {
        snprintf(reterr, size, "%s is missing", info[missing].name);
    } else if (params.from > params.to) {
        snprintf(reterr, size, "from %" PRIu64 " is greater than to %" PRIu64, params.from,
                 params.to);
    } else {
        *ret_params = params;
        return 0;
    }
    return ERR_ARGUMENT;
}
