/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "tests/unit/heap.h"
#include "daemon/state/packed_hists.h"

static struct packed_cursor test_packed_hists_begin(const struct packed_hists *packed)
{
    return (struct packed_cursor){packed->bytes, packed->bytes + packed->size};
}

static void pack_values(struct packed_hists *packed, const double *values, int count)
{
    OWNED(dist_clear) struct dist dist = {0};
    for (int i = 0; i < count; i++) {
        assert_int_equal(dist_add(&dist, values[i]), 0);
    }
    assert_int_equal(packed_hists_add(packed, &dist.hist), 0);
}

static void expect_values(struct packed_cursor *cursor, const double *values, int count)
{
    OWNED(dist_clear) struct dist want = {0}, got;
    for (int i = 0; i < count; i++) {
        assert_int_equal(dist_add(&want, values[i]), 0);
    }
    assert_int_equal(packed_hists_next(cursor, &got), 0);
    assert_int_equal(got.moments.n, count);
    assert_int_equal(got.hist.used, want.hist.used);
    assert_int_equal(got.hist.halvings, 0);
    for (uint32_t i = 0; i < want.hist.used; i++) {
        assert_int_equal(got.hist.buckets[i].key, want.hist.buckets[i].key);
        assert_int_equal(got.hist.buckets[i].count, want.hist.buckets[i].count);
    }
}

static const double few[] = {1, 1, 1.01, 2, 0.5},
                    extremes[] = {-1e300, 1e300, 0, -0.0, 5e-324, -0x1p-40, 0x1p-40, -1, 1};

TEST(heads_come_back_in_order)
{
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    pack_values(&packed, few, 5);
    pack_values(&packed, NULL, 0);
    pack_values(&packed, extremes, 9);
    packed_hists_trim(&packed);
    assert_int_equal(packed.size, packed.capacity);
    struct packed_cursor cursor = test_packed_hists_begin(&packed);
    expect_values(&cursor, few, 5);
    expect_values(&cursor, NULL, 0);
    expect_values(&cursor, extremes, 9);
    assert_ptr_equal(cursor.at, cursor.end);
}

TEST(full_counts_are_exact)
{
    struct bucket buckets[] = {{-HIST_KEY_MAX, UINT32_MAX}, {HIST_KEY_MAX, 1u << 28}};
    struct hist hist = {.buckets = buckets, .used = 2, .capacity = 2};
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    OWNED(dist_clear) struct dist got;
    assert_int_equal(packed_hists_add(&packed, &hist), 0);
    struct packed_cursor cursor = test_packed_hists_begin(&packed);
    assert_int_equal(packed_hists_next(&cursor, &got), 0);
    assert_memory_equal(got.hist.buckets, buckets, sizeof buckets);
    assert_int_equal(got.moments.n, UINT32_MAX + (UINT64_C(1) << 28));
}

TEST(a_lower_resolution_is_kept)
{
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    OWNED(dist_clear) struct dist dist = {0}, got;
    for (int i = 1; i < 1000; i++) {
        assert_int_equal(dist_add(&dist, i % 2 ? i : -i), 0);
    }
    dist_limit(&dist, 20);
    assert_int_equal(packed_hists_add(&packed, &dist.hist), 0);
    struct packed_cursor cursor = test_packed_hists_begin(&packed);
    assert_int_equal(packed_hists_next(&cursor, &got), 0);
    assert_int_equal(got.hist.halvings, dist.hist.halvings);
    assert_in_range(got.hist.halvings, 1, HIST_HALVINGS_MAX);
    assert_memory_equal(got.hist.buckets, dist.hist.buckets,
                        dist.hist.used * sizeof *dist.hist.buckets);
}

TEST(neighbouring_buckets_take_two_bytes)
{
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    double values[100];
    for (int i = 0; i < 100; i++) {
        values[i] = 1 + i / 100.0;
    }
    pack_values(&packed, values, 100);
    assert_in_range(packed.size, 1, 2 * 33 + 4);
}

/* Exactly as long as it is, so that ASan sees a byte read beyond. */
static int next_of_copy(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    struct dist dist;
    assert_non_null(copy);
    if (size > 0) {
        memcpy(copy, bytes, size);
    }
    struct packed_cursor cursor = {copy, copy + size}, again = cursor;
    int code = packed_hists_next(&cursor, &dist);
    assert_int_equal(packed_hists_next(&again, NULL), code);
    if (code == 0) {
        dist_clear(&dist);
    }
    free(copy);
    return code;
}

TEST(what_was_cut_off_is_refused)
{
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    pack_values(&packed, extremes, 9);
    for (size_t size = 0; size < packed.size; size++) {
        assert_int_equal(next_of_copy(packed.bytes, size), ERR_STORE_FORMAT);
    }
    assert_int_equal(next_of_copy(packed.bytes, packed.size), 0);
}

TEST(impossible_histograms_are_refused)
{
    /* used, halvings, key, count */
    static const uint8_t bad[][8] = {
        {0xff, 0xff, 0xff, 0xff, 0x0f},          /* more buckets than there are keys */
        {1, HIST_HALVINGS_MAX + 1, 2, 1},        /* no such resolution */
        {1, 1, 0x84, 0x14, 1},                   /* a key that is one at full resolution only */
        {1, 0, 2, 0},                            /* a bucket without a count */
        {1, 0, 0xff, 0xff, 0x03, 1},             /* a key that is none */
        {2, 0, 2, 1, 0xff, 0x7f, 1},             /* a gap beyond the last key */
        {1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0x1f}, /* a count beyond 32 bits */
        {1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff}, /* a number that does not end */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(next_of_copy(bad[i], sizeof bad[i]), ERR_STORE_FORMAT);
    }
}

TEST(out_of_memory_leaves_things_as_they_were)
{
    OWNED(packed_hists_clear) struct packed_hists packed = {0};
    struct dist dist = {0}, got;
    assert_int_equal(dist_add(&dist, 1), 0);
    heap_fail_at(1);
    assert_int_equal(packed_hists_add(&packed, &dist.hist), ERR_MEMORY);
    assert_int_equal(packed.size, 0);
    assert_int_equal(packed_hists_add(&packed, &dist.hist), 0);
    struct packed_cursor cursor = test_packed_hists_begin(&packed);
    heap_fail_at(1);
    assert_int_equal(packed_hists_next(&cursor, &got), ERR_MEMORY);
    heap_fail_at(1);
    packed_hists_trim(&packed);
    heap_fail_at(0);
    cursor = test_packed_hists_begin(&packed);
    assert_int_equal(packed_hists_next(&cursor, NULL), 0);
    dist_clear(&dist);
}
