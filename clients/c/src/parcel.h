/* SPDX-License-Identifier: MIT */
/* parcel: the arguments of a publishing call, described and not copied: a header and the places of
 * its tensors. Borrowed from the caller until the call returns. Pure. */
#ifndef CLIENTS_C_SRC_PARCEL_H
#define CLIENTS_C_SRC_PARCEL_H

#include "clients/c/include/attn/attn.h"
#include "proto/header.h"

/* A block of the caller's array [samples][heads][rows] of row_bytes each; arrays with fewer
 * dimensions have 1 there. */
struct parcel_view {
    const void *data;
    uint32_t heads, rows; /* of the array */
    uint32_t head, row;   /* the first that is taken */
    uint32_t samples_taken, heads_taken, rows_taken;
    uint32_t stride; /* of the rows that are taken; from one to the next */
    uint32_t share;  /* heads taken that read one head of the array, which `head` counts; else 1 */
    uint64_t row_bytes;
};

struct parcel {
    struct header header; /* q_len, k_len and labels are the caller's: never clear it */
    struct parcel_view views[TENSORS_MAX]; /* of header.tensors */
    uint32_t row, stride;                  /* the rows taken of those that q_len counts */
    uint64_t bytes;                        /* of all tensors */
    bool invalid;                          /* a tensor cannot be what it was said to be */
};

/* Appends a tensor that is sent whole. Its data being NULL, does nothing. The parcel becomes
 * invalid when a dimension is 0 or above INT32_MAX, or the bytes overflow. */
void parcel_add(struct parcel *parcel, const void *data, struct tensor tensor);

/* Makes of a parcel with all of `attention` or `qk` one with the samples and rows of a plan at its
 * step, and the heads `range`, which are the layer's and lie in the parcel's slice. */
void parcel_restrict(const struct parcel *whole, const attn_plan *plan, attn_range range,
                     struct parcel *ret_part);

/* Copies tensor `index` to `to`, which has its bytes. */
void parcel_copy(const struct parcel *parcel, uint32_t index, void *to);

#endif
