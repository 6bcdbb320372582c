/* SPDX-License-Identifier: MIT */
/* npy: numpy's own format: a magic number, a version, the length of a header, and the header: a
 * Python dictionary of exactly three keys, padded with blanks.
 *
 *     \x93NUMPY 1 0 <u16>    {'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 16, 16), }
 *     \x93NUMPY 2 0 <u32>    the same; version 3 is UTF-8
 *
 * The dictionary is read by a parser for just these literals. A dtype that is no number we know is
 * no failure here: the array may never be asked for. bfloat16 is no type of numpy's; ml_dtypes
 * writes it as raw pairs of bytes, "V2", and that is how it is read. */
#include "clients/cli/arrays/array_internal.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char magic[6] = "\x93NUMPY";

/* The rest of the header. */
struct text {
    const char *at, *end;
};

bool npy_is(const uint8_t *data, size_t size)
{
    return size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0;
}

static void npy_skip_blanks(struct text *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n')) {
        text->at++;
    }
}

/* Takes one character, blanks before it skipped. */
static bool npy_take(struct text *text, char wanted)
{
    npy_skip_blanks(text);
    if (text->at == text->end || *text->at != wanted) {
        return false;
    }
    text->at++;
    return true;
}

static bool npy_take_word(struct text *text, const char *word)
{
    size_t len = strlen(word);
    npy_skip_blanks(text);
    if ((size_t)(text->end - text->at) < len || memcmp(text->at, word, len) != 0) {
        return false;
    }
    text->at += len;
    return true;
}

/* A quoted string without escapes, shortened to fit. */
static bool take_string(struct text *text, char *ret_string, size_t size)
{
    npy_skip_blanks(text);
    if (text->at == text->end || (*text->at != '\'' && *text->at != '"')) {
        return false;
    }
    char quote = *text->at++;
    const char *begin = text->at;
    while (text->at < text->end && *text->at != quote && *text->at != '\\') {
        text->at++;
    }
    if (text->at == text->end || *text->at != quote) {
        return false;
    }
    snprintf(ret_string, size, "%.*s", (int)(text->at - begin), begin);
    text->at++;
    return true;
}

/* Digits, with the L that Python 2 put behind them. */
static bool npy_take_number(struct text *text, uint64_t *ret_number)
{
    uint64_t number = 0;
    npy_skip_blanks(text);
    if (text->at == text->end || !isdigit((unsigned char)*text->at)) {
        return false;
    }
    for (; text->at < text->end && isdigit((unsigned char)*text->at); text->at++) {
        if (__builtin_mul_overflow(number, UINT64_C(10), &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text->at - '0'), &number)) {
            return false;
        }
    }
    text->at += text->at < text->end && *text->at == 'L';
    *ret_number = number;
    return true;
}

static bool take_type(struct text *text, struct array *array)
{
    npy_skip_blanks(text);
    if (text->at < text->end && *text->at == '[') {
        snprintf(array->type_name, sizeof array->type_name, "a record");
        array->type = ARRAY_OTHER;
        /* A record's list of fields: "[('x', '<f4'), ...]", to the bracket that closes it. */
        char string[8];
        int depth = 0;
        do {
            npy_skip_blanks(text);
            if (text->at == text->end) {
                return false;
            }
            if (*text->at == '\'' || *text->at == '"') {
                if (!take_string(text, string, sizeof string)) {
                    return false;
                }
                continue;
            }
            depth += (*text->at == '[') - (*text->at == ']');
            text->at++;
        } while (depth > 0);
        return true;
    }
    if (!take_string(text, array->type_name, sizeof array->type_name)) {
        return false;
    }
    bool native = *array->type_name && strchr("<|=", *array->type_name);
    array->type = native ? array_type_parse(array->type_name + 1, true) : ARRAY_OTHER;
    return true;
}

static bool take_order(struct text *text, struct array *array)
{
    array->fortran = npy_take_word(text, "True");
    return array->fortran || npy_take_word(text, "False");
}

static bool take_shape(struct text *text, struct array *array)
{
    array->rank = 0;
    if (!npy_take(text, '(')) {
        return false;
    }
    while (!npy_take(text, ')')) {
        if (array->rank == ARRAY_RANK_MAX || !npy_take_number(text, &array->shape[array->rank])) {
            return false;
        }
        array->rank++;
        if (!npy_take(text, ',')) {
            return npy_take(text, ')');
        }
    }
    return true;
}

/* The dictionary, with each key once, and nothing behind it. */
static bool take_dictionary(struct text *text, struct array *array)
{
    static const struct {
        const char *key;
        bool (*take)(struct text *text, struct array *array);
    } keys[3] = {{"descr", take_type}, {"fortran_order", take_order}, {"shape", take_shape}};
    unsigned seen = 0;
    if (!npy_take(text, '{')) {
        return false;
    }
    while (!npy_take(text, '}')) {
        char key[16];
        int i = 0;
        if (!take_string(text, key, sizeof key) || !npy_take(text, ':')) {
            return false;
        }
        while (i < 3 && strcmp(keys[i].key, key) != 0) {
            i++;
        }
        if (i == 3 || (seen & 1u << i) || !keys[i].take(text, array)) {
            return false;
        }
        seen |= 1u << i;
        if (!npy_take(text, ',')) {
            return npy_take(text, '}') && seen == 7;
        }
    }
    return seen == 7;
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
    struct text text = {(const char *)data + begin, (const char *)data + begin + len};
    bool good = take_dictionary(&text, &array);
    npy_skip_blanks(&text);
    if (!good || text.at != text.end) {
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
    if (npy_header(file->data, file->size, &array, reterr) != 0) {
        return -1;
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
