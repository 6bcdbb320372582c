/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "clients/c/src/prefixes.h"

static struct prefixes prefixes;

static int prefixes_tear_down(void **state)
{
    (void)state;
    prefixes_clear(&prefixes);
    return 0;
}

#define PREFIXES_TEST(name) TEST_WITH(name, NULL, prefixes_tear_down)

PREFIXES_TEST(a_topic_matches_the_prefixes_of_it)
{
    assert_false(prefixes_match(&prefixes, "tensor/a/"));
    prefixes_apply(&prefixes, LITERAL("\x01tensor/a/"));
    assert_true(prefixes_match(&prefixes, "tensor/a/decoder/0/self/"));
    assert_false(prefixes_match(&prefixes, "tensor/ab/decoder/0/self/"));
    assert_false(prefixes_match(&prefixes, "tensor/"));
}

PREFIXES_TEST(removing_a_prefix_leaves_the_others)
{
    prefixes_apply(&prefixes, LITERAL("\x01"
                                      "a"));
    prefixes_apply(&prefixes, LITERAL("\x01"
                                      "a"));
    prefixes_apply(&prefixes, LITERAL("\x01"
                                      "b"));
    assert_int_equal(prefixes.count, 2);
    prefixes_apply(&prefixes, LITERAL("\x00"
                                      "a"));
    prefixes_apply(&prefixes, LITERAL("\x00"
                                      "never there"));
    assert_false(prefixes_match(&prefixes, "a"));
    assert_true(prefixes_match(&prefixes, "b"));
}

PREFIXES_TEST(the_empty_prefix_is_everything)
{
    prefixes_apply(&prefixes, LITERAL("\x01"));
    assert_true(prefixes_match(&prefixes, "anything"));
    assert_true(prefixes_touch(&prefixes, "anything"));
    prefixes_apply(&prefixes, LITERAL("\x00"));
    assert_false(prefixes_match(&prefixes, "anything"));
}

PREFIXES_TEST(other_notices_are_ignored)
{
    prefixes_apply(&prefixes, "", 0);
    prefixes_apply(&prefixes, LITERAL("\x02"
                                      "a"));
    assert_int_equal(prefixes.count, 0);
}

PREFIXES_TEST(touch_sees_what_lies_above_and_below)
{
    prefixes_apply(&prefixes, LITERAL("\x01tensor/a/decoder/5/"));
    assert_true(prefixes_touch(&prefixes, "tensor/a/"));
    assert_false(prefixes_touch(&prefixes, "tensor/b/"));
}

PREFIXES_TEST(the_set_is_bounded)
{
    for (int i = 0; i < PREFIXES_MAX + 10; i++) {
        char notice[16] = "\x01";

        prefixes_apply(&prefixes, notice,
                       1 + (size_t)snprintf(notice + 1, sizeof notice - 1, "%d/", i));
    }
    assert_int_equal(prefixes.count, PREFIXES_MAX);
}
