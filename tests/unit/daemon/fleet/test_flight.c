/* SPDX-License-Identifier: MIT */
/* Rows that were handed to the servers. */
#include "tests/unit/unit.h"

#include "daemon/fleet/flight.h"

TEST(a_row_is_through_when_all_its_pieces_are)
{
    OWNED(flight_clear) struct flight_table flight = {.rows = NULL};
    assert_non_null(flight_add(&flight, 5, 0, 100, 3));
    assert_int_equal(flight.bytes, 100);
    assert_false(flight_answer(&flight, 5, 0, 3, true));
    assert_false(flight_answer(&flight, 5, 0, 1, true));
    assert_false(flight_answer(&flight, 5, 0, 1, true)); /* again */
    assert_true(flight_answer(&flight, 5, 0, 2, true));
    assert_int_equal(flight.count, 0);
    assert_int_equal(flight.bytes, 0);
    assert_false(flight_answer(&flight, 5, 0, 2, true));
}

TEST(answers_for_other_turns_and_pieces_are_nothing)
{
    OWNED(flight_clear) struct flight_table flight = {.rows = NULL};
    assert_non_null(flight_add(&flight, 5, 1, 10, 1));
    assert_false(flight_answer(&flight, 5, 0, 1, true));
    assert_false(flight_answer(&flight, 6, 1, 1, true));
    assert_false(flight_answer(&flight, 5, 1, 0, true));
    assert_false(flight_answer(&flight, 5, 1, 2, false));
    assert_null(flight_failed(&flight));
    assert_true(flight_answer(&flight, 5, 1, 1, true));
}

TEST(rows_that_failed_go_again_in_their_order)
{
    OWNED(flight_clear) struct flight_table flight = {.rows = NULL};
    for (uint64_t seq = 1; seq <= 200; seq++) {
        assert_non_null(flight_add(&flight, seq, 0, 1, 2));
    }
    assert_false(flight_answer(&flight, 150, 0, 2, false));
    assert_false(flight_answer(&flight, 30, 0, 1, true));
    assert_false(flight_answer(&flight, 30, 0, 2, false));
    assert_int_equal(flight_failed(&flight)->seq, 30);
    assert_int_equal(flight_failed(&flight)->done[0], true);
    flight_find(&flight, 30)->failed = false;
    assert_int_equal(flight_failed(&flight)->seq, 150);
    assert_true(flight_answer(&flight, 30, 0, 2, true));
    flight_find(&flight, 1)->put_ns = flight_find(&flight, 2)->put_ns = 7;
    flight_fail_before(&flight, 7);
    assert_int_equal(flight_failed(&flight)->seq, 3);
    flight_fail_before(&flight, 8);
    assert_int_equal(flight_failed(&flight)->seq, 1);
    flight_remove(&flight, 1);
    flight_remove(&flight, 1);
    assert_int_equal(flight_failed(&flight)->seq, 2);
    assert_int_equal(flight.count, 198);
}
