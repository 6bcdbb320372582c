/* SPDX-License-Identifier: MIT */
/* stored: reads what pack functions wrote, by name: a value that is missing, of another type or of
 * another size is ERR_STORE_FORMAT. Numbers travel in binaries as memory has them, little-endian,
 * so that they come back bit for bit. Any thread. */
#ifndef DAEMON_STATE_STORED_H
#define DAEMON_STATE_STORED_H

#include "proto/mpk.h"

/* The limits of a stored document: its memory is bounded by its size. */
extern const struct mpk_limits stored_limits;

/* Each returns 0 or ERR_STORE_FORMAT, then without effect. */
int stored_u64(const msgpack_object *map, const char *key, uint64_t max, uint64_t *ret_number);
int stored_u32(const msgpack_object *map, const char *key, uint32_t max, uint32_t *ret_number);
int stored_bool(const msgpack_object *map, const char *key, bool *ret_bool);
/* A binary; nil has no bytes. Borrowed from the document. */
int stored_bytes(const msgpack_object *map, const char *key, const uint8_t **ret_bytes,
                 size_t *ret_size);
/* A binary of exactly `size` bytes. */
int stored_fill(const msgpack_object *map, const char *key, void *to, size_t size);
/* The same, allocated; nil gives NULL, whatever `count`. Also returns ERR_MEMORY. */
int stored_copy(const msgpack_object *map, const char *key, uint64_t count, size_t size,
                void **ret_copy);

/* Writes a key and count numbers of `size` bytes; nil for NULL. */
void stored_put(struct mpk_writer *writer, const char *key, const void *from, uint64_t count,
                size_t size);

#endif
