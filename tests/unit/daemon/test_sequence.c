/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "err.h"
#include "sequence.h"

static int next(struct sequences *s, uint64_t seq, uint64_t dropped, struct losses *losses)
{
    *losses = (struct losses){0};
    return sequences_next(s, 0, seq, dropped, losses);
}

static void test_a_gap_is_a_loss(void **state)
{
    struct sequences s = {0};
    struct losses losses;
    (void)state;
    assert_int_equal(next(&s, 0, 0, &losses), 0);
    assert_int_equal(next(&s, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(next(&s, 5, 0, &losses), 0);
    assert_int_equal(losses.lost, 3);
    sequences_clear(&s);
}

static void test_starting_in_the_middle_loses_nothing(void **state)
{
    struct sequences s = {0};
    struct losses losses;
    (void)state;
    assert_int_equal(next(&s, 1000, 7, &losses), 0);
    assert_int_equal(losses.lost, 0);
    assert_int_equal(losses.source, 0);
    assert_int_equal(next(&s, 1001, 9, &losses), 0);
    assert_int_equal(losses.source, 2);
    sequences_clear(&s);
}

static void test_drops_before_the_first_message_count(void **state)
{
    struct sequences s = {0};
    struct losses losses;
    (void)state;
    assert_int_equal(next(&s, 0, 4, &losses), 0);
    assert_int_equal(losses.source, 4);
    sequences_clear(&s);
}

static void test_repeats_and_steps_back_are_refused_without_effect(void **state)
{
    struct sequences s = {0};
    struct losses losses;
    (void)state;
    next(&s, 0, 0, &losses);
    next(&s, 1, 0, &losses);
    assert_int_equal(next(&s, 1, 0, &losses), ERR_SEQ_DUPLICATE);
    assert_int_equal(next(&s, 0, 0, &losses), ERR_SEQ_ORDER);
    assert_int_equal(next(&s, 2, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}

static void test_ranks_are_counted_apart(void **state)
{
    struct sequences s = {0};
    struct losses losses = {0};
    (void)state;
    assert_int_equal(sequences_next(&s, 300, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(&s, 2, 0, 0, &losses), 0);
    assert_int_equal(sequences_next(&s, 300, 1, 0, &losses), 0);
    assert_int_equal(losses.lost, 0);
    sequences_clear(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_gap_is_a_loss),
        cmocka_unit_test(test_starting_in_the_middle_loses_nothing),
        cmocka_unit_test(test_drops_before_the_first_message_count),
        cmocka_unit_test(test_repeats_and_steps_back_are_refused_without_effect),
        cmocka_unit_test(test_ranks_are_counted_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
