/* SPDX-License-Identifier: MIT */
#include "daemon/fleet/seen.h"
#include "proto/err.h"
#include "tests/unit/unit.h"

#define TOP 200

/* A set of numbers from 1 to TOP, plainly. */
struct plain {
    bool has[TOP + 2];
};

static void check(const struct seen *seen, const struct plain *plain)
{
    uint64_t low = 0, lacking = 0;
    struct seen_range hole, wanted;
    while (low < TOP && plain->has[low + 1]) {
        low++;
    }
    for (uint64_t i = 1; i <= TOP; i++) {
        assert_int_equal(seen_has(seen, i), plain->has[i]);
        lacking += !plain->has[i];
    }
    assert_int_equal(seen_low(seen), low);
    assert_int_equal(seen_lacking(seen, TOP), lacking);
    for (uint64_t after = 0; after < TOP; after++) {
        wanted.first = after + 1;
        while (wanted.first <= TOP && plain->has[wanted.first]) {
            wanted.first++;
        }
        wanted.last = wanted.first;
        while (wanted.last < TOP && !plain->has[wanted.last + 1]) {
            wanted.last++;
        }
        assert_int_equal(seen_hole(seen, after, TOP, &hole), wanted.first <= TOP);
        if (wanted.first <= TOP) {
            assert_int_equal(hole.first, wanted.first);
            assert_int_equal(hole.last, wanted.last);
        }
    }
    for (uint32_t i = 1; i < seen->count; i++) {
        assert_true(seen->ranges[i].first > seen->ranges[i - 1].last + 1);
    }
}

TEST(it_is_the_set_of_what_was_added)
{
    srand(1);
    for (int round = 0; round < 50; round++) {
        OWNED(seen_clear) struct seen seen = {.count = 0}, loaded = {.count = 0};
        struct plain plain = {{false}};
        for (int i = 0; i < 60; i++) {
            uint64_t first = 1 + (uint64_t)rand() % TOP, last = first + (uint64_t)rand() % 8;
            last = last > TOP ? TOP : last;
            assert_int_equal(seen_add(&seen, first, last), 0);
            memset(plain.has + first, true, last - first + 1);
            check(&seen, &plain);
        }
        assert_int_equal(seen_load(&loaded, seen.ranges, seen.count * sizeof *seen.ranges), 0);
        check(&loaded, &plain);
    }
}

TEST(an_empty_one_has_one_hole)
{
    struct seen seen = {.count = 0};
    struct seen_range hole;
    assert_false(seen_hole(&seen, 0, 0, &hole));
    assert_true(seen_hole(&seen, 0, 7, &hole));
    assert_int_equal(hole.first, 1);
    assert_int_equal(hole.last, 7);
    assert_int_equal(seen_lacking(&seen, 7), 7);
}

/* With every other row lost, some that are here are asked for again; none is lost. */
TEST(ranges_are_bounded_and_no_hole_is_forgotten)
{
    const uint64_t top = 2 * (SEEN_RANGES_MAX + 100);
    OWNED(seen_clear) struct seen seen = {.count = 0};
    struct seen_range hole;
    uint32_t asked = 0;
    for (uint64_t i = 1; i <= top; i += 2) {
        assert_int_equal(seen_add(&seen, i, i), 0);
        assert_false(seen_has(&seen, i + 1));
    }
    assert_int_equal(seen.count, SEEN_RANGES_MAX);
    assert_int_equal(seen_low(&seen), 1);
    assert_int_equal(seen_lacking(&seen, top), top - SEEN_RANGES_MAX);
    for (; seen_hole(&seen, 0, top, &hole); asked++) {
        assert_int_equal(seen_add(&seen, hole.first, hole.last), 0);
    }
    assert_int_equal(asked, SEEN_RANGES_MAX);
    assert_int_equal(seen_low(&seen), top);
}

TEST(the_smallest_range_is_forgotten)
{
    OWNED(seen_clear) struct seen seen = {.count = 0};
    for (uint64_t i = 0; i < SEEN_RANGES_MAX; i++) {
        assert_int_equal(seen_add(&seen, 1 + 10 * i, 2 + 10 * i), 0);
    }
    assert_int_equal(seen_add(&seen, 15, 15), 0);
    assert_int_equal(seen.count, SEEN_RANGES_MAX);
    assert_false(seen_has(&seen, 15));
    assert_true(seen_has(&seen, 1) && seen_has(&seen, 11) && seen_has(&seen, 21));
}

/* A hub goes on from its end. */
TEST(the_first_range_is_not_forgotten_however_small)
{
    OWNED(seen_clear) struct seen seen = {.count = 0};
    assert_int_equal(seen_add(&seen, 1, 1), 0);
    for (uint64_t i = 1; i <= SEEN_RANGES_MAX; i++) {
        assert_int_equal(seen_add(&seen, 1 + 10 * i, 2 + 10 * i), 0);
    }
    assert_int_equal(seen.count, SEEN_RANGES_MAX);
    assert_int_equal(seen_low(&seen), 1);
}

TEST(only_ranges_are_loaded)
{
    struct seen seen = {.count = 0};
    const struct seen_range none = {0, 3}, turned = {5, 4}, huge = {1, UINT64_MAX};
    assert_int_equal(seen_load(&seen, &none, sizeof none), ERR_STORE_FORMAT);
    assert_int_equal(seen_load(&seen, &turned, sizeof turned), ERR_STORE_FORMAT);
    assert_int_equal(seen_load(&seen, &huge, sizeof huge), ERR_STORE_FORMAT);
    assert_int_equal(seen_load(&seen, &none, 7), ERR_STORE_FORMAT);
    assert_int_equal(seen.count, 0);
}
