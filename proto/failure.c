/* SPDX-License-Identifier: MIT */
#include "proto/failure.h"

#include "proto/err.h"
#include "proto/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int failure_read_text(const msgpack_object *value, size_t min, size_t max, char *ret_text)
{
    if (!value) {
        return 0;
    }
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    size_t size = value->via.str.size;
    if (size < min || size > max || !utf8_is_plain(value->via.str.ptr, size)) {
        return ERR_KEY_RANGE;
    }
    snprintf(ret_text, max + 1, "%.*s", (int)size, size > 0 ? value->via.str.ptr : "");
    return 0;
}

int failure_read(const msgpack_object *map, struct failure *ret_failure)
{
    static const char *const names[] = {"type", "message", "where", "step", "rank"};
    const msgpack_object *found[5];
    const char *duplicate;
    struct failure failure = *ret_failure;
    uint64_t rank = failure.rank;
    int rc = mpk_collect(map, names, 5, found, &duplicate);
    if (rc) {
        return rc;
    }
    if (!found[0]) {
        return ERR_KEY_MISSING;
    }
    if ((rc = failure_read_text(found[0], 1, FAILURE_TYPE_MAX, failure.type)) != 0 ||
        (rc = failure_read_text(found[1], 0, FAILURE_TEXT_MAX, failure.message)) != 0 ||
        (rc = failure_read_text(found[2], 0, FAILURE_TEXT_MAX, failure.where)) != 0 ||
        (found[3] && (rc = mpk_get_u64(found[3], UINT64_MAX, &failure.step)) != 0) ||
        (found[4] && (rc = mpk_get_u64(found[4], UINT32_MAX, &rank)) != 0)) {
        return rc;
    }
    failure.rank = (uint32_t)rank;
    *ret_failure = failure;
    return 0;
}

void failure_put(const struct failure *failure, struct mpk_writer *writer)
{
    char sentence[FAILURE_TYPE_MAX + FAILURE_TEXT_MAX + 40];
    snprintf(sentence, sizeof sentence, "%s%s%s, at step %" PRIu64, failure->type,
             failure->message[0] ? ": " : "", failure->message, failure->step);
    mpk_put_map(writer, 6);
    mpk_pair_str(writer, "type", failure->type);
    mpk_pair_str(writer, "message", failure->message);
    mpk_pair_str(writer, "where", failure->where);
    mpk_pair_u64(writer, "step", failure->step);
    mpk_pair_u64(writer, "rank", failure->rank);
    mpk_pair_str(writer, "sentence", sentence);
}
