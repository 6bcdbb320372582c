/* SPDX-License-Identifier: MIT */
/* across/kernel: the passes over entries that similarity, across and head_maps spend their time in,
 * one table per instruction set (kernels_of). f32 lanes; callers hand over at most ACROSS_CHUNK
 * entries at a time and add what comes back in f64. Any thread; nothing is allocated.
 *
 * `source` is at any address and holds elements of `dtype`, rounded to f32 on the way. f32 buffers
 * need no alignment. */
#ifndef WORKERS_ACROSS_KERNEL_H
#define WORKERS_ACROSS_KERNEL_H

#include "workers/base/isa.h"
#include "proto/tensor.h"

/* Entries per call: a lane of four adds at most 512 of them. */
#define ACROSS_CHUNK 2048

/* The numbers that a row is judged by. */
struct across_judged {
    double sum;
    float min;   /* of them and 0; meaningless when not finite */
    bool finite; /* all of them */
};

struct across_moments {
    double mean, m2; /* NaN when an entry is not finite */
    float min, max;
    bool finite;
};

struct across_products {
    double sum;    /* of |x g| */
    float largest; /* |g| */
    bool finite;   /* all products */
};

/* Sums over y = x length, x below 0 taken as 0. */
struct across_shares {
    double sum, logs; /* y; y log2 y */
};

struct across_largest {
    float max;   /* of the finite ones; -infinity without */
    bool finite; /* all of them */
};

/* One head's row as half a distribution: half[k] = weight[k] * factor, so that the mean of two
 * heads is a sum; entropy[k] = half log2(2 half). Both of n entries. */
struct across_halves {
    float *half, *entropy;
};

struct across_kernels {
    /* ret[j] = sum_h weight[h] source[h][j] */
    void (*weigh)(const unsigned char *const *source, const float *weight, uint32_t heads,
                  enum dtype dtype, uint32_t n, float *ret);
    struct across_moments (*moments)(const float *x, uint32_t n);
    /* The data `next` bytes after the source is fetched into the cache for the call that
     * follows. */
    void (*load)(const unsigned char *source, ptrdiff_t next, enum dtype dtype, uint32_t n,
                 float *ret);
    struct across_judged (*judge)(const float *x, uint32_t n);
    struct across_products (*products)(const float *x, const float *g, uint32_t n);
    /* y at most 2^100; products below 2^-126 are lost. */
    struct across_shares (*shares)(const float *x, const float *length, uint32_t n);
    struct across_largest (*largest)(const unsigned char *source, enum dtype dtype, uint32_t n);
    /* sum[j] += source[j]; largest[j] = the larger of it and source[j], which is not taken when it
     * is NaN. */
    void (*accumulate)(const unsigned char *source, enum dtype dtype, uint32_t n, float *sum,
                       float *largest);
    /* Fills the halves; returns sum half^2. x >= 0. */
    double (*halve)(const float *x, float factor, uint32_t n, const struct across_halves *ret);
    /* Compares head g with every head of `others`: ret_js, in bits, and ret_dot of the halves. */
    void (*pairs)(const struct across_halves *g, const struct across_halves *others, uint32_t count,
                  uint32_t n, double *ret_js, double *ret_dot);
};

/* NULL for ISA_SCALAR: rows go through the reference. */
static inline const struct across_kernels *across_kernels_of(enum isa isa)
{
    const struct kernels *kernels = kernels_of(isa);
    return kernels ? kernels->across : NULL;
}

#endif
