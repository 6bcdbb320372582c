/* SPDX-License-Identifier: MIT */
#include "daemon/state/stored.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are stored as memory has them");

const struct mpk_limits stored_limits = {SIZE_MAX, 8, 4u << 20};

int stored_u64(const msgpack_object *map, const char *key, uint64_t max, uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_u64(value, max, ret_number) == 0 ? 0 : ERR_STORE_FORMAT;
}

int stored_u32(const msgpack_object *map, const char *key, uint32_t max, uint32_t *ret_number)
{
    uint64_t number;
    int code = stored_u64(map, key, max, &number);
    if (!code) {
        *ret_number = (uint32_t)number;
    }
    return code;
}

int stored_bool(const msgpack_object *map, const char *key, bool *ret_bool)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_bool(value, ret_bool) == 0 ? 0 : ERR_STORE_FORMAT;
}

int stored_bytes(const msgpack_object *map, const char *key, const uint8_t **ret_bytes,
                 size_t *ret_size)
{
    const msgpack_object *value = mpk_find(map, key);
    if (!value || (value->type != MSGPACK_OBJECT_BIN && value->type != MSGPACK_OBJECT_NIL)) {
        return ERR_STORE_FORMAT;
    }
    bool nil = value->type == MSGPACK_OBJECT_NIL;
    *ret_bytes = nil ? NULL : (const uint8_t *)value->via.bin.ptr;
    *ret_size = nil ? 0 : value->via.bin.size;
    return 0;
}

int stored_fill(const msgpack_object *map, const char *key, void *to, size_t size)
{
    const uint8_t *bytes;
    size_t got;
    int code = stored_bytes(map, key, &bytes, &got);
    if (code || got != size) {
        return ERR_STORE_FORMAT;
    }
    if (size > 0) {
        memcpy(to, bytes, size);
    }
    return 0;
}

int stored_copy(const msgpack_object *map, const char *key, uint64_t count, size_t size,
                void **ret_copy)
{
    const uint8_t *bytes;
    size_t got;
    int code = stored_bytes(map, key, &bytes, &got);
    if (code) {
        return code;
    }
    void *copy = NULL;
    if (bytes) {
        if (got % size != 0 || got / size != count) {
            return ERR_STORE_FORMAT;
        }
        copy = malloc(got > 0 ? got : 1);
        if (!copy) {
            return ERR_MEMORY;
        }
        memcpy(copy, bytes, got);
    }
    *ret_copy = copy;
    return 0;
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
