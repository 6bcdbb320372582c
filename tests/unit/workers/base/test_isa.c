/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "workers/base/isa.h"

static int test_isa_parse(const char *name, enum isa *ret_isa)
{
    return isa_parse(name, strlen(name), ret_isa);
}

TEST(the_reference_and_the_portable_kernels_are_everywhere)
{
    assert_true(isa_available(ISA_SCALAR));
    assert_true(isa_available(ISA_PORTABLE));
    assert_false(isa_available(ISA_COUNT));
}

TEST(the_best_is_available_and_no_better_one_is)
{
    enum isa best = isa_best();
    assert_true(isa_available(best));
    assert_true(best >= ISA_PORTABLE);
    for (int isa = (int)best + 1; isa < ISA_COUNT; isa++) {
        assert_false(isa_available((enum isa)isa));
    }
}

TEST(names_are_those_of_what_is_available)
{
    for (int k = 0; k < ISA_COUNT; k++) {
        enum isa isa = ISA_COUNT;
        int rc = test_isa_parse(isa_name[k], &isa);
        assert_int_equal(rc, isa_available((enum isa)k) ? 0 : ERR_ARGUMENT);
        assert_int_equal(isa, rc == 0 ? k : ISA_COUNT);
    }
}

TEST(auto_is_the_best)
{
    enum isa isa = ISA_COUNT;
    assert_int_equal(test_isa_parse("auto", &isa), 0);
    assert_int_equal(isa, isa_best());
}

TEST(other_names_are_refused)
{
    static const char *const names[] = {"", "avx", "avx5", "avx5120", "AVX2", "sse2", "autos"};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        enum isa isa = ISA_COUNT;
        assert_int_equal(test_isa_parse(names[k], &isa), ERR_ARGUMENT);
        assert_int_equal(isa, ISA_COUNT);
    }
}

TEST(every_one_but_the_reference_has_kernels)
{
    assert_null(kernels_of(ISA_SCALAR));
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        const struct kernels *kernels = kernels_of((enum isa)isa);
        assert_int_equal(kernels != NULL, isa_available((enum isa)isa));
        assert_ptr_equal(kernels_or_portable((enum isa)isa),
                         kernels ? kernels : kernels_of(ISA_PORTABLE));
    }
}
