/* SPDX-License-Identifier: MIT */
#include "daemon/base/promise.h"
#include "daemon/internal.h"
#include "tests/unit/unit.h"

#define MS     UINT64_C(1000000)
#define PERIOD (2000 * MS)

TEST(a_round_is_due_after_its_period)
{
    assert_false(rounds_is_due(PERIOD - 1, 0, PROMISES_WORTH - 1, PERIOD));
    assert_true(rounds_is_due(PERIOD, PERIOD, 0, PERIOD));
}

TEST(enough_that_waits_to_be_acknowledged_has_it_begin_before)
{
    assert_true(rounds_is_due(0, 0, PROMISES_WORTH, PERIOD));
    assert_true(rounds_is_due(100 * MS, 5 * MS, PROMISES_WORTH, PERIOD));
}

TEST(rounds_take_a_twentieth_of_a_processor_at_most_before_their_time)
{
    assert_false(rounds_is_due(99 * MS, 5 * MS, 16 * PROMISES_WORTH, PERIOD));
    assert_false(rounds_is_due(PERIOD - 1, 101 * MS, 16 * PROMISES_WORTH, PERIOD));
}

TEST(promises_know_the_bytes_of_their_messages)
{
    struct promises some = {0}, others = {0};
    for (uint64_t bytes = 1; bytes <= 4; bytes++) {
        struct promise *promise = calloc(1, sizeof *promise);
        assert_non_null(promise);
        promise->bytes = bytes;
        promises_add(bytes < 3 ? &some : &others, promise);
    }
    promises_move(&some, &others);
    assert_int_equal(some.bytes, 10);
    assert_int_equal(others.bytes, 0);
    free(promises_take(&some));
    assert_int_equal(some.bytes, 9);
    promises_free(&some);
    assert_int_equal(some.bytes, 0);
}
