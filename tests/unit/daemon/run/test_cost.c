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

TEST_WITH(nothing_is_known_before_a_rank_has_told, NULL, cost_stop)
{
    assert_null(costs_largest(&costs));
    cost_told(3, 0, 0);
    assert_null(costs_largest(&costs));
    cost_told(3, 0.5, 0);
    assert_true(largest_ratio() == 0);
}

TEST_WITH(the_rank_that_pays_most_counts, NULL, cost_stop)
{
    cost_told(0, 1, 0.25);
    cost_told(7, 2, 1);
    cost_told(2, 1, 0.125);
    assert_true(largest_ratio() == 0.5);
    assert_true(costs_largest(&costs)->step_seconds == 2);
}

TEST_WITH(it_is_another_one_once_it_pays_less, NULL, cost_stop)
{
    cost_told(0, 1, 0.25);
    cost_told(1, 1, 0.5);
    cost_told(1, 1, 0.125);
    assert_true(largest_ratio() == 0.25);
    cost_told(1, 1, 0.375);
    assert_true(largest_ratio() == 0.375);
    cost_told(1, 0, 0); /* a hello that says nothing takes nothing back */
    assert_true(largest_ratio() == 0.375);
}

TEST_WITH(a_ratio_is_finite, NULL, cost_stop)
{
    cost_told(0, 1e-300, 1e300);
    assert_true(largest_ratio() == 1e9);
}
