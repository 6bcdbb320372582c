#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# cmocka 1.1.5 (Debian 12: libcmocka-dev 1.1.5-2.1): a NaN is equal to every number.
#
# Expected: assert_float_equal(NAN, 1.0f, 0.01f) fails, as a comparison of floats with NaN is false everywhere else.
# Seen: it passes, with the NaN on either side, so a test of numbers cannot see that the code under test has none. The
# opposite assertion, assert_float_not_equal(NAN, 1.0f, 0.01f), fails and prints "nan == 1.000000". Ordinary numbers are
# compared as expected.
#
# Needs apt and gcc; unpacks the pinned packages in a temporary folder. Exit status 0: as described; 1: it has changed.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
cd -- "$place"
apt-get download -qq libcmocka-dev=1.1.5-2.1 libcmocka0=1.1.5-2.1 >/dev/null
for package in ./*.deb; do dpkg -x "$package" root; done
library=$(dirname -- "$(find root -name 'libcmocka.so' | head -n 1)")

cat >equal.c <<'END'
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void nan_is_one(void **state) { (void)state; assert_float_equal(NAN, 1.0f, 0.01f); }
static void one_is_nan(void **state) { (void)state; assert_float_equal(1.0f, NAN, 0.01f); }
static void nan_is_not_one(void **state) { (void)state; assert_float_not_equal(NAN, 1.0f, 0.01f); }
static void two_is_one(void **state) { (void)state; assert_float_equal(2.0f, 1.0f, 0.01f); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nan_is_one), cmocka_unit_test(one_is_nan),
                                       cmocka_unit_test(nan_is_not_one), cmocka_unit_test(two_is_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
END
gcc -Iroot/usr/include equal.c -o equal -L"$library" -lcmocka -lm
LD_LIBRARY_PATH=$library ./equal >said 2>&1 || true
cat said
grep -q 'OK \] nan_is_one' said && grep -q 'OK \] one_is_nan' said && grep -q 'FAILED  \] nan_is_not_one' said &&
    grep -q 'nan == 1.000000' said && grep -q 'FAILED  \] two_is_one' said || { echo 'changed'; exit 1; }
echo 'as described'
