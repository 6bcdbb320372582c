/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/ingest/sequence.h"

static struct drop_totals totals;

static uint64_t test_drop_totals_event(uint64_t total)
{
    uint64_t new;
    assert_int_equal(drop_totals_event(&totals, 0, total, true, &new), 0);
    return new;
}

static uint64_t topic(uint64_t dropped)
{
    uint64_t known;
    assert_int_equal(drop_totals_topic(&totals, 0, dropped, &known), 0);
    return known;
}

static int drop_totals_stop(void **state)
{
    (void)state;
    drop_totals_clear(&totals);
    return 0;
}

TEST_WITH(what_an_event_told_first_is_not_counted_again, NULL, drop_totals_stop)
{
    assert_int_equal(test_drop_totals_event(0), 0);
    assert_int_equal(test_drop_totals_event(5), 5);
    assert_int_equal(test_drop_totals_event(5), 0);
    assert_int_equal(topic(3), 3);
    assert_int_equal(topic(4), 2); /* two are newer than the test_drop_totals_event */
    assert_int_equal(test_drop_totals_event(7), 0);
    assert_int_equal(test_drop_totals_event(8), 1);
}

TEST_WITH(what_topics_told_first_is_not_counted_again, NULL, drop_totals_stop)
{
    assert_int_equal(topic(4), 0);
    assert_int_equal(topic(1), 0);
    assert_int_equal(test_drop_totals_event(6), 1);
    assert_int_equal(topic(1), 1);
}

TEST_WITH(what_was_dropped_before_attnd_came_is_nobodys_loss, NULL, drop_totals_stop)
{
    uint64_t new;
    assert_int_equal(drop_totals_event(&totals, 3, 1000, false, &new), 0);
    assert_int_equal(new, 0);
    assert_int_equal(drop_totals_event(&totals, 3, 1002, false, &new), 0);
    assert_int_equal(new, 2);
    assert_int_equal(test_drop_totals_event(1), 1); /* another rank */
}

TEST_WITH(forged_totals_are_not_believed, NULL, drop_totals_stop)
{
    assert_int_equal(test_drop_totals_event(2), 2);
    assert_int_equal(test_drop_totals_event(2 + SEQUENCE_DROPPED_MAX + 1), 0);
    assert_int_equal(test_drop_totals_event(3), 1);
    assert_int_equal(test_drop_totals_event(1), 0); /* from there on */
    assert_int_equal(test_drop_totals_event(2), 1);
}
