/* SPDX-License-Identifier: MIT */
/* unit: cmocka and the headers that tests want, tests that add themselves to their program, and a
 * small deterministic random number. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A test, named by its claim: TEST(a_window_has_at_most_64_parts) { ... }. Tests run in the order
 * of the file. */
#define TEST(name) TEST_WITH(name, NULL, NULL)
/* With functions of cmocka before and after it. */
#define TEST_WITH(name, setup, teardown) TEST_ON(name, void, , setup, teardown)
/* And with what `setup` left in *state as its parameter, such as struct place *place. */
#define TEST_OF(name, fixture, setup, teardown)                                                    \
    TEST_ON(name, fixture __attribute__((unused)), *state, setup, teardown)
/* With a zeroed structure of its own, `it`: after begin(it), unless that is NULL, and before
 * end(it). */
#define TEST_IN(name, type, it, begin, end)                                                        \
    static int set_up_##name(void **state)                                                         \
    {                                                                                              \
        void (*const first)(type *) = begin;                                                       \
        type *own = calloc(1, sizeof *own);                                                        \
        assert_non_null(own);                                                                      \
        if (first) {                                                                               \
            first(own);                                                                            \
        }                                                                                          \
        *state = own;                                                                              \
        return 0;                                                                                  \
    }                                                                                              \
    static int tear_down_##name(void **state)                                                      \
    {                                                                                              \
        end(*state);                                                                               \
        free(*state);                                                                              \
        return 0;                                                                                  \
    }                                                                                              \
    TEST_ON(name, type *it __attribute__((unused)), *state, set_up_##name, tear_down_##name)
#define TEST_ON(name, parameter, argument, setup, teardown)                                        \
    static void test_##name(parameter);                                                            \
    static void run_##name(void **state __attribute__((unused)))                                   \
    {                                                                                              \
        test_##name(argument);                                                                     \
    }                                                                                              \
    __attribute__((constructor)) static void add_##name(void)                                      \
    {                                                                                              \
        unit_add(#name, run_##name, setup, teardown);                                              \
    }                                                                                              \
    static void test_##name(parameter)

void unit_add(const char *name, CMUnitTestFunction test, CMFixtureFunction setup,
              CMFixtureFunction teardown);
/* Runs all tests of the program. A program calls this itself where something comes first. */
int unit_run(CMFixtureFunction setup, CMFixtureFunction teardown);

/* Before a local: `clear(&local)` is called where its scope ends, of several the last one first.
 * Not in a test that fails: it ends there. */
#define OWNED(clear) __attribute__((cleanup(clear)))

/* Uniform in [0, 1). */
static inline double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

/* Fails where `got` is NaN, as cmocka's own macros of float and `fabs(got - want) > tolerance` do
 * not. */
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

/* For a reference that has no number somewhere: `want` is NaN there, and so must `got` be. */
static inline void assert_close_or_nan(double got, double want, double tolerance)
{
    if (isnan(want)) {
        assert_nan(got);
    } else {
        assert_close(got, want, tolerance);
    }
}

#endif
