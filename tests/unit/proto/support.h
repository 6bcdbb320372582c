/* SPDX-License-Identifier: MIT */
/* support: bytes on the heap, exactly as long as they are, so that ASan sees the first byte read
 * beyond. */
#ifndef TESTS_UNIT_PROTO_SUPPORT_H
#define TESTS_UNIT_PROTO_SUPPORT_H

#include "tests/unit/unit.h"

#include "proto/mpk.h"

struct bytes {
    unsigned char *data;
    size_t len;
};

/* A string literal as pointer and length. */
#define LITERAL(text) (text), sizeof text - 1

struct bytes bytes_copy(const void *data, size_t len);
struct bytes bytes_repeat(unsigned char byte, size_t len);
/* Takes what was written and clears the writer. */
struct bytes bytes_written(struct mpk_writer *writer);
/* The whole file; fails the test when it cannot be read. */
struct bytes bytes_file(const char *path);
void bytes_free(struct bytes *bytes);

/* The document (a map) with the value of one key replaced by raw MessagePack bytes, or the pair
 * left out when value is NULL; a key that was not there is added. Replaces *map. */
void bytes_change(struct bytes *map, const char *key, const void *value, size_t len);

#endif
