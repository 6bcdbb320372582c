/* SPDX-License-Identifier: MIT */
/* npy: numpy's own format: a magic number, a version, the length of a header, and the header: a
 * Python dictionary of exactly three keys, padded with blanks.
 *
 *     \x93NUMPY 1 0 <u16>    {'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 16, 16), }
 *     \x93NUMPY 2 0 <u32>    the same; version 3 is UTF-8
 *
 * The dictionary is nearly JSON, and read as that. A dtype that is no number we know is
 * no failure here: the array may never be asked for. bfloat16 is no type of numpy's; ml_dtypes
 * writes it as raw pairs of bytes, "V2", and that is how it is read. */
#include "clients/cli/arrays/array_internal.h"

#include "clients/cli/base/system.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[6] = "\x93NUMPY";

bool npy_is(const uint8_t *data, size_t size)
{
    return size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0;
}

/* The dictionary as JSON, which has other quotes, brackets and words, no L behind digits, as Python
 * 2 wrote it, and no comma behind the last item. `ret_json` has room for len bytes. */
static void npy_json(const char *text, size_t len, char *ret_json)
{
    char quote = '\0', *comma = NULL;
    for (size_t i = 0; i < len; i++) {
        char c = text[i], *to = &ret_json[i];
        if (quote) {
            *to = c == quote ? '"' : c == '"' || c == '\\' ? '\0' : c;
            quote = c == quote ? '\0' : quote;
            continue;
        }
        quote = c == '\'' || c == '"' ? c : '\0';
        *to = quote      ? '"'
              : c == '(' ? '['
              : c == ')' ? ']'
              : c == 'L' ? ' '
                         : (char)tolower((unsigned char)c);
        if (comma && (*to == ']' || *to == '}')) {
            *comma = ' ';
        }
        comma = *to == ',' ? to : *to == ' ' || *to == '\n' ? comma : NULL;
    }
}

/* The dictionary, with exactly these keys. */
static bool read_dictionary(const json_t *dictionary, struct array *array)
{
    const json_t *type = json_object_get(dictionary, "descr");
    const json_t *fortran = json_object_get(dictionary, "fortran_order");
    const char *name = json_is_array(type) ? "a record" : json_string_value(type);
    if (json_object_size(dictionary) != 3 || !name || !json_is_boolean(fortran) ||
        !array_read_shape(json_object_get(dictionary, "shape"), array)) {
        return false;
    }
    snprintf(array->type_name, sizeof array->type_name, "%s", name);
    bool native = *name && strchr("<|=", *name);
    array->type = native ? array_type_parse(array->type_name + 1, true) : ARRAY_OTHER;
    array->fortran = json_is_true(fortran);
    return true;
}

static uint64_t read_u16(const uint8_t *at)
{
    return (uint64_t)at[0] | (uint64_t)at[1] << 8;
}

int npy_header(const uint8_t *data, size_t size, struct array *ret_array, char *reterr)
{
    struct array array = *ret_array;
    bool is = npy_is(data, size);
    if (size < (is ? 12 : sizeof magic)) {
        return array_fail(reterr, "truncated: no whole .npy header");
    }
    if (!is) {
        return array_fail(reterr, "not a .npy file");
    }
    if (data[6] < 1 || data[6] > 3) {
        return array_fail(reterr, "version %d.%d of the .npy format is not known", data[6],
                          data[7]);
    }
    size_t begin = data[6] == 1 ? 10 : 12;
    uint64_t len = read_u16(data + 8) | (data[6] == 1 ? 0 : read_u16(data + 10) << 16);
    if (len > NPY_HEADER_MAX) {
        return array_fail(reterr, "its .npy header claims %" PRIu64 " bytes (at most %zu)", len,
                          NPY_HEADER_MAX);
    }
    if (len > size - begin) {
        return array_fail(reterr, "truncated: no whole .npy header");
    }
    char *text = memory_new(len, 1);
    npy_json((const char *)data + begin, len, text);
    json_t *dictionary = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    bool good = read_dictionary(dictionary, &array);
    json_decref(dictionary);
    free(text);
    if (!good) {
        return array_fail(reterr, "its .npy header is not one that numpy writes");
    }
    array.offset = begin + len;
    if (array_measure(&array, reterr) != 0) {
        return -1;
    }
    *ret_array = array;
    return 0;
}

int npy_list(struct array_file *file, struct array_list *list, char *reterr)
{
    struct array array = {.file = file};
    int rc = npy_header(file->data, file->size, &array, reterr);
    if (rc != 0) {
        return rc;
    }
    uint64_t there = file->size - array.offset;
    if (array.type != ARRAY_OTHER && there < array.bytes) {
        return array_fail(reterr,
                          "truncated: the array takes %" PRIu64 " bytes, %" PRIu64 " are there",
                          array.bytes, there);
    }
    if (array.type != ARRAY_OTHER && there > array.bytes) {
        return array_fail(reterr, "%" PRIu64 " bytes follow the array", there - array.bytes);
    }
    /* "folder/decoder.0.self.npy" names its array decoder.0.self. */
    const char *path = array.file->path, *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    size_t len = dot && strcmp(dot, ".npy") == 0 ? (size_t)(dot - name) : strlen(name);
    return array_list_add(list, &array, name, len, reterr);
}
