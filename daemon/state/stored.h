/* SPDX-License-Identifier: MIT */
/* stored: reads what pack functions wrote, by name: a value that is missing, of another type or of
 * another size is ERR_STORE_FORMAT. Numbers travel in binaries as memory has them, little-endian,
 * so that they come back bit for bit. Any thread. */
#ifndef DAEMON_STATE_STORED_H
#define DAEMON_STATE_STORED_H

#include "proto/mpk.h"

/* The limits of a stored document: its memory is bounded by its size. */
extern const struct mpk_limits stored_limits;

/* A map that is read. The first error is kept, and nothing is read after it: read on, and look at
 * `code` once. Whatever could not be read is unchanged. */
struct stored {
    const msgpack_object *map;
    int code; /* 0, ERR_STORE_FORMAT or ERR_MEMORY */
};

/* Keeps an error; 0 is none. */
static inline void stored_note(struct stored *in, int code)
{
    in->code = in->code ? in->code : code;
}

void stored_u64(struct stored *in, const char *key, uint64_t max, uint64_t *ret_number);
void stored_u32(struct stored *in, const char *key, uint32_t max, uint32_t *ret_number);
void stored_bool(struct stored *in, const char *key, bool *ret_bool);
/* A binary; nil has no bytes. Borrowed from the document. */
void stored_bytes(struct stored *in, const char *key, const uint8_t **ret_bytes, size_t *ret_size);
/* A binary of exactly `size` bytes. */
void stored_fill(struct stored *in, const char *key, void *to, size_t size);
/* The same, allocated; nil gives NULL, whatever `count`. `ret_copy` is the address of a pointer to
 * some type. */
void stored_copy(struct stored *in, const char *key, uint64_t count, size_t size, void *ret_copy);

/* Writes a key and count numbers of `size` bytes; nil for NULL. */
void stored_put(struct mpk_writer *writer, const char *key, const void *from, uint64_t count,
                size_t size);

#endif
