/* SPDX-License-Identifier: MIT */
/* stream: an array's contents piece by piece, from front to back, in the order of the file; parts
 * that are not requested are not kept. Pages of a mapped file are given back to the system as they
 * are read, so that memory does not grow with the file. A step back in a packed entry begins it
 * anew. One thread. */
#ifndef CLIENTS_CLI_ARRAYS_STREAM_H
#define CLIENTS_CLI_ARRAYS_STREAM_H

#include "clients/cli/arrays/array.h"

/* A zeroed struct is closed. Fields are private. */
struct array_stream {
    const struct array *array; /* NULL = closed */
    void *entry;               /* .npz: the open entry */
    bool stored;               /* .npz: the entry is not packed: skipping is free */
    uint64_t at;               /* bytes of the contents before the next */
    uint64_t touched;          /* bytes read since the mapping was given back */
};

/* The array must not be ARRAY_OTHER, and outlives the stream. 0, or -1 or ERR_MEMORY with a
 * sentence (ARRAY_ERROR_MAX bytes); closed then. */
int array_stream_open(const struct array *array, struct array_stream *ret_stream, char *reterr);

/* Reads `size` bytes of the contents from byte `from` on; they must be there: from + size <=
 * array->bytes. 0, or -1 or ERR_MEMORY with a sentence. */
int array_stream_read(struct array_stream *stream, uint64_t from, void *ret_data, size_t size,
                      char *reterr);

/* Whether reading from byte `from` on needs no beginning anew. */
bool array_stream_reaches(const struct array_stream *stream, const struct array *array,
                          uint64_t from);

void array_stream_close(struct array_stream *stream);

#endif
