/* SPDX-License-Identifier: MIT */
/* isa: the instruction sets that kernels are built for, which of them this machine has, and the
 * kernels of each. Any thread. */
#ifndef WORKERS_BASE_ISA_H
#define WORKERS_BASE_ISA_H

#include <stdbool.h>
#include <stddef.h>

enum isa {
    ISA_SCALAR,   /* the reference: f64, not vectorised */
    ISA_PORTABLE, /* the compiler's vector extensions: what a 64-bit Arm build uses */
    ISA_AVX2,     /* AVX2, FMA and F16C */
    ISA_AVX512,   /* AVX-512 F, BW, DQ, VL */
    ISA_COUNT
};

extern const char *const isa_name[ISA_COUNT]; /* "scalar", "portable", "avx2", "avx512" */

/* The functions that a fast path calls: one table per room, which types its functions in the header
 * that is named after it. */
struct kernels {
    const struct row_kernels *row;           /* rows/row_kernels.h */
    const struct across_kernels *across;     /* across/kernel.h */
    const struct qk_kernels *qk;             /* qk/kernel.h */
    const struct spectrum_kernels *spectrum; /* linear/spectrum_kernel.h */
};

/* NULL for ISA_SCALAR, and for what is not available. */
const struct kernels *kernels_of(enum isa isa);
/* The same, and the portable ones instead of NULL. */
const struct kernels *kernels_or_portable(enum isa isa);

/* Whether the build has it and the machine and its system support it. */
bool isa_available(enum isa isa);
/* The fastest that is available. */
enum isa isa_best(void);
/* "auto" is the best one. Returns 0 or ERR_ARGUMENT: no such name, or not available here. */
int isa_parse(const char *name, size_t len, enum isa *ret_isa);

#endif
