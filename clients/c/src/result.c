/* SPDX-License-Identifier: MIT */
/* Results keep the frame they came in, because their strings point into it. */
#include "clients/c/src/result.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

int result_new(const void *topic, size_t topic_len, zmq_msg_t *body, attn_result **ret_result)
{
    attn_result *result;
    if (topic_len >= RESULT_TOPIC_MAX) {
        return ATTN_E_MESSAGE;
    }
    result = calloc(1, sizeof *result);
    if (!result) {
        return ATTN_E_MEMORY;
    }
    if (topic_len > 0) {
        memcpy(result->topic, topic, topic_len);
    }
    zmq_msg_init(&result->frame);
    zmq_msg_move(&result->frame, body);
    int rc = mpk_parse(zmq_msg_data(&result->frame), zmq_msg_size(&result->frame),
                       &mpk_result_limits, &result->doc);
    if (rc) {
        zmq_msg_close(&result->frame);
        free(result);
        return rc == ERR_MEMORY ? ATTN_E_MEMORY : ATTN_E_MESSAGE;
    }
    result->root = result->doc.root;
    if (attn_result_text(result, "kind", result->kind, sizeof result->kind) != 0) {
        result->kind[0] = '\0';
    }
    *ret_result = result;
    return 0;
}

const char *attn_result_topic(const attn_result *result)
{
    return result->topic;
}

const char *attn_result_kind(const attn_result *result)
{
    return result->kind;
}

const char *attn_result_json(attn_result *result)
{
    if (!result->json) {
        result->json = mpk_to_json(result->root, 0);
    }
    return result->json;
}

int attn_result_u64(const attn_result *result, const char *key, uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(result->root, key);
    if (!value || mpk_get_u64(value, UINT64_MAX, ret_number) != 0) {
        return ATTN_E_NOT_FOUND;
    }
    return 0;
}

int attn_result_text(const attn_result *result, const char *key, char *ret_text, size_t size)
{
    const msgpack_object *value = mpk_find(result->root, key);
    if (size == 0) {
        return ATTN_E_ARGUMENT;
    }
    if (!value || value->type != MSGPACK_OBJECT_STR) {
        return ATTN_E_NOT_FOUND;
    }
    size_t len = value->via.str.size < size ? value->via.str.size : size - 1;
    if (len > 0) {
        memcpy(ret_text, value->via.str.ptr, len);
    }
    ret_text[len] = '\0';
    return 0;
}

/* From the first metric of all: every array in `heads` has one entry per head. */
static const msgpack_object *first_value(const msgpack_object *map)
{
    return mpk_pairs(map) > 0 ? &map->via.map.ptr[0].val : NULL;
}

uint32_t attn_result_heads(const attn_result *result)
{
    const msgpack_object *first = first_value(mpk_find(result->root, "heads"));
    if (!first) {
        first = first_value(mpk_find(result->root, "spectrum"));
    }
    if (mpk_pairs(first) > 0) {
        first = first_value(first);
    }
    return mpk_items(first);
}

int attn_result_stat(const attn_result *result, const char *metric, const char *stat, uint32_t head,
                     double *ret_number)
{
    /* The metric's map or array, wherever it is listed. */
    const msgpack_object *found = mpk_find(mpk_find(result->root, "heads"), metric);
    bool plain = !stat || strcmp(stat, "last") == 0;
    found = found ? found : mpk_find(mpk_find(result->root, "spectrum"), metric);
    if (found && found->type == MSGPACK_OBJECT_MAP) {
        found = stat ? mpk_find(found, stat) : NULL;
    } else if (!plain) {
        found = NULL;
    }
    if (!found || head >= mpk_items(found) ||
        mpk_get_f64(&found->via.array.ptr[head], ret_number) != 0) {
        return ATTN_E_NOT_FOUND;
    }
    return 0;
}

void attn_result_free(attn_result **result)
{
    if (!result || !*result) {
        return;
    }
    free((*result)->json);
    mpk_doc_clear(&(*result)->doc);
    zmq_msg_close(&(*result)->frame);
    free(*result);
    *result = NULL;
}
