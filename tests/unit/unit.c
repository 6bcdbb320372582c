/* SPDX-License-Identifier: MIT */
/* unit: see unit.h. Tests add themselves before main() runs, in the order of the file. */
#include "tests/unit/unit.h"

#define TESTS_MAX 256

static struct CMUnitTest unit_tests[TESTS_MAX];
static size_t unit_count;

void unit_add(const char *name, CMUnitTestFunction test, CMFixtureFunction setup,
              CMFixtureFunction teardown)
{
    if (unit_count == TESTS_MAX) {
        abort();
    }
    unit_tests[unit_count++] = (struct CMUnitTest){name, test, setup, teardown, NULL};
}

int unit_run(CMFixtureFunction setup, CMFixtureFunction teardown)
{
    return _cmocka_run_group_tests("tests", unit_tests, unit_count, setup, teardown);
}
