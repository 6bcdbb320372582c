/* SPDX-License-Identifier: MIT */
/* The check walks the document with a cursor and a small stack of "values still owed" per open
 * container. Three things bound it, each checked on the announced number before it is used:
 *
 *   bytes     a length is compared with what is left, never added to a position;
 *   depth     a container deeper than the limit is refused when it opens;
 *   elements  a container's count is taken from one budget for the whole document when it opens, so
 * that nesting cannot multiply counts that are each small enough.
 *
 * After it the parser's own memory is bounded too: one object per element. */
#include "proto/mpk.h"

#include "proto/err.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* MessagePack-C's parser refuses more than this. */
#define DEPTH_MAX 32

const struct mpk_limits mpk_header_limits = {65536, 8, 16384};
const struct mpk_limits mpk_result_limits = {64u << 20, 8, 4u << 20};

enum mpk_form { FORM_BAD, FORM_SCALAR, FORM_BLOB, FORM_ARRAY, FORM_MAP };

/* The meaning of a lead byte 0xc0..0xdf: `width` payload bytes of a scalar, or a length of that
 * width. */
static const struct {
    uint8_t form, width;
} formats[0x20] = {
    [0x00] = {FORM_SCALAR, 0},                                                    /* nil */
    [0x01] = {FORM_BAD, 0},                                                       /* never used */
    [0x02] = {FORM_SCALAR, 0},                                                    /* false, true */
    [0x03] = {FORM_SCALAR, 0}, [0x04] = {FORM_BLOB, 1},                           /* bin */
    [0x05] = {FORM_BLOB, 2},   [0x06] = {FORM_BLOB, 4},   [0x07] = {FORM_BAD, 0}, /* ext */
    [0x08] = {FORM_BAD, 0},    [0x09] = {FORM_BAD, 0},    [0x0a] = {FORM_SCALAR, 4}, /* float */
    [0x0b] = {FORM_SCALAR, 8}, [0x0c] = {FORM_SCALAR, 1},                            /* unsigned */
    [0x0d] = {FORM_SCALAR, 2}, [0x0e] = {FORM_SCALAR, 4}, [0x0f] = {FORM_SCALAR, 8},
    [0x10] = {FORM_SCALAR, 1}, /* signed */
    [0x11] = {FORM_SCALAR, 2}, [0x12] = {FORM_SCALAR, 4}, [0x13] = {FORM_SCALAR, 8},
    [0x14] = {FORM_BAD, 0}, /* fixext */
    [0x15] = {FORM_BAD, 0},    [0x16] = {FORM_BAD, 0},    [0x17] = {FORM_BAD, 0},
    [0x18] = {FORM_BAD, 0},    [0x19] = {FORM_BLOB, 1}, /* str */
    [0x1a] = {FORM_BLOB, 2},   [0x1b] = {FORM_BLOB, 4},   [0x1c] = {FORM_ARRAY, 2},
    [0x1d] = {FORM_ARRAY, 4},  [0x1e] = {FORM_MAP, 2},    [0x1f] = {FORM_MAP, 4},
};

struct mpk_cursor {
    const unsigned char *at;
    size_t left;
};

/* The head of one value: `count` payload bytes of a scalar or blob, or values of a container. */
struct mpk_head {
    enum mpk_form form;
    uint64_t count;
};

static int mpk_read_number(struct mpk_cursor *cursor, unsigned width, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (width > cursor->left) {
        return ERR_HEADER_TRUNCATED;
    }
    for (unsigned i = 0; i < width; i++) {
        number = number << 8 | cursor->at[i];
    }
    cursor->at += width;
    cursor->left -= width;
    *ret_number = number;
    return 0;
}

static int mpk_read_head(struct mpk_cursor *cursor, struct mpk_head *ret_head)
{
    uint64_t lead;
    int rc = mpk_read_number(cursor, 1, &lead);
    if (rc) {
        return rc;
    }
    if (lead < 0x80 || lead >= 0xe0) {
        *ret_head = (struct mpk_head){FORM_SCALAR, 0};
    } else if (lead < 0x90) {
        *ret_head = (struct mpk_head){FORM_MAP, lead & 0x0f};
    } else if (lead < 0xa0) {
        *ret_head = (struct mpk_head){FORM_ARRAY, lead & 0x0f};
    } else if (lead < 0xc0) {
        *ret_head = (struct mpk_head){FORM_BLOB, lead & 0x1f};
    } else {
        ret_head->form = (enum mpk_form)formats[lead - 0xc0].form;
        ret_head->count = formats[lead - 0xc0].width;
        if (ret_head->form == FORM_BAD) {
            return ERR_HEADER_MALFORMED;
        }
        if (ret_head->form != FORM_SCALAR) {
            rc = mpk_read_number(cursor, formats[lead - 0xc0].width, &ret_head->count);
        }
    }
    if (!rc && ret_head->form == FORM_MAP) {
        ret_head->count *= 2; /* at most 2^33: no overflow */
    }
    return rc;
}

struct mpk_walk {
    struct mpk_cursor cursor;
    uint64_t budget;              /* elements that may still be announced */
    uint32_t depth, depth_max;    /* open containers */
    uint64_t owed[DEPTH_MAX + 1]; /* [0] is the document itself */
};

static int mpk_open_container(struct mpk_walk *walk, uint64_t count)
{
    if (walk->depth == walk->depth_max) {
        return ERR_HEADER_DEPTH;
    }
    if (count > walk->budget) {
        return ERR_HEADER_ELEMENTS;
    }
    walk->budget -= count;
    walk->owed[++walk->depth] = count;
    return 0;
}

static int skip_payload(struct mpk_walk *walk, uint64_t bytes)
{
    if (bytes > walk->cursor.left) {
        return ERR_HEADER_TRUNCATED;
    }
    walk->cursor.at += bytes;
    walk->cursor.left -= (size_t)bytes;
    return 0;
}

static int walk_value(struct mpk_walk *walk)
{
    struct mpk_head head;
    int rc = mpk_read_head(&walk->cursor, &head);
    if (rc) {
        return rc;
    }
    walk->owed[walk->depth]--;
    rc = head.form == FORM_MAP || head.form == FORM_ARRAY ? mpk_open_container(walk, head.count)
                                                          : skip_payload(walk, head.count);
    while (!rc && walk->depth > 0 && walk->owed[walk->depth] == 0) {
        walk->depth--;
    }
    return rc;
}

int mpk_check(const void *buf, size_t len, const struct mpk_limits *limits)
{
    struct mpk_walk walk = {.cursor = {buf, len}, .owed = {1}};
    int rc = 0;
    if (len > limits->bytes) {
        return ERR_HEADER_SIZE;
    }
    if (limits->elements == 0) {
        return ERR_HEADER_ELEMENTS;
    }
    walk.budget = limits->elements - 1;
    walk.depth_max = limits->depth < DEPTH_MAX ? limits->depth : DEPTH_MAX;
    while (!rc && walk.owed[walk.depth] > 0) {
        rc = walk_value(&walk);
    }
    if (!rc && walk.cursor.left > 0) {
        rc = ERR_HEADER_TRAILING;
    }
    return rc;
}

int mpk_parse(const void *buf, size_t len, const struct mpk_limits *limits, struct mpk_doc *ret_doc)
{
    size_t off = 0;
    int rc = mpk_check(buf, len, limits);
    if (rc) {
        return rc;
    }
    msgpack_unpacked_init(&ret_doc->unpacked);
    msgpack_unpack_return status = msgpack_unpack_next(&ret_doc->unpacked, buf, len, &off);
    if (status == MSGPACK_UNPACK_SUCCESS && off == len) {
        ret_doc->root = &ret_doc->unpacked.data;
        return 0;
    }
    msgpack_unpacked_destroy(&ret_doc->unpacked);
    return status == MSGPACK_UNPACK_NOMEM_ERROR ? ERR_MEMORY : ERR_HEADER_MALFORMED;
}

void mpk_doc_clear(struct mpk_doc *doc)
{
    msgpack_unpacked_destroy(&doc->unpacked);
    msgpack_unpacked_init(&doc->unpacked);
    doc->root = NULL;
}

bool mpk_is_str(const msgpack_object *value, const char *text)
{
    size_t len = strlen(text);
    return value && value->type == MSGPACK_OBJECT_STR && value->via.str.size == len &&
           memcmp(value->via.str.ptr, text, len) == 0;
}

const msgpack_object *mpk_find(const msgpack_object *map, const char *key)
{
    if (!map || map->type != MSGPACK_OBJECT_MAP) {
        return NULL;
    }
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        if (mpk_is_str(&map->via.map.ptr[i].key, key)) {
            return &map->via.map.ptr[i].val;
        }
    }
    return NULL;
}

/* Position of a key in a list of names, or `count`. */
static uint32_t name_index(const msgpack_object *key, const char *const *names, uint32_t count)
{
    uint32_t i = 0;
    while (i < count && !(key->via.str.size > 0 && key->via.str.ptr[0] == names[i][0] &&
                          mpk_is_str(key, names[i]))) {
        i++;
    }
    return i;
}

int mpk_collect(const msgpack_object *map, const char *const *names, uint32_t count,
                const msgpack_object **ret_values, const char **reterr_key)
{
    int rc = 0;
    for (uint32_t i = 0; i < count; i++) {
        ret_values[i] = NULL;
    }
    if (map->type != MSGPACK_OBJECT_MAP) {
        return ERR_KEY_TYPE;
    }
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object_kv *pair = &map->via.map.ptr[i];
        uint32_t at;
        if (pair->key.type != MSGPACK_OBJECT_STR) {
            rc = rc ? rc : ERR_KEY_TYPE;
            continue;
        }
        at = name_index(&pair->key, names, count);
        if (at < count && ret_values[at]) {
            rc = rc ? rc : ERR_KEY_DUPLICATE;
            *reterr_key = names[at];
        } else if (at < count) {
            ret_values[at] = &pair->val;
        }
    }
    return rc;
}

int mpk_get_u64(const msgpack_object *value, uint64_t max, uint64_t *ret_number)
{
    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        return ERR_KEY_RANGE;
    }
    if (value->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
        return ERR_KEY_TYPE;
    }
    if (value->via.u64 > max) {
        return ERR_KEY_RANGE;
    }
    *ret_number = value->via.u64;
    return 0;
}

int mpk_get_bool(const msgpack_object *value, bool *ret_bool)
{
    if (value->type != MSGPACK_OBJECT_BOOLEAN) {
        return ERR_KEY_TYPE;
    }
    *ret_bool = value->via.boolean;
    return 0;
}

int mpk_get_f64(const msgpack_object *value, double *ret_number)
{
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        *ret_number = NAN;
        return 0;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        *ret_number = (double)value->via.u64;
        return 0;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        *ret_number = (double)value->via.i64;
        return 0;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        *ret_number = value->via.f64;
        return 0;
    default:
        return ERR_KEY_TYPE;
    }
}

int mpk_get_word(const msgpack_object *value, const char *const *words, unsigned count,
                 void *ret_enum)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    for (unsigned i = 0; i < count; i++) {
        if (mpk_is_str(value, words[i])) {
            memcpy(ret_enum, &i, sizeof i);
            return 0;
        }
    }
    return ERR_KEY_RANGE;
}

uint64_t mpk_find_u64(const msgpack_object *map, const char *key)
{
    const msgpack_object *value = mpk_find(map, key);
    uint64_t number;
    return value && mpk_get_u64(value, UINT64_MAX, &number) == 0 ? number : 0;
}

void mpk_find_text(const msgpack_object *map, const char *key, char *ret_text, size_t size)
{
    const msgpack_object *value = mpk_find(map, key);
    bool is_text = value && value->type == MSGPACK_OBJECT_STR;
    snprintf(ret_text, size, "%.*s", is_text ? (int)value->via.str.size : 0,
             is_text ? value->via.str.ptr : "");
}

uint32_t mpk_items(const msgpack_object *value)
{
    return value && value->type == MSGPACK_OBJECT_ARRAY ? value->via.array.size : 0;
}

uint32_t mpk_pairs(const msgpack_object *value)
{
    return value && value->type == MSGPACK_OBJECT_MAP ? value->via.map.size : 0;
}

double mpk_number(const msgpack_object *value)
{
    double number;
    return value && mpk_get_f64(value, &number) == 0 ? number : NAN;
}

static int write_bytes(void *context, const char *bytes, size_t len)
{
    struct mpk_writer *writer = context;
    if (writer->failed || len == 0) {
        return 0;
    }
    if (msgpack_sbuffer_write(&writer->buffer, bytes, len) != 0) {
        writer->failed = true;
    }
    return 0;
}

void mpk_writer_init(struct mpk_writer *writer)
{
    msgpack_sbuffer_init(&writer->buffer);
    msgpack_packer_init(&writer->packer, writer, write_bytes);
    writer->failed = false;
    writer->values = 0;
    writer->owed = 0;
}

void mpk_writer_clear(struct mpk_writer *writer)
{
    msgpack_sbuffer_destroy(&writer->buffer);
    mpk_writer_init(writer);
}

bool mpk_writer_ok(const struct mpk_writer *writer)
{
    return !writer->failed;
}

/* A value that is written, and how many are in it. */
static void count_value(struct mpk_writer *writer, uint64_t within)
{
    if (writer->owed > 0) {
        writer->owed--;
    } else {
        writer->values++;
    }
    writer->owed += within;
}

/* The packer's results need no look: write_bytes remembers its own failures. */
void mpk_put_map(struct mpk_writer *writer, uint32_t pairs)
{
    count_value(writer, 2 * (uint64_t)pairs);
    msgpack_pack_map(&writer->packer, pairs);
}

void mpk_put_array(struct mpk_writer *writer, uint32_t length)
{
    count_value(writer, length);
    msgpack_pack_array(&writer->packer, length);
}

void mpk_put_str(struct mpk_writer *writer, const char *text)
{
    if (text) {
        mpk_put_text(writer, text, strlen(text));
    } else {
        mpk_put_nil(writer);
    }
}

void mpk_put_text(struct mpk_writer *writer, const char *text, size_t len)
{
    count_value(writer, 0);
    msgpack_pack_str(&writer->packer, len);
    msgpack_pack_str_body(&writer->packer, text, len);
}

void mpk_put_bin(struct mpk_writer *writer, const void *data, size_t len)
{
    count_value(writer, 0);
    msgpack_pack_bin(&writer->packer, len);
    msgpack_pack_bin_body(&writer->packer, data, len);
}

void mpk_put_u64(struct mpk_writer *writer, uint64_t number)
{
    count_value(writer, 0);
    msgpack_pack_uint64(&writer->packer, number);
}

void mpk_put_bool(struct mpk_writer *writer, bool value)
{
    count_value(writer, 0);
    if (value) {
        msgpack_pack_true(&writer->packer);
    } else {
        msgpack_pack_false(&writer->packer);
    }
}

void mpk_put_nil(struct mpk_writer *writer)
{
    count_value(writer, 0);
    msgpack_pack_nil(&writer->packer);
}

void mpk_put_raw(struct mpk_writer *writer, const void *encoded, size_t len)
{
    count_value(writer, 0);
    write_bytes(writer, encoded, len);
}

void mpk_put_f64(struct mpk_writer *writer, double number)
{
    if (isfinite(number)) {
        count_value(writer, 0);
        msgpack_pack_double(&writer->packer, number);
    } else {
        mpk_put_nil(writer);
    }
}

struct mpk_open mpk_open(struct mpk_writer *writer, const char *key)
{
    struct mpk_open open = {.before = writer->buffer.size,
                            .values_before = writer->values,
                            .owed_before = writer->owed};
    if (key) {
        mpk_put_str(writer, key);
    }
    open.at = writer->buffer.size;
    mpk_put_map(writer, 0); /* a byte, to be replaced */
    open.values = writer->values;
    open.owed = writer->owed;
    writer->values = 0;
    writer->owed = 0;
    return open;
}

/* `fixed` and `long16` are the first bytes of a short container and of one with 16 bits of length;
 * that with 32 bits comes next. */
static void close_container(struct mpk_writer *writer, const struct mpk_open *open, uint32_t length,
                            uint8_t fixed, uint8_t long16)
{
    static const char room[4] = {0};
    size_t size = writer->buffer.size, more = length < 16 ? 0 : length <= UINT16_MAX ? 2 : 4;
    assert(writer->owed == 0 || writer->failed);
    write_bytes(writer, room, more);
    if (!writer->failed) {
        uint8_t *at = (uint8_t *)writer->buffer.data + open->at;
        memmove(at + 1 + more, at + 1, size - open->at - 1);
        *at = (uint8_t)(more == 0 ? fixed | length : more == 2 ? long16 : long16 + 1u);
        for (size_t i = 0; i < more; i++) {
            at[1 + i] = (uint8_t)(length >> 8 * (more - 1 - i));
        }
    }
    writer->values = open->values;
    writer->owed = open->owed;
}

void mpk_close_map(struct mpk_writer *writer, const struct mpk_open *open)
{
    assert(writer->values % 2 == 0 || writer->failed);
    close_container(writer, open, writer->values / 2, 0x80, 0xde);
}

void mpk_close_array(struct mpk_writer *writer, const struct mpk_open *open)
{
    close_container(writer, open, writer->values, 0x90, 0xdc);
}

void mpk_close_map_if_any(struct mpk_writer *writer, const struct mpk_open *open)
{
    if (writer->values > 0) {
        mpk_close_map(writer, open);
        return;
    }
    writer->buffer.size = writer->failed ? writer->buffer.size : open->before;
    writer->values = open->values_before;
    writer->owed = open->owed_before;
}

void mpk_pair_map(struct mpk_writer *writer, const char *key, uint32_t pairs)
{
    mpk_put_str(writer, key);
    mpk_put_map(writer, pairs);
}

void mpk_pair_array(struct mpk_writer *writer, const char *key, uint32_t length)
{
    mpk_put_str(writer, key);
    mpk_put_array(writer, length);
}

void mpk_pair_bin(struct mpk_writer *writer, const char *key, const void *data, size_t len)
{
    mpk_put_str(writer, key);
    mpk_put_bin(writer, data, len);
}

void mpk_pair_nil(struct mpk_writer *writer, const char *key)
{
    mpk_put_str(writer, key);
    mpk_put_nil(writer);
}

void mpk_pair_str(struct mpk_writer *writer, const char *key, const char *text)
{
    mpk_put_str(writer, key);
    mpk_put_str(writer, text);
}

void mpk_pair_u64(struct mpk_writer *writer, const char *key, uint64_t number)
{
    mpk_put_str(writer, key);
    mpk_put_u64(writer, number);
}

void mpk_pair_u64_or_nil(struct mpk_writer *writer, const char *key, bool known, uint64_t number)
{
    mpk_put_str(writer, key);
    if (known) {
        mpk_put_u64(writer, number);
    } else {
        mpk_put_nil(writer);
    }
}

void mpk_pair_bool(struct mpk_writer *writer, const char *key, bool value)
{
    mpk_put_str(writer, key);
    mpk_put_bool(writer, value);
}

void mpk_pair_f64(struct mpk_writer *writer, const char *key, double number)
{
    mpk_put_str(writer, key);
    mpk_put_f64(writer, number);
}
