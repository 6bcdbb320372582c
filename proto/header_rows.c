/* SPDX-License-Identifier: MIT */
/* The keys that only type `rows` has: which sums the columns are, of what attention they are some
 * rows, and the maps beside them. */
#include "proto/header_internal.h"

#include "proto/err.h"

/* One name for each column; "" is one that is not looked at. */
int header_read_sums(const msgpack_object *value, struct header *header)
{
    const struct tensor *tensor = header_find_tensor(header, TENSOR_SUMS);
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    if (value->via.array.size > ROW_SUMS_MAX || value->via.array.size != tensor->shape[0]) {
        return ERR_SHAPE;
    }
    for (uint32_t i = 0; i < value->via.array.size; i++) {
        const msgpack_object *name = &value->via.array.ptr[i];
        if (name->type != MSGPACK_OBJECT_STR) {
            return ERR_KEY_TYPE;
        }
        if (name->via.str.size == 0) {
            continue;
        }
        enum row_sum sum = row_sum_parse(name->via.str.ptr, name->via.str.size);
        if (sum == ROW_SUM_COUNT || header->sum_column[sum]) {
            return ERR_SUMS;
        }
        header->sum_column[sum] = (uint8_t)(i + 1);
    }
    for (int i = 0; i < ROW_SUM_COUNT; i++) {
        if (row_sum_needed((enum row_sum)i) && !header->sum_column[i]) {
            return ERR_SUMS;
        }
    }
    return 0;
}

int header_read_queries(const msgpack_object *value, struct header *header)
{
    uint64_t number;
    int rc = mpk_get_u64(value, INT32_MAX, &number);
    if (!rc && number < header->queries) {
        rc = ERR_KEY_RANGE;
    }
    if (!rc) {
        header->call_queries = (uint32_t)number;
    }
    return rc;
}

int header_read_keys(const msgpack_object *value, struct header *header)
{
    uint64_t number;
    int rc = mpk_get_u64(value, INT32_MAX, &number);
    if (!rc && number < 1) {
        rc = ERR_KEY_RANGE;
    }
    if (!rc && header->keys && header->keys != number) { /* as key_lengths has them */
        rc = ERR_SHAPE;
    }
    if (!rc) {
        header->keys = (uint32_t)number;
    }
    return rc;
}

int header_read_of_weights(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    header->of_weights = true;
    int rc = dtype_parse(value->via.str.ptr, value->via.str.size, &header->weights_dtype);
    return rc || header->weights_dtype == DTYPE_U8 || header->weights_dtype == DTYPE_I32
               ? ERR_KEY_RANGE
               : 0;
}

void header_set_maps_of_rows(struct header *header)
{
    struct sent_maps *maps = &header->maps;
    uint32_t queries = header->call_queries, keys = header->keys;
    if (header->type != MESSAGE_ROWS || maps->heads == 0) {
        return;
    }
    if (maps->queries == 0 && maps->first_query < queries) {
        maps->queries = queries - maps->first_query;
    }
    if (maps->keys == 0 && maps->first_key < keys) {
        maps->keys = keys - maps->first_key;
    }
}

int header_check_rows(const struct header *header, const char **reterr_key)
{
    const struct tensor *places = header_find_tensor(header, TENSOR_PLACES);
    if (places->shape[0] != ROW_PLACE_COUNT ||
        (places->shape[1] != 1 && places->shape[1] != header->batch) ||
        (header->maps.heads > 0 && header->maps.heads != header->heads)) {
        *reterr_key = "tensors";
        return ERR_SHAPE;
    }
    if (header->maps.heads > 0 && header->maps.first_query >= header->call_queries) {
        *reterr_key = "first_query";
        return ERR_KEY_RANGE;
    }
    if (header->maps.heads > 0 && header->maps.first_key >= header->keys) {
        *reterr_key = "first_key";
        return ERR_KEY_RANGE;
    }
    return 0;
}
