/* SPDX-License-Identifier: MIT */
/* Messages of one lane overtake tensors of the other one. Their headers say which: a flat list of
 * [stack, layer, site, seq], so that many topics fit. */
#include "proto/header_internal.h"

#include "proto/err.h"

#include <stdlib.h>

enum { AFTER_STACK, AFTER_LAYER, AFTER_SITE, AFTER_SEQ, AFTER_NUMBERS };

static int header_read_position(const msgpack_object *numbers, struct topic_position *ret_position)
{
    static const uint64_t most[AFTER_NUMBERS] = {STACK_DECODER, LAYER_MAX, SITE_CROSS, COUNT_MAX};
    for (int i = 0; i < AFTER_NUMBERS; i++) {
        if (numbers[i].type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
            return ERR_KEY_TYPE;
        }
        if (numbers[i].via.u64 > most[i]) {
            return ERR_KEY_RANGE;
        }
    }
    ret_position->layer.stack = (enum stack)numbers[AFTER_STACK].via.u64;
    ret_position->layer.layer = (uint32_t)numbers[AFTER_LAYER].via.u64;
    ret_position->layer.site = (enum site)numbers[AFTER_SITE].via.u64;
    ret_position->seq = numbers[AFTER_SEQ].via.u64;
    return 0;
}

int header_read_after(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    uint32_t numbers = value->via.array.size, count = numbers / AFTER_NUMBERS;
    int rc = 0;
    if (numbers % AFTER_NUMBERS != 0 || count > AFTER_MAX) {
        return ERR_KEY_RANGE;
    }
    if (count == 0) {
        return 0;
    }
    header->after = calloc(count, sizeof *header->after);
    if (!header->after) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count && !rc; i++) {
        rc = header_read_position(value->via.array.ptr + (size_t)i * AFTER_NUMBERS,
                                  &header->after[i]);
    }
    header->after_count = count;
    return rc;
}
