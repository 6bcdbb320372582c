/* SPDX-License-Identifier: MIT */
/* unit: cmocka with the headers it wants first, and a small deterministic random number. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

/* Uniform in [0, 1). */
static inline double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

static inline void assert_close(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("got %.17g, want %.17g, tolerance %g", got, want, tolerance);
    }
}

static inline void assert_nan(double got)
{
    if (!isnan(got)) {
        fail_msg("got %.17g, want NaN", got);
    }
}

#endif
