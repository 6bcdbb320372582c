/* SPDX-License-Identifier: MIT */
/* bench: what several benches need. An error ends the process with a line on stderr. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline void bench_must(bool well, const char *what)
{
    if (!well) {
        fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
        exit(1);
    }
}

/* The memory, or out of memory. */
static inline void *bench_have(void *memory)
{
    bench_must(memory, "out of memory");
    return memory;
}

static inline double bench_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The processor time of this thread: what others do on the machine is not ours. */
static inline double bench_cpu_seconds(void)
{
    return bench_seconds(CLOCK_THREAD_CPUTIME_ID);
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts. */
static inline double bench_median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, bench_compare);
    return (x[(n - 1) / 2] + x[n / 2]) / 2;
}

/* Uniform in [0, 1). */
static inline double bench_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

#endif
