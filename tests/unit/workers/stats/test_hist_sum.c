/* SPDX-License-Identifier: MIT */
/* Histograms as bytes, and their sums, against lists of buckets. */
#include "tests/unit/unit.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/hist_bound.h"
#include "workers/stats/hist_pair.h"
#include "workers/stats/hist_sum.h"

static uint8_t bytes[1 << 16];

static void hist_sum_assert_same_hist(const struct hist *a, const struct hist *b)
{
    assert_int_equal(a->halvings, b->halvings);
    assert_int_equal(a->used, b->used);
    assert_memory_equal(a->buckets, b->buckets, a->used * sizeof *a->buckets);
}

static void assert_empty(const struct hist_sum *sum)
{
    static const struct hist_sum empty;
    assert_memory_equal(sum, &empty, sizeof empty);
}

/* A histogram of any width, on either side of zero, with counts of any size. */
static struct hist random_hist(uint64_t *seed)
{
    struct hist h = {0};
    uint32_t values = 1 + (uint32_t)(200 * random_unit(seed));
    double spread = 40 * random_unit(seed) * random_unit(seed),
           middle = 40 * random_unit(seed) - 20;
    for (uint32_t i = 0; i < values; i++) {
        double x = exp(middle + spread * (random_unit(seed) - 0.5));
        x = random_unit(seed) < 0.1 ? 0 : random_unit(seed) < 0.2 ? -x : x;
        assert_int_equal(hist_add(&h, x), 0);
    }
    double most = exp(22 * random_unit(seed));
    for (uint32_t i = 0; i < h.used; i++) {
        h.buckets[i].count = 1 + (uint32_t)(most * random_unit(seed));
    }
    hist_halve(&h, (uint32_t)(4 * random_unit(seed)));
    return h;
}

TEST(bytes_are_the_histogram)
{
    uint64_t seed = 1;
    struct hist_sum *sum = calloc(1, sizeof *sum);
    OWNED(hist_clear) struct hist back = {0};
    for (int round = 0; round < 2000; round++) {
        OWNED(hist_clear) struct hist h = random_hist(&seed);
        struct hist_extent extent;
        hist_sum_add(sum, &h);
        size_t size = hist_sum_write(sum, HIST_KEYS, bytes);
        assert_empty(sum);
        assert_true(size <= hist_bytes_max(h.used));
        assert_true(hist_bytes_check(bytes, size, &extent));
        assert_int_equal(extent.used, h.used);
        assert_int_equal(extent.total, hist_total(&h));
        assert_int_equal(extent.lowest, h.buckets[0].key);
        assert_int_equal(extent.highest, h.buckets[h.used - 1].key);
        assert_int_equal(hist_bytes_read(bytes, size, &back), 0);
        hist_sum_assert_same_hist(&back, &h);
    }
    free(sum);
}

/* By lists, and by the sum, of lists and of bytes. */
TEST(sums_are_those_of_lists)
{
    uint64_t seed = 2;
    struct hist_sum *sum = calloc(1, sizeof *sum), *one = calloc(1, sizeof *one);
    for (int round = 0; round < 1000; round++) {
        OWNED(hist_clear) struct hist want = {0}, got = {0};
        uint32_t limit = 2 + (uint32_t)(120 * random_unit(&seed));
        for (int part = (int)(5 * random_unit(&seed)); part >= 0; part--) {
            OWNED(hist_clear) struct hist h = random_hist(&seed);
            assert_int_equal(hist_merge(&want, &h), 0);
            if (part % 2) {
                hist_sum_add(sum, &h);
            } else {
                hist_sum_add(one, &h);
                hist_sum_add_bytes(sum, bytes, hist_sum_write(one, HIST_KEYS, bytes));
            }
        }
        assert_int_equal(hist_add(&want, -3.5), 0);
        hist_sum_add_value(sum, -3.5, 1);
        hist_limit(&want, limit);
        assert_int_equal(hist_bytes_read(bytes, hist_sum_write(sum, limit, bytes), &got), 0);
        hist_sum_assert_same_hist(&got, &want);
        assert_empty(sum);
    }
    free(sum);
    free(one);
}

/* Pairs are added block beside block; the sum takes more again and again, as windows do. */
TEST(sums_of_pairs_are_those_of_counters)
{
    static uint8_t kept[sizeof bytes], more[sizeof bytes];
    uint64_t seed = 5;
    struct hist_sum *sum = calloc(1, sizeof *sum);
    struct hist_pair *pair = calloc(1, sizeof *pair);
    for (int round = 0; round < 1000; round++) {
        uint32_t limit = 2 + (uint32_t)(120 * random_unit(&seed)), size = 0;
        for (int part = (int)(6 * random_unit(&seed)); part >= 0; part--) {
            struct hist_span a = {kept, size}, b = {more, 0};
            double x = exp(40 * random_unit(&seed) - 20) - exp(40 * random_unit(&seed) - 20);
            uint32_t n = 1 + (uint32_t)(exp(22 * random_unit(&seed)));
            if (size > 0) {
                hist_sum_add_bytes(sum, kept, size);
            }
            if (random_unit(&seed) < 0.3) {
                uint32_t halvings = size > 0 && random_unit(&seed) < 0.5 ? kept[0] : 0;
                b = hist_pair_single(pair, 1, x, n, halvings);
                hist_sum_add_value(sum, x, n);
            } else {
                struct hist h = random_hist(&seed);
                struct hist_sum *one = calloc(1, sizeof *one);
                hist_sum_add(one, &h);
                b.size = (uint32_t)hist_sum_write(one, HIST_KEYS, more);
                hist_sum_add_bytes(sum, more, b.size);
                hist_clear(&h);
                free(one);
            }
            struct hist_span got =
                part % 2 ? hist_pair_sum(pair, a, b, limit) : hist_pair_sum(pair, b, a, limit);
            size_t want = hist_sum_write(sum, limit, bytes);
            assert_int_equal(got.size, want);
            assert_memory_equal(got.bytes, bytes, want);
            assert_true(want <= hist_bytes_max(limit));
            memcpy(kept, bytes, want);
            size = (uint32_t)want;
        }
    }
    assert_int_equal(hist_pair_sum(pair, (struct hist_span){0}, (struct hist_span){0}, 8).size, 0);
    free(sum);
    free(pair);
}

TEST(the_widest_histogram_fits)
{
    struct hist_sum *sum = calloc(1, sizeof *sum);
    OWNED(hist_clear) struct hist back = {0};
    for (int32_t key = -HIST_KEY_MAX; key <= HIST_KEY_MAX; key++) {
        hist_sum_add_value(sum, hist_bound_of(key), UINT32_MAX);
    }
    size_t size = hist_sum_write(sum, HIST_KEYS, bytes);
    assert_true(size <= hist_bytes_max(HIST_KEYS));
    assert_int_equal(hist_bytes_read(bytes, size, &back), 0);
    assert_int_equal(back.used, HIST_KEYS);
    struct hist_pair *pair = calloc(1, sizeof *pair);
    struct hist_span all = {bytes, (uint32_t)size};
    struct hist_span twice = hist_pair_sum(pair, all, all, HIST_KEYS);
    assert_int_equal(twice.size, size); /* all are saturated */
    assert_memory_equal(twice.bytes, bytes, size);
    free(pair);
    for (uint32_t limit = HIST_KEYS / 2; limit >= HIST_LIMIT_MIN; limit /= 2) {
        hist_sum_add_bytes(sum, bytes, size);
        size = hist_sum_write(sum, limit, bytes);
        assert_true(size <= hist_bytes_max(limit));
        assert_int_equal(hist_bytes_read(bytes, size, &back), 0);
        assert_true(back.used <= limit);
    }
    free(sum);
}

TEST(hist_sum_counts_saturate)
{
    struct hist_sum *sum = calloc(1, sizeof *sum);
    OWNED(hist_clear) struct hist back = {0};
    for (int i = 0; i < 3; i++) {
        for (int e = 0; e < 8; e++) { /* neighbours, which are added together */
            hist_sum_add_value(sum, exp2(e / 32.0), UINT32_MAX / 2);
        }
        size_t size = hist_sum_write(sum, HIST_KEYS, bytes);
        hist_sum_add_bytes(sum, bytes, size);
    }
    assert_int_equal(hist_bytes_read(bytes, hist_sum_write(sum, HIST_KEYS, bytes), &back), 0);
    for (uint32_t i = 0; i < back.used; i++) {
        assert_int_equal(back.buckets[i].count, UINT32_MAX);
    }
    free(sum);
}

TEST(clearing_empties_every_resolution)
{
    uint64_t seed = 3;
    struct hist_sum *sum = calloc(1, sizeof *sum);
    assert_int_equal(hist_sum_write(sum, 8, bytes), 0);
    for (int round = 0; round < 50; round++) {
        for (uint32_t halvings = 0; halvings <= HIST_HALVINGS_MAX; halvings++) {
            OWNED(hist_clear) struct hist h = random_hist(&seed);
            hist_halve(&h, halvings);
            hist_sum_add(sum, &h);
        }
        hist_sum_clear(sum);
        assert_empty(sum);
    }
    free(sum);
}

/* Whatever passes the check is read within its bounds. */
TEST(what_is_no_histogram_is_told)
{
    uint64_t seed = 4;
    struct hist_sum *sum = calloc(1, sizeof *sum);
    OWNED(hist_clear) struct hist back = {0};
    unsigned passed = 0;
    for (int round = 0; round < 3000; round++) {
        OWNED(hist_clear) struct hist h = random_hist(&seed);
        hist_sum_add(sum, &h);
        size_t size = hist_sum_write(sum, HIST_KEYS, bytes);
        size_t cut = (size_t)((double)(size + 1) * random_unit(&seed));
        uint8_t *changed = malloc(cut > 0 ? cut : 1);
        memcpy(changed, bytes, cut);
        for (int flips = (int)(3 * random_unit(&seed)); flips > 0 && cut > 0; flips--) {
            changed[(size_t)((double)cut * random_unit(&seed))] ^=
                (uint8_t)(1 << (int)(8 * random_unit(&seed)));
        }
        struct hist_extent extent;
        if (hist_bytes_check(changed, cut, &extent)) {
            passed++;
            assert_int_equal(hist_bytes_read(changed, cut, &back), 0);
            assert_int_equal(back.used, extent.used);
            assert_int_equal(hist_total(&back), extent.total);
            assert_true(back.buckets[0].key >= -hist_key_max(back.halvings));
            assert_true(back.buckets[extent.used - 1].key <= hist_key_max(back.halvings));
            hist_sum_add_bytes(sum, changed, cut);
            hist_sum_clear(sum);
        }
        free(changed);
    }
    assert_true(passed > 10);
    free(sum);
}

TEST(reading_out_of_memory_has_no_effect)
{
    struct hist_sum *sum = calloc(1, sizeof *sum);
    struct hist back = {0};
    hist_sum_add_value(sum, 1, 1);
    size_t size = hist_sum_write(sum, 8, bytes);
    heap_fail_at(1);
    assert_int_equal(hist_bytes_read(bytes, size, &back), ERR_MEMORY);
    heap_fail_at(0);
    assert_int_equal(back.used, 0);
    assert_null(back.buckets);
    free(sum);
}
