/* SPDX-License-Identifier: MIT */
/* The rank that pays most speaks for its run. */
#include "tests/unit/unit.h"

#include "daemon/run/cost.h"
#include "proto/err.h"

static struct capture_costs costs;

static void cost_told(uint32_t rank_index, double step_seconds, double capture_seconds)
{
    struct header hello = {.step_seconds = step_seconds, .capture_seconds = capture_seconds};
    assert_int_equal(costs_take(&costs, rank_index, &hello), 0);
}

static double largest_ratio(void)
{
    assert_non_null(costs_largest(&costs));
    return cost_ratio(costs_largest(&costs));
}

static int cost_stop(void **state)
{
    (void)state;
    costs_clear(&costs);
    return 0;
}

static void test_nothing_is_known_before_a_rank_has_told(void **state)
{
    (void)state;
    assert_null(costs_largest(&costs));
    cost_told(3, 0, 0);
    assert_null(costs_largest(&costs));
    cost_told(3, 0.5, 0);
    assert_true(largest_ratio() == 0);
}

static void test_the_rank_that_pays_most_counts(void **state)
{
    (void)state;
    cost_told(0, 1, 0.25);
    cost_told(7, 2, 1);
    cost_told(2, 1, 0.125);
    assert_true(largest_ratio() == 0.5);
    assert_true(costs_largest(&costs)->step_seconds == 2);
}

static void test_it_is_another_one_once_it_pays_less(void **state)
{
    (void)state;
    cost_told(0, 1, 0.25);
    cost_told(1, 1, 0.5);
    cost_told(1, 1, 0.125);
    assert_true(largest_ratio() == 0.25);
    cost_told(1, 1, 0.375);
    assert_true(largest_ratio() == 0.375);
    cost_told(1, 0, 0); /* a hello that says nothing takes nothing back */
    assert_true(largest_ratio() == 0.375);
}

static void test_a_ratio_is_finite(void **state)
{
    (void)state;
    cost_told(0, 1e-300, 1e300);
    assert_true(largest_ratio() == 1e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_nothing_is_known_before_a_rank_has_told, cost_stop),
        cmocka_unit_test_teardown(test_the_rank_that_pays_most_counts, cost_stop),
        cmocka_unit_test_teardown(test_it_is_another_one_once_it_pays_less, cost_stop),
        cmocka_unit_test_teardown(test_a_ratio_is_finite, cost_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
