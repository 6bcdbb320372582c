/* SPDX-License-Identifier: MIT */
/* The keys that only type `sketch` has, and what its tensors have to be. */
#include "proto/header_internal.h"

#include "proto/err.h"

/* The dtypes that parameters have. */
static bool header_sketch_is_float(enum dtype dtype)
{
    return dtype != DTYPE_U8 && dtype != DTYPE_I32;
}

int header_read_stored(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    uint32_t next = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        if (!header_find_tensor(header, header_role_of((enum projection)p))) {
            continue;
        }
        if (next == value->via.array.size) {
            return ERR_SHAPE;
        }
        const msgpack_object *name = &value->via.array.ptr[next++];
        if (name->type != MSGPACK_OBJECT_STR) {
            return ERR_KEY_TYPE;
        }
        int rc = dtype_parse(name->via.str.ptr, name->via.str.size, &header->stored_dtype[p]);
        if (rc || !header_sketch_is_float(header->stored_dtype[p])) {
            return ERR_DTYPE;
        }
    }
    return next == value->via.array.size ? 0 : ERR_SHAPE;
}

int header_read_frozen(const msgpack_object *value, struct header *header)
{
    if (value->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_KEY_TYPE;
    }
    for (uint32_t i = 0; i < value->via.array.size; i++) {
        unsigned p = 0;
        int rc = mpk_get_word(&value->via.array.ptr[i], projection_name, PROJECTION_COUNT, &p);
        if (rc == ERR_KEY_TYPE) {
            return rc;
        }
        if (rc || header->frozen[p] ||
            !header_find_tensor(header, header_role_of((enum projection)p))) {
            return ERR_TENSOR_NAME;
        }
        header->frozen[p] = true;
    }
    return 0;
}

void header_set_heads_of_sketch(struct header *header)
{
    if (header->type != MESSAGE_SKETCH || header->heads > 0) {
        return;
    }
    header->heads_total = header->heads_total ? header->heads_total : header->kv_heads;
    header->heads = header->heads_total;
}

int header_check_sketch(const struct header *header, const char **reterr_key)
{
    const struct tensor *held = header_find_tensor(header, TENSOR_HELD);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < header->tensor_count; i++) {
        rows += header->tensors[i].role == TENSOR_HELD ? 0 : header->tensors[i].shape[0];
    }
    if (held && held->shape[0] != rows) {
        *reterr_key = "tensors";
        return ERR_SHAPE;
    }
    /* The slice has whole key heads; that they divide its heads is checked with all types. */
    if ((uint64_t)header->head_offset * header->kv_heads % header->heads != 0) {
        *reterr_key = "head_offset";
        return ERR_KEY_RANGE;
    }
    if ((uint64_t)header->heads_total * header->kv_heads % header->heads != 0) {
        *reterr_key = "heads_total";
        return ERR_KEY_RANGE;
    }
    return 0;
}
