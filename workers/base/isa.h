/* SPDX-License-Identifier: MIT */
/* isa: the instruction sets that kernels are built for, and which of them this machine has.
 *
 * Pure after the first call of isa_best; any thread. */
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

/* Whether the build has it and the machine and its system support it. */
bool isa_available(enum isa isa);
/* The fastest that is available. */
enum isa isa_best(void);
/* "auto" is the best one. Returns 0 or ERR_ARGUMENT: no such name, or not available here. */
int isa_parse(const char *name, size_t len, enum isa *ret_isa);

#endif
