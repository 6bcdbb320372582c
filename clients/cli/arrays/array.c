/* SPDX-License-Identifier: MIT */
/* The common part of the formats: types, shapes, the list of arrays, errors. */
#include "clients/cli/arrays/array_internal.h"

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int array_fail(char *reterr, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reterr, ARRAY_ERROR_MAX, format, args);
    va_end(args);
    return -1;
}

/* Types and shapes ---------------------------------------------------------------------------- */

static const struct {
    size_t size;
    const char *npy, *safetensors; /* npy: behind the sign of its byte order */
} types[] = {
    [ARRAY_F32] = {4, "f4", "F32"},   [ARRAY_F16] = {2, "f2", "F16"},
    [ARRAY_BF16] = {2, "V2", "BF16"}, [ARRAY_F64] = {8, "f8", "F64"},
    [ARRAY_BOOL] = {1, "b1", "BOOL"}, [ARRAY_U8] = {1, "u1", "U8"},
    [ARRAY_I8] = {1, "i1", "I8"},     [ARRAY_U16] = {2, "u2", "U16"},
    [ARRAY_I16] = {2, "i2", "I16"},   [ARRAY_U32] = {4, "u4", "U32"},
    [ARRAY_I32] = {4, "i4", "I32"},   [ARRAY_U64] = {8, "u8", "U64"},
    [ARRAY_I64] = {8, "i8", "I64"},
};

enum array_type array_type_parse(const char *name, bool npy)
{
    int type = 0;
    while (type < ARRAY_OTHER && strcmp(name, npy ? types[type].npy : types[type].safetensors)) {
        type++;
    }
    return (enum array_type)type;
}

size_t array_type_size(enum array_type type)
{
    return type < ARRAY_OTHER ? types[type].size : 0;
}

bool array_type_is_integer(enum array_type type)
{
    return type >= ARRAY_BOOL && type <= ARRAY_I64;
}

bool array_type_dtype(enum array_type type, enum dtype *ret_dtype)
{
    if (type > ARRAY_F64) {
        return false;
    }
    *ret_dtype = (enum dtype)type;
    return true;
}

bool array_read_u64(const json_t *value, uint64_t *ret_number)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *ret_number = (uint64_t)json_integer_value(value);
    return true;
}

bool array_read_shape(const json_t *list, struct array *array)
{
    size_t rank = json_array_size(list);
    if (!json_is_array(list) || rank > ARRAY_RANK_MAX) {
        return false;
    }
    array->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        if (!array_read_u64(json_array_get(list, i), &array->shape[i])) {
            return false;
        }
    }
    return true;
}

int array_measure(struct array *array, char *reterr)
{
    uint64_t bytes = array_type_size(array->type);
    bool empty = bytes == 0;
    for (uint32_t i = 0; i < array->rank; i++) {
        empty = empty || array->shape[i] == 0;
    }
    array->bytes = 0;
    if (empty) {
        return 0;
    }
    for (uint32_t i = 0; i < array->rank; i++) {
        if (__builtin_mul_overflow(bytes, array->shape[i], &bytes) || bytes > INT64_MAX) {
            return array_fail(reterr, "the declared shape is larger than any file");
        }
    }
    array->bytes = bytes;
    return 0;
}

const char *array_shape_text(const struct array *array, char ret_text[ARRAY_SHAPE_TEXT_MAX])
{
    size_t used = 0;
    ret_text[used++] = '[';
    for (uint32_t i = 0; i < array->rank; i++) {
        used += (size_t)snprintf(ret_text + used, ARRAY_SHAPE_TEXT_MAX - used, "%s%" PRIu64,
                                 i ? ", " : "", array->shape[i]);
    }
    snprintf(ret_text + used, ARRAY_SHAPE_TEXT_MAX - used, "]");
    return ret_text;
}

/* The list ------------------------------------------------------------------------------------ */

int array_list_add(struct array_list *list, const struct array *array, const char *name, size_t len,
                   char *reterr)
{
    if (len > ARRAY_NAME_MAX) {
        return array_fail(reterr, "an array has a name of %zu bytes (at most %d)", len,
                          ARRAY_NAME_MAX);
    }
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 32;
        list->items = memory_grow(list->items, room, sizeof *list->items);
        list->room = room;
    }
    char *copy = memcpy(memory_new(len + 1, 1), name, len);
    list->items[list->count] = *array;
    list->items[list->count++].name = copy;
    return 0;
}

void array_list_shorten(struct array_list *list, size_t count)
{
    while (list->count > count) {
        free(list->items[--list->count].name);
    }
}

void array_list_clear(struct array_list *list)
{
    array_list_shorten(list, 0);
    free(list->items);
    *list = (struct array_list){0};
}
