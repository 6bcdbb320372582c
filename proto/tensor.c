/* SPDX-License-Identifier: MIT */
#include "proto/tensor.h"

#include "proto/err.h"
#include <stdbool.h>
#include <string.h>

static const char *const dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = "f32", [DTYPE_F16] = "f16", [DTYPE_BF16] = "bf16",
    [DTYPE_F64] = "f64", [DTYPE_U8] = "u8",   [DTYPE_I32] = "i32",
};

static const char *const roles[TENSOR_ROLE_COUNT] = {
    [TENSOR_WEIGHTS] = "weights",
    [TENSOR_MASK] = "mask",
    [TENSOR_TOKENS] = "tokens",
    [TENSOR_GRAD] = "grad",
    [TENSOR_DOCUMENTS] = "documents",
    [TENSOR_Q] = "q",
    [TENSOR_K] = "k",
    [TENSOR_V] = "v",
    [TENSOR_DOUT] = "dout",
    [TENSOR_WO_R] = "wo_r",
    [TENSOR_X_NORM] = "x_norm",
    [TENSOR_WQ] = "wq",
    [TENSOR_WK] = "wk",
    [TENSOR_WV] = "wv",
    [TENSOR_WO] = "wo",
    [TENSOR_MAPS] = "maps",
    [TENSOR_SUMS] = "sums",
    [TENSOR_PLACES] = "places",
    [TENSOR_KEY_LENGTHS] = "key_lengths",
    [TENSOR_SINKS] = "sinks",
    [TENSOR_HELD] = "held",
};

static bool same(const char *known, const char *name, size_t len)
{
    return strlen(known) == len && memcmp(known, name, len) == 0;
}

const char *dtype_name(enum dtype dtype)
{
    return dtypes[dtype];
}

int dtype_parse(const char *name, size_t len, enum dtype *ret_dtype)
{
    for (unsigned i = 0; i < DTYPE_COUNT; i++) {
        if (same(dtypes[i], name, len)) {
            *ret_dtype = (enum dtype)i;
            return 0;
        }
    }
    return ERR_DTYPE;
}

const char *tensor_role_name(enum tensor_role role)
{
    return roles[role];
}

int tensor_role_parse(const char *name, size_t len, enum tensor_role *ret_role)
{
    for (unsigned i = 0; i < TENSOR_ROLE_COUNT; i++) {
        if (same(roles[i], name, len)) {
            *ret_role = (enum tensor_role)i;
            return 0;
        }
    }
    return ERR_TENSOR_NAME;
}

int tensor_bytes(enum dtype dtype, const uint64_t *shape, uint32_t rank, uint64_t *ret_bytes)
{
    uint64_t bytes = dtype_size(dtype);
    if (rank < 1 || rank > TENSOR_RANK_MAX) {
        return ERR_SHAPE;
    }
    /* Zero first: [2^63, 2^63, 0] is a zero, not an overflow. */
    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] == 0) {
            return ERR_SHAPE_ZERO;
        }
    }
    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] > INT64_MAX / bytes) {
            return ERR_SHAPE_OVERFLOW;
        }
        bytes *= shape[i];
    }
    *ret_bytes = bytes;
    return 0;
}
