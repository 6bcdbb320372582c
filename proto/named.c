/* SPDX-License-Identifier: MIT */
#include "proto/named.h"

#include "proto/err.h"
#include "proto/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Larger whole numbers are not exact as they are kept. */
#define NAMED_WHOLE_MAX 9007199254740992.0

bool named_name_valid(const char *name, size_t len)
{
    return len >= 1 && len <= NAMED_NAME_MAX && utf8_is_plain(name, len);
}

/* Copies to *at, which moves on. */
static const char *named_copy(const msgpack_object_str *text, char **at)
{
    char *copy = *at;
    if (text->size > 0) {
        memcpy(copy, text->ptr, text->size);
    }
    copy[text->size] = '\0';
    *at += text->size + 1;
    return copy;
}

static int named_read_number(const msgpack_object *value, struct named_value *one)
{
    if (value->type == MSGPACK_OBJECT_NIL) {
        one->kind = NAMED_NONE;
        return 0;
    }
    one->kind = NAMED_NUMBER;
    int rc = mpk_get_f64(value, &one->number);
    return !rc && !isfinite(one->number) ? ERR_KEY_RANGE : rc;
}

static int named_read_setting(const msgpack_object *value, char **at, struct named_value *one)
{
    if (value->type == MSGPACK_OBJECT_BOOLEAN) {
        one->kind = NAMED_FLAG;
        return mpk_get_bool(value, &one->flag);
    }
    if (value->type != MSGPACK_OBJECT_STR) {
        return value->type == MSGPACK_OBJECT_NIL ? ERR_KEY_TYPE : named_read_number(value, one);
    }
    if (value->via.str.size > NAMED_TEXT_MAX ||
        !utf8_is_plain(value->via.str.ptr, value->via.str.size)) {
        return ERR_KEY_RANGE;
    }
    one->kind = NAMED_TEXT;
    one->text = named_copy(&value->via.str, at);
    return 0;
}

static int named_read_name(const msgpack_object *key, char **at, const struct named_values *before,
                           const char **ret_name)
{
    if (key->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    if (!named_name_valid(key->via.str.ptr, key->via.str.size)) {
        return ERR_KEY_RANGE;
    }
    *ret_name = named_copy(&key->via.str, at);
    for (uint32_t i = 0; i < before->count; i++) {
        if (strcmp(before->list[i].name, *ret_name) == 0) {
            return ERR_KEY_DUPLICATE;
        }
    }
    return 0;
}

static int named_read(const msgpack_object *map, uint32_t max, bool settings,
                      struct named_values *ret_values)
{
    char *at;
    int rc = 0;
    *ret_values = (struct named_values){NULL, 0, NULL};
    if (map->type != MSGPACK_OBJECT_MAP) {
        return ERR_KEY_TYPE;
    }
    if (map->via.map.size > max) {
        return ERR_KEY_RANGE;
    }
    ret_values->list = calloc(map->via.map.size + 1, sizeof *ret_values->list);
    /* Bytes of all names and texts, with a NUL each; at most what the header has. */
    size_t size = 1;
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object_kv *kv = &map->via.map.ptr[i];
        size += kv->key.type == MSGPACK_OBJECT_STR ? kv->key.via.str.size + 1 : 0;
        size += kv->val.type == MSGPACK_OBJECT_STR ? kv->val.via.str.size + 1 : 0;
    }
    at = ret_values->texts = malloc(size);
    if (!ret_values->list || !at) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < map->via.map.size && !rc; i++) {
        const msgpack_object_kv *kv = &map->via.map.ptr[i];
        struct named_value *one = &ret_values->list[i];
        rc = named_read_name(&kv->key, &at, ret_values, &one->name);
        if (!rc) {
            rc = settings ? named_read_setting(&kv->val, &at, one)
                          : named_read_number(&kv->val, one);
        }
        ret_values->count += !rc;
    }
    return rc;
}

int named_read_values(const msgpack_object *map, struct named_values *ret_values)
{
    int rc = named_read(map, LOG_VALUES_MAX, false, ret_values);
    return !rc && ret_values->count == 0 ? ERR_KEY_RANGE : rc;
}

int named_read_settings(const msgpack_object *map, struct named_values *ret_values)
{
    return named_read(map, HELLO_SETTINGS_MAX, true, ret_values);
}

void named_clear(struct named_values *values)
{
    free(values->list);
    free(values->texts);
    *values = (struct named_values){NULL, 0, NULL};
}

static void named_put_number(struct mpk_writer *writer, double number)
{
    if (number >= 0 && number <= NAMED_WHOLE_MAX && floor(number) == number && !signbit(number)) {
        mpk_put_u64(writer, (uint64_t)number);
    } else {
        mpk_put_f64(writer, number);
    }
}

void named_put(const struct named_values *values, struct mpk_writer *writer)
{
    mpk_put_map(writer, values->count);
    for (uint32_t i = 0; i < values->count; i++) {
        const struct named_value *one = &values->list[i];
        mpk_put_str(writer, one->name);
        switch (one->kind) {
        case NAMED_NUMBER:
            named_put_number(writer, one->number);
            break;
        case NAMED_NONE:
            mpk_put_nil(writer);
            break;
        case NAMED_FLAG:
            mpk_put_bool(writer, one->flag);
            break;
        case NAMED_TEXT:
            mpk_put_str(writer, one->text);
            break;
        }
    }
}
