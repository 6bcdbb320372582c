/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/err.h"

TEST(every_error_has_its_own_slug_and_a_text)
{
    for (int i = 0; i < ERR_COUNT; i++) {
        assert_int_equal(err_index(ERR_BASE - i), i);
        assert_true(strlen(err_text(ERR_BASE - i)) > 0);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(err_slug(ERR_BASE - i), err_slug(ERR_BASE - j));
        }
    }
}

TEST(slugs_are_lower_case_words)
{
    for (int i = 0; i < ERR_COUNT; i++) {
        const char *slug = err_slug(ERR_BASE - i);

        assert_int_equal(strspn(slug, "abcdefghijklmnopqrstuvwxyz_0123456789"), strlen(slug));
    }
}

TEST(codes_of_others_are_unknown)
{
    static const int codes[] = {0,         -1,       1, -4095, ERR_BASE + 1, ERR_BASE - ERR_COUNT,
                                INT32_MIN, INT32_MAX};

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        assert_int_equal(err_index(codes[i]), -1);
        assert_string_equal(err_slug(codes[i]), "unknown");
        assert_string_equal(err_text(codes[i]), "unknown");
    }
}
