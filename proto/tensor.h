/* SPDX-License-Identifier: MIT */
/* tensor: dtype and shape of one raw frame, with an overflow-checked size. Pure; any thread.
 *
 * Frames are little-endian, C-contiguous, last dimension fastest. */
#ifndef PROTO_TENSOR_H
#define PROTO_TENSOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define TENSOR_RANK_MAX 4

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64, DTYPE_U8, DTYPE_I32, DTYPE_COUNT };

/* The role of a tensor within its message. */
enum tensor_role {
    TENSOR_WEIGHTS,   /* [B,H,Tq,Tk] f32 f16 bf16 f64 */
    TENSOR_MASK,      /* [B,Tq,Tk] u8, 1 = may attend */
    TENSOR_TOKENS,    /* [B,Tk] i32, token ids */
    TENSOR_GRAD,      /* like weights: the loss's gradient by them */
    TENSOR_DOCUMENTS, /* [B,Tk] i32: a query sees the keys of its own document (packed sequences) */
    TENSOR_Q,         /* [B,H,Tq,d] f32 f16 bf16 f64, after the position encoding */
    TENSOR_K,         /* [B,Hkv,Tk,d] */
    TENSOR_V,         /* [B,Hkv,Tk,dv] */
    TENSOR_DOUT,      /* [B,H,Tq,dv]: the loss's gradient by the heads' outputs A V */
    TENSOR_WO_R,      /* [H,r,dv] f32, r <= dv: R of the QR of each head's slice of W_o */
    TENSOR_X_NORM,    /* [B,Tq] f32: |x| of the layer's input at each query */
    TENSOR_WQ,        /* [out,in]; of type sketch [H,64] f32, of keys and values [Hkv,64] */
    TENSOR_WK,
    TENSOR_WV,
    TENSOR_WO,
    TENSOR_MAPS,        /* [H,rows,columns] f16: pooled maps of its heads */
    TENSOR_SUMS,        /* [S,B,H,R] f32: sums over the keys of each row (row_sum.h) */
    TENSOR_PLACES,      /* [8,B or 1,R] i32: where each row stands (row_sum.h) */
    TENSOR_KEY_LENGTHS, /* [B,Hkv,Tk] f32: |k| */
    TENSOR_SINKS,       /* [H] f32: learned logits beside those of the keys */
    TENSOR_HELD,        /* [rows of wq, wk, wv, wo,64] u8: 1 = the rank holds the place */
    TENSOR_ROLE_COUNT
};

struct tensor {
    enum tensor_role role;
    enum dtype dtype;
    uint32_t rank;                   /* used entries of shape */
    uint64_t shape[TENSOR_RANK_MAX]; /* no entry is 0 after a successful decode */
    uint64_t bytes;                  /* prod(shape) * dtype_size */
};

/* The number of two bytes of f16, exactly. */
static inline float tensor_half(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 31  ? (fraction ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(1024 + fraction), exponent - 25);
    return half & 0x8000 ? -value : value;
}

/* Bytes of one element. Here so that kernels that know the dtype get a constant. */
static inline size_t dtype_size(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F64:
        return 8;
    case DTYPE_F32:
    case DTYPE_I32:
        return 4;
    case DTYPE_F16:
    case DTYPE_BF16:
        return 2;
    default:
        return 1;
    }
}

/* "f32", "bf16", ... */
const char *dtype_name(enum dtype dtype);
/* Sets *ret_dtype. Returns 0 or ERR_DTYPE. The name is not NUL-terminated. */
int dtype_parse(const char *name, size_t len, enum dtype *ret_dtype);

const char *tensor_role_name(enum tensor_role role);
int tensor_role_parse(const char *name, size_t len, enum tensor_role *ret_role);

/* Sets *ret_bytes to prod(shape) * dtype_size. Returns 0, ERR_SHAPE (rank not 1..4), ERR_SHAPE_ZERO
 * or ERR_SHAPE_OVERFLOW (more than INT64_MAX bytes). */
int tensor_bytes(enum dtype dtype, const uint64_t *shape, uint32_t rank, uint64_t *ret_bytes);

#endif
