/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/store/series.h"

#include <stdlib.h>

static uint64_t store_series_next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 11;
}

static double random_number(uint64_t *state)
{
    static const double odd[] = {0, -0.0, INFINITY, -INFINITY, 5e-324, 1.7976931348623157e308};
    uint64_t pick = store_series_next_random(state) % 16;
    return pick < 6    ? odd[pick]
           : pick == 6 ? NAN
                       : (double)store_series_next_random(state) * 0x1p-40;
}

static void fill_stats(struct result_stat *stats, uint32_t count, bool alike, uint64_t seed)
{
    for (uint32_t i = 0; i < count; i++) {
        double x = random_number(&seed), y = alike ? x : random_number(&seed);
        stats[i] =
            (struct result_stat){x, alike ? NAN : random_number(&seed),         y, y, y, y, y, y,
                                 y, alike ? 1 : store_series_next_random(&seed)};
    }
}

/* How many of the data's beginnings are read: those without the last column, which version 1 did
 * not have. */
static int count_prefixes(const struct result_stat *stats, uint32_t count, const uint8_t *data,
                          size_t size)
{
    struct result_stat back[SERIES_WINDOWS_MAX];
    int read = 0;
    for (size_t less = 0; less < size; less++) {
        if (series_decode(data, less, count, back) == ERR_STORE_FORMAT) {
            continue;
        }
        read++;
        for (uint32_t i = 0; i < count; i++) {
            assert_true(isnan(back[i].p10));
            back[i].p10 = stats[i].p10;
        }
        assert_memory_equal(stats, back, count * sizeof *stats);
    }
    return read;
}

static void check_stats(uint32_t count, bool alike)
{
    struct result_stat stats[SERIES_WINDOWS_MAX], back[SERIES_WINDOWS_MAX];
    uint8_t data[SERIES_STATS_BYTES(SERIES_WINDOWS_MAX)];
    fill_stats(stats, count, alike, count);
    size_t size = series_encode(stats, count, data);
    assert_true(size <= SERIES_STATS_BYTES(count) || count < 3);
    assert_int_equal(series_decode(data, size, count, back), 0);
    assert_memory_equal(stats, back, count * sizeof *stats);
    assert_int_equal(count_prefixes(stats, count, data, size), 1);
}

TEST(numbers_come_back_bit_for_bit)
{
    for (uint32_t count = 1; count <= SERIES_WINDOWS_MAX; count++) {
        check_stats(count, false);
        check_stats(count, true);
    }
}

TEST(windows_come_back)
{
    struct series_window windows[SERIES_WINDOWS_MAX], back[SERIES_WINDOWS_MAX];
    uint8_t data[SERIES_WINDOWS_BYTES(SERIES_WINDOWS_MAX)];
    uint64_t seed = 5;
    for (uint32_t i = 0; i < SERIES_WINDOWS_MAX; i++) {
        windows[i] = (struct series_window){10 * i,
                                            10 * i + 9,
                                            i,
                                            7 * i + (i == 40), /* not linear */
                                            store_series_next_random(&seed) << 11,
                                            i % 3,
                                            0,
                                            i == 63};
    }
    size_t size = series_windows_encode(windows, SERIES_WINDOWS_MAX, data);
    assert_int_equal(series_windows_decode(data, size, SERIES_WINDOWS_MAX, back), 0);
    assert_memory_equal(windows, back, sizeof windows);
}

TEST(windows_of_one_message_take_a_quarter)
{
    struct result_stat stats[SERIES_WINDOWS_MAX];
    uint8_t data[SERIES_STATS_BYTES(SERIES_WINDOWS_MAX)];
    fill_stats(stats, SERIES_WINDOWS_MAX, true, 3);
    assert_true(series_encode(stats, SERIES_WINDOWS_MAX, data) < 64 * 80 / 4);
}

TEST(other_bytes_are_refused)
{
    struct result_stat back[SERIES_WINDOWS_MAX];
    uint8_t data[SERIES_STATS_BYTES(2)] = {2}; /* the first column as the first */
    assert_int_equal(series_decode(data, sizeof data, 2, back), ERR_STORE_FORMAT);
    data[0] = 3;
    assert_int_equal(series_decode(data, sizeof data, 2, back), ERR_STORE_FORMAT);
    memset(data, 0, sizeof data);
    assert_int_equal(series_decode(data, sizeof data, 2, back), 0);
    assert_int_equal(series_decode(data, sizeof data, 1, back), ERR_STORE_FORMAT);
    assert_int_equal(series_decode(data, sizeof data, 0, back), ERR_STORE_FORMAT);
    assert_int_equal(series_decode(data, sizeof data, 65, back), ERR_STORE_FORMAT);
}

TEST(blobs_come_back)
{
    uint8_t data[1000] = {0}, packed[1000], *back;
    size_t size = blob_deflate(data, sizeof data, packed);
    assert_in_range(size, 1, 100);
    assert_int_equal(blob_inflate(packed, size, sizeof data, &back), 0);
    assert_memory_equal(data, back, sizeof data);
    free(back);
    assert_int_equal(blob_inflate(packed, size, sizeof data - 1, &back), ERR_STORE_FORMAT);
    assert_int_equal(blob_inflate(packed, size - 1, sizeof data, &back), ERR_STORE_FORMAT);
    assert_int_equal(blob_inflate(packed, size, UINT64_C(1) << 31, &back), ERR_STORE_FORMAT);
    assert_int_equal(blob_inflate(packed, 0, 0, &back), ERR_STORE_FORMAT);
    assert_int_equal(blob_inflate(NULL, 0, sizeof data, &back), ERR_STORE_FORMAT);
    packed[size / 2] ^= 0x55;
    assert_int_equal(blob_inflate(packed, size, sizeof data, &back), ERR_STORE_FORMAT);
}

TEST(what_cannot_be_deflated_is_kept_as_it_is)
{
    uint8_t data[100], packed[100], *back;
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(store_series_next_random(&seed) >> 20);
    }
    assert_int_equal(blob_deflate(data, sizeof data, packed), 0);
    assert_int_equal(blob_inflate(data, sizeof data, sizeof data, &back), 0);
    assert_memory_equal(data, back, sizeof data);
    free(back);
}
