/* SPDX-License-Identifier: MIT */
/* safetensors: a length, a JSON header of that length, and one buffer:
 *
 *     <u64> {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...} bytes
 *
 * As the format demands, the tensors cover the buffer without overlap and without holes, so a file
 * cut short anywhere is found out. `__metadata__` is skipped. */
#include "clients/cli/arrays/array_internal.h"

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The format's own bound. */
#define HEADER_MAX UINT64_C(100000000)

static uint64_t safetensors_read_u64(const uint8_t *at)
{
    uint64_t number = 0;
    for (int i = 7; i >= 0; i--) {
        number = number << 8 | at[i];
    }
    return number;
}

bool safetensors_is(const uint8_t *data, size_t size)
{
    return size > 8 && safetensors_read_u64(data) <= HEADER_MAX && data[8] == '{';
}

/* One tensor of the header; offsets count from the end of the header, at `begin`. */
static int safetensors_read_tensor(const char *name, const json_t *tensor, struct array_file *file,
                                   uint64_t begin, struct array *ret_array, char *reterr)
{
    struct array array = {.file = file};
    const json_t *offsets = json_object_get(tensor, "data_offsets");
    const char *type = json_string_value(json_object_get(tensor, "dtype"));
    uint64_t from, to, there = file->size - begin;
    if (!type || !array_read_shape(json_object_get(tensor, "shape"), &array) ||
        json_array_size(offsets) != 2 || !array_read_u64(json_array_get(offsets, 0), &from) ||
        !array_read_u64(json_array_get(offsets, 1), &to)) {
        return array_fail(reterr, "%.200s: not a tensor's dtype, shape and data_offsets", name);
    }
    snprintf(array.type_name, sizeof array.type_name, "%s", type);
    array.type = array_type_parse(type, false);
    if (array_measure(&array, reterr) != 0) {
        return array_fail(reterr, "%.200s: the declared shape is larger than any file", name);
    }
    if (from > to || to > there) {
        return array_fail(reterr,
                          "truncated or corrupt: %.200s is at %" PRIu64 " to %" PRIu64
                          " of %" PRIu64 " bytes",
                          name, from, to, there);
    }
    if (array.type == ARRAY_OTHER) {
        array.bytes = to - from;
    }
    if (to - from != array.bytes) {
        return array_fail(reterr, "%.200s: its shape takes %" PRIu64 " bytes, its data is %" PRIu64,
                          name, array.bytes, to - from);
    }
    array.offset = begin + from;
    *ret_array = array;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct array *x = a, *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int list_tensors(struct array_file *file, json_t *header, uint64_t begin,
                        struct array_list *list, char *reterr)
{
    size_t before = list->count;
    const char *name;
    json_t *tensor;
    json_object_foreach(header, name, tensor)
    {
        struct array array;
        if (strcmp(name, "__metadata__") == 0) {
            continue;
        }
        int rc = safetensors_read_tensor(name, tensor, file, begin, &array, reterr);
        if (rc == 0) {
            rc = array_list_add(list, &array, name, strlen(name), reterr);
        }
        if (rc != 0) {
            return rc;
        }
    }
    /* From the end of the header to the end of the file, one tensor after the other. */
    struct array *arrays = list->items ? list->items + before : NULL;
    size_t count = list->count - before;
    uint64_t at = begin;
    if (count > 0) {
        qsort(arrays, count, sizeof *arrays, by_offset);
    }
    for (size_t i = 0; i < count; i++) {
        if (arrays[i].offset != at) {
            return array_fail(reterr, "corrupt: %.200s %s", arrays[i].name,
                              arrays[i].offset < at ? "overlaps another tensor"
                                                    : "leaves a hole before it");
        }
        at += arrays[i].bytes;
    }
    if (at != file->size) {
        return array_fail(reterr, "corrupt: %" PRIu64 " bytes belong to no tensor",
                          (uint64_t)file->size - at);
    }
    return 0;
}

int safetensors_list(struct array_file *file, struct array_list *list, char *reterr)
{
    json_error_t error;
    if (file->size < 8) {
        return array_fail(reterr, "truncated: no whole .safetensors header");
    }
    uint64_t len = safetensors_read_u64(file->data);
    if (len > HEADER_MAX) {
        return array_fail(reterr, "not a .safetensors file: a header of %" PRIu64 " bytes", len);
    }
    if (len > file->size - 8) {
        return array_fail(reterr, "truncated: its header takes %" PRIu64 " bytes, %zu are there",
                          len, file->size - 8);
    }
    json_t *header =
        json_loadb((const char *)file->data + 8, (size_t)len, JSON_REJECT_DUPLICATES, &error);
    if (!header && json_error_code(&error) == json_error_out_of_memory) {
        memory_short();
    }
    if (!json_is_object(header)) {
        json_decref(header);
        return array_fail(reterr, "its header is not a JSON object%s%.200s", header ? "" : ": ",
                          header ? "" : error.text);
    }
    int rc = list_tensors(file, header, 8 + len, list, reterr);
    json_decref(header);
    return rc;
}
