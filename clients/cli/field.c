/* SPDX-License-Identifier: MIT */
#include "field.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

uint64_t field_u64(const msgpack_object *map, const char *key)
{
    uint64_t number;
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_u64(value, UINT64_MAX, &number) == 0 ? number : 0;
}

/* Bytes beyond ASCII pass: they are UTF-8 that attnd has been given. */
static void copy_text(const msgpack_object_str *text, char *ret_text, size_t size)
{
    size_t length = text->size < size - 1 ? text->size : size - 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text->ptr[i];
        ret_text[i] = byte < ' ' || byte == 0x7f ? '?' : text->ptr[i];
    }
    ret_text[length] = '\0';
}

void field_text(const msgpack_object *map, const char *key, char *ret_text, size_t size)
{
    const msgpack_object *value = mpk_find(map, key);
    ret_text[0] = '\0';
    if (value && value->type == MSGPACK_OBJECT_STR)
        copy_text(&value->via.str, ret_text, size);
}

bool field_bool(const msgpack_object *map, const char *key)
{
    const msgpack_object *value = mpk_find(map, key);
    bool result;
    return value && mpk_get_bool(value, &result) == 0 && result;
}

uint32_t field_length(const msgpack_object *value)
{
    if (value && value->type == MSGPACK_OBJECT_ARRAY)
        return value->via.array.size;
    if (value && value->type == MSGPACK_OBJECT_MAP)
        return value->via.map.size;
    return 0;
}

double field_item(const msgpack_object *array, uint32_t index)
{
    double number;
    if (!array || array->type != MSGPACK_OBJECT_ARRAY || index >= array->via.array.size)
        return NAN;
    return mpk_get_f64(&array->via.array.ptr[index], &number) == 0 ? number : NAN;
}

uint64_t field_sum(const msgpack_object *map)
{
    uint64_t sum = 0, number;
    if (!map || map->type != MSGPACK_OBJECT_MAP)
        return 0;
    for (uint32_t i = 0; i < map->via.map.size; i++)
        if (mpk_get_u64(&map->via.map.ptr[i].val, UINT64_MAX, &number) == 0)
            sum += number;
    return sum;
}

void field_show(const msgpack_object *value, char *ret_text, size_t size)
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
        snprintf(ret_text, size, "(%" PRIu32 " items)", field_length(value));
    }
}

void field_layer(const msgpack_object *map, char ret_text[LAYER_TEXT_MAX])
{
    char stack[16], site[16];
    field_text(map, "stack", stack, sizeof(stack));
    field_text(map, "site", site, sizeof(site));
    if (stack[0] == '\0' && site[0] == '\0')
        snprintf(ret_text, LAYER_TEXT_MAX, "-");
    else
        snprintf(ret_text, LAYER_TEXT_MAX, "%s.%" PRIu64 ".%s", stack, field_u64(map, "layer"),
                 site);
}
