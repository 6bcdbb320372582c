/* SPDX-License-Identifier: MIT */
/* isa: the ladder. __builtin_cpu_supports asks the processor and, by xgetbv, whether the system
 * saves the wide registers; its state is set up before main, and asking for it again is harmless.
 */
#include "workers/base/isa.h"

#include "proto/err.h"
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

const char *const isa_name[ISA_COUNT] = {
    [ISA_SCALAR] = "scalar",
    [ISA_PORTABLE] = "portable",
    [ISA_AVX2] = "avx2",
    [ISA_AVX512] = "avx512",
};

/* The tables that the templates leave for one instruction set. */
#define KERNELS(isa)                                                                               \
    extern const struct row_kernels row_kernels_##isa;                                             \
    extern const struct across_kernels across_kernels_##isa;                                       \
    extern const struct qk_kernels qk_kernels_##isa;                                               \
    extern const struct spectrum_kernels spectrum_kernels_##isa;                                   \
    static const struct kernels kernels_##isa = {.row = &row_kernels_##isa,                        \
                                                 .across = &across_kernels_##isa,                  \
                                                 .qk = &qk_kernels_##isa,                          \
                                                 .spectrum = &spectrum_kernels_##isa}

KERNELS(portable);
#if defined(__x86_64__)
KERNELS(avx2);
KERNELS(avx512);

/* clang 14 does not know the name f16c. Its registers are those of AVX. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

static enum isa isa_probe(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) {
        return ISA_PORTABLE;
    }
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? ISA_AVX512 : ISA_AVX2;
#else
    return ISA_PORTABLE;
#endif
}

/* Asked once: cpuid takes microseconds in a virtual machine. ISA_SCALAR is "not yet". */
enum isa isa_best(void)
{
    static _Atomic int best = ISA_SCALAR;
    if (best == ISA_SCALAR) {
        best = (int)isa_probe();
    }
    return (enum isa)best;
}

bool isa_available(enum isa isa)
{
    return isa <= isa_best();
}

const struct kernels *kernels_of(enum isa isa)
{
    switch (isa_available(isa) ? isa : ISA_SCALAR) {
    case ISA_PORTABLE:
        return &kernels_portable;
#if defined(__x86_64__)
    case ISA_AVX2:
        return &kernels_avx2;
    case ISA_AVX512:
        return &kernels_avx512;
#endif
    default:
        return NULL;
    }
}

const struct kernels *kernels_or_portable(enum isa isa)
{
    const struct kernels *kernels = kernels_of(isa);
    return kernels ? kernels : &kernels_portable;
}

int isa_parse(const char *name, size_t len, enum isa *ret_isa)
{
    if (len == strlen("auto") && memcmp(name, "auto", len) == 0) {
        *ret_isa = isa_best();
        return 0;
    }
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (len == strlen(isa_name[isa]) && memcmp(name, isa_name[isa], len) == 0 &&
            isa_available((enum isa)isa)) {
            *ret_isa = (enum isa)isa;
            return 0;
        }
    }
    return ERR_ARGUMENT;
}
