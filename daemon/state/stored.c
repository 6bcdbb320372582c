/* SPDX-License-Identifier: MIT */
#include "daemon/state/stored.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are stored as memory has them");

const struct mpk_limits stored_limits = {SIZE_MAX, 8, 4u << 20};

/* The value of a key; NULL, and nothing more is read, when there is none. */
static const msgpack_object *stored_find(struct stored *in, const char *key)
{
    const msgpack_object *value = in->code ? NULL : mpk_find(in->map, key);
    stored_note(in, value ? 0 : ERR_STORE_FORMAT);
    return value;
}

void stored_u64(struct stored *in, const char *key, uint64_t max, uint64_t *ret_number)
{
    const msgpack_object *value = stored_find(in, key);
    if (value && mpk_get_u64(value, max, ret_number) != 0) {
        in->code = ERR_STORE_FORMAT;
    }
}

void stored_u32(struct stored *in, const char *key, uint32_t max, uint32_t *ret_number)
{
    uint64_t number = 0;
    stored_u64(in, key, max, &number);
    *ret_number = in->code ? *ret_number : (uint32_t)number;
}

void stored_bool(struct stored *in, const char *key, bool *ret_bool)
{
    const msgpack_object *value = stored_find(in, key);
    if (value && mpk_get_bool(value, ret_bool) != 0) {
        in->code = ERR_STORE_FORMAT;
    }
}

void stored_bytes(struct stored *in, const char *key, const uint8_t **ret_bytes, size_t *ret_size)
{
    const msgpack_object *value = stored_find(in, key);
    if (value && value->type == MSGPACK_OBJECT_BIN) {
        *ret_bytes = (const uint8_t *)value->via.bin.ptr;
        *ret_size = value->via.bin.size;
    } else if (value && value->type == MSGPACK_OBJECT_NIL) {
        *ret_bytes = NULL;
        *ret_size = 0;
    } else {
        stored_note(in, ERR_STORE_FORMAT);
    }
}

void stored_fill(struct stored *in, const char *key, void *to, size_t size)
{
    const uint8_t *bytes = NULL;
    size_t got = 0;
    stored_bytes(in, key, &bytes, &got);
    stored_note(in, got == size ? 0 : ERR_STORE_FORMAT);
    if (!in->code && size > 0) {
        memcpy(to, bytes, size);
    }
}

void stored_copy(struct stored *in, const char *key, uint64_t count, size_t size, void *ret_copy)
{
    const uint8_t *bytes = NULL;
    size_t got = 0;
    stored_bytes(in, key, &bytes, &got);
    stored_note(in, bytes && (got % size != 0 || got / size != count) ? ERR_STORE_FORMAT : 0);
    if (in->code) {
        return;
    }
    void *copy = bytes ? malloc(got > 0 ? got : 1) : NULL;
    if (bytes && !copy) {
        in->code = ERR_MEMORY;
        return;
    }
    if (bytes) {
        memcpy(copy, bytes, got);
    }
    memcpy(ret_copy, &copy, sizeof copy);
}

void stored_put(struct mpk_writer *writer, const char *key, const void *from, uint64_t count,
                size_t size)
{
    mpk_put_str(writer, key);
    if (from) {
        mpk_put_bin(writer, from, count * size);
    } else {
        mpk_put_nil(writer);
    }
}
