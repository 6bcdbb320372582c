/* SPDX-License-Identifier: MIT */
/* failure: the exception that ended a training, as the `bye` of a rank says it, and as it is kept
 * and shown. Pure; any thread. */
#ifndef PROTO_FAILURE_H
#define PROTO_FAILURE_H

#include "proto/mpk.h"

#define FAILURE_TYPE_MAX 128 /* bytes; of the two others */
#define FAILURE_TEXT_MAX 256

/* Texts are UTF-8 without control characters. */
struct failure {
    char type[FAILURE_TYPE_MAX + 1];    /* "ValueError"; "" = there was none */
    char message[FAILURE_TEXT_MAX + 1]; /* its first line; "" = it has none */
    char where[FAILURE_TEXT_MAX + 1];   /* "train.py:31: main"; "" = not known */
    uint64_t step;                      /* the last one that was done */
    uint32_t rank;
};

/* Reads {type, message, where, step, rank}, of which `type` is needed; others stay as they are when
 * left out. Nothing is written on failure. Returns 0, ERR_KEY_TYPE, ERR_KEY_MISSING, ERR_KEY_RANGE
 * or ERR_KEY_DUPLICATE. */
int failure_read(const msgpack_object *map, struct failure *ret_failure);
/* Appends the same map, and `sentence`: "ValueError: bad loss, at step 120". */
void failure_put(const struct failure *failure, struct mpk_writer *writer);

#endif
