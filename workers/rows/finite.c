/* SPDX-License-Identifier: MIT */
/* finite: an element is NaN or infinite when all bits of its exponent are set. Loops are over plain
 * words, which compilers vectorise, in stretches, so that a bad one near the beginning ends them.
 */
#include "workers/rows/finite.h"

#include <string.h>

#define STRETCH 512u

/* Whether all bits of `mask` are set in one of n words. */
#define ANY_SET(bits)                                                                              \
    static bool finite_any_set_##bits(const unsigned char *at, uint32_t n, uint##bits##_t mask)    \
    {                                                                                              \
        unsigned any = 0;                                                                          \
        for (uint32_t k = 0; k < n; k++) {                                                         \
            uint##bits##_t word;                                                                   \
            memcpy(&word, at + (size_t)k * sizeof word, sizeof word);                              \
            any |= (word & mask) == mask;                                                          \
        }                                                                                          \
        return any != 0;                                                                           \
    }
ANY_SET(16)
ANY_SET(32)
ANY_SET(64)

static bool stretch_is_finite(const unsigned char *at, enum dtype dtype, uint32_t n)
{
    switch (dtype) {
    case DTYPE_F64:
        return !finite_any_set_64(at, n, UINT64_C(0x7ff0000000000000));
    case DTYPE_F32:
        return !finite_any_set_32(at, n, 0x7f800000);
    case DTYPE_BF16:
        return !finite_any_set_16(at, n, 0x7f80);
    default:
        return !finite_any_set_16(at, n, 0x7c00);
    }
}

bool finite_entries(const unsigned char *row, enum dtype dtype, uint32_t n)
{
    for (uint32_t j = 0; j < n; j += STRETCH) {
        uint32_t left = n - j < STRETCH ? n - j : STRETCH;
        if (!stretch_is_finite(row + j * dtype_size(dtype), dtype, left)) {
            return false;
        }
    }
    return true;
}

bool finite_row(const struct row_job *job, const unsigned char *row, enum dtype dtype)
{
    size_t size = dtype_size(dtype);
    const unsigned char *first = row + job->begin * size;
    bool finite = finite_entries(first, dtype, job->end - job->begin);
    if (finite || (!job->holes.mask && !job->holes.document)) {
        return finite;
    }
    for (uint32_t j = job->begin; j < job->end; j++) {
        if (attention_hole_free(&job->holes, j) && !stretch_is_finite(row + j * size, dtype, 1)) {
            return false;
        }
    }
    return true;
}
