/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/rows/pairs.h"

#define LIMIT 5
#define COUNT 200

/* Whether a stands before b, said otherwise than in pairs.c. */
static bool stands_before(struct pair a, struct pair b)
{
    uint64_t place_a = (uint64_t)a.query << 32 | a.key, place_b = (uint64_t)b.query << 32 | b.key;
    return a.weight > b.weight || (!(b.weight > a.weight) && place_a < place_b);
}

/* Few weights, so that most decide by place; no place twice. */
static struct pair pair_at(uint32_t n)
{
    uint32_t place = n * 77 % COUNT; /* 77 and COUNT have no common divisor */
    return (struct pair){.query = place / 20, .key = place % 20, .weight = (double)(n * n % 7)};
}

/* How many of the first `count` entries stand before this one. */
static uint32_t rank_of(struct pair pair, uint32_t count)
{
    uint32_t rank = 0;
    for (uint32_t n = 0; n < count; n++) {
        rank += stands_before(pair_at(n), pair);
    }
    return rank;
}

TEST(the_best_stay_in_order)
{
    struct pair best[LIMIT];
    uint32_t kept = 0;
    for (uint32_t n = 0; n < COUNT; n++) {
        kept = pairs_offer(best, kept, LIMIT, pair_at(n));
        assert_int_equal(kept, n + 1 < LIMIT ? n + 1 : LIMIT);
        for (uint32_t k = 0; k < kept; k++) {
            assert_int_equal(rank_of(best[k], n + 1), k);
        }
    }
}

TEST(no_room_keeps_nothing)
{
    struct pair untouched = {.query = 7, .weight = 1};
    assert_int_equal(pairs_offer(&untouched, 0, 0, (struct pair){.weight = 2}), 0);
    assert_int_equal(untouched.query, 7);
}
