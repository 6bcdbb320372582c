/* SPDX-License-Identifier: MIT */
/* Cells against sums over all entries, by every instruction set; halves against all there are. */
#include "tests/unit/unit.h"

#include "workers/rows/block.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "workers/rows/map_pool.h"

#define B       2
#define H       3
#define QUERIES 200
#define KEYS    333

static float weights[B][H][QUERIES][KEYS];

static void map_pool_fill_weights(void)
{
    uint64_t seed = 5;
    float *x = &weights[0][0][0][0];
    for (size_t i = 0; i < sizeof weights / sizeof *x; i++) {
        x[i] = (float)(random_unit(&seed) * random_unit(&seed) * 2 / KEYS);
    }
}

static struct attention map_pool_attention_of(uint32_t queries, uint32_t keys)
{
    return (struct attention){.weights = weights,
                              .dtype = DTYPE_F32,
                              .batch = B,
                              .heads = H,
                              .queries = queries,
                              .keys = keys};
}

/* Halves */

static double map_pool_value_of(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 31  ? (fraction ? (double)NAN : (double)INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

TEST(every_half_is_itself)
{
    for (uint32_t half = 0; half <= 0xffff; half++) {
        double value = map_pool_value_of((uint16_t)half);
        if (!isnan(value)) {
            assert_int_equal(map_pool_half(value), half);
        }
    }
    assert_int_equal(map_pool_half((double)NAN), 0x7e00);
}

/* Between two neighbours: to the nearer one, from the middle to the even one. */
TEST(what_is_between_halves_goes_to_the_nearest_and_even)
{
    for (uint32_t half = 0; half < 0x7bff; half++) {
        double low = map_pool_value_of((uint16_t)half),
               high = map_pool_value_of((uint16_t)(half + 1));
        double middle = (low + high) / 2;
        assert_int_equal(map_pool_half(middle), half % 2 ? half + 1 : half);
        assert_int_equal(map_pool_half(nextafter(middle, 0)), half);
        assert_int_equal(map_pool_half(nextafter(middle, 1e9)), half + 1);
        assert_int_equal(map_pool_half(-middle), (half % 2 ? half + 1 : half) | 0x8000);
    }
    assert_int_equal(map_pool_half(nextafter(65520, 0)), 0x7bff);
    assert_int_equal(map_pool_half(65520), 0x7c00);
    assert_int_equal(map_pool_half(-1e308), 0xfc00);
    assert_int_equal(map_pool_half(5e-324), 0);
}

/* Cells */

TEST(cells_begin_at_their_edges)
{
    static const uint32_t sizes[] = {1, 2, 127, 128, 129, 200, 333, 1000, 4096};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint32_t T = sizes[s], n = T < MAP_POOL_MAX ? T : MAP_POOL_MAX;
        for (uint32_t i = 0; i < T; i++) {
            uint32_t r = map_pool_cell(i, T, n);
            assert_true(r * T / n <= i && i < (r + 1) * T / n);
        }
    }
    assert_int_equal(map_pool_cell(UINT32_MAX - 1, UINT32_MAX, 128), 127);
}

static void map_pool_add_block(struct map_pool *pool, const struct attention *a, uint32_t begin,
                               uint32_t end, enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    struct block_plan plan = {0};
    OWNED(block_clear) struct block block;
    OWNED(map_pool_clear) struct map_pool part;
    assert_int_equal(map_pool_init(&part, a, begin, end), 0);
    assert_int_equal(block_init(&block, a, &plan), 0);
    block.pool = &part;
    assert_int_equal(block_compute(&block, a, begin, end, isa, &scratch), 0);
    map_pool_merge(pool, &part);
}

/* In pieces of `piece` rows. */
static uint16_t *map_pool_map_of(const struct attention *a, uint32_t piece, enum isa isa)
{
    OWNED(map_pool_clear) struct map_pool pool;
    assert_int_equal(map_pool_init(&pool, a, 0, a->queries), 0);
    for (uint32_t i = 0; i < a->queries; i += piece) {
        map_pool_add_block(&pool, a, i, i + piece < a->queries ? i + piece : a->queries, isa);
    }
    uint16_t *values = malloc((size_t)pool.rows * pool.columns * sizeof *values);
    assert_non_null(values);
    map_pool_values(&pool, values);
    return values;
}

/* The mean of the head-mean's finite entries in a cell. */
static double map_pool_brute_cell(const struct attention *a, uint32_t row, uint32_t column,
                                  uint32_t rows, uint32_t columns)
{
    const float *x = a->weights;
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t b = 0; b < a->batch; b++) {
        for (uint32_t i = row * a->queries / rows; i < (row + 1) * a->queries / rows; i++) {
            for (uint32_t j = column * a->keys / columns; j < (column + 1) * a->keys / columns;
                 j++) {
                double entry = 0;
                for (uint32_t h = 0; h < a->heads; h++) {
                    size_t at = ((size_t)(b * a->heads + h) * a->queries + i) * a->keys + j;
                    entry += (double)x[at];
                }
                sum += isfinite(entry) ? entry / a->heads : 0;
                n += isfinite(entry) != 0;
            }
        }
    }
    return sum / n;
}

/* The reference is held to half a unit of the last place, and a little for the order of sums;
 * kernels add heads in f32. */
static void map_pool_assert_map(const struct attention *a, uint32_t piece, enum isa isa)
{
    uint32_t rows = a->queries < MAP_POOL_MAX ? a->queries : MAP_POOL_MAX;
    uint32_t columns = a->keys < MAP_POOL_MAX ? a->keys : MAP_POOL_MAX;
    uint16_t *values = map_pool_map_of(a, piece, isa);
    double slack = isa == ISA_SCALAR ? 1e-12 : 1e-6;
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < columns; c++) {
            double want = map_pool_brute_cell(a, r, c, rows, columns);
            double got = map_pool_value_of(values[(size_t)r * columns + c]);
            assert_close_or_nan(got, want, fmax(0x1p-25, want * 0x1p-11) + want * slack);
        }
    }
    free(values);
}

static void for_every_isa(const struct attention *a, uint32_t piece)
{
    for (int isa = ISA_SCALAR; isa <= (int)isa_best(); isa++) {
        map_pool_assert_map(a, piece, (enum isa)isa);
    }
}

TEST(cells_are_means_however_the_rows_are_cut)
{
    map_pool_fill_weights();
    struct attention a = map_pool_attention_of(QUERIES, KEYS);
    for_every_isa(&a, QUERIES);
    for_every_isa(&a, 67);
    for_every_isa(&a, 1);
    a = map_pool_attention_of(1, KEYS);
    for_every_isa(&a, 1);
    a = map_pool_attention_of(QUERIES, 1);
    for_every_isa(&a, 3);
    a = map_pool_attention_of(100, 7);
    for_every_isa(&a, 100);
}

TEST(map_pool_entries_that_are_not_finite_are_left_out)
{
    map_pool_fill_weights();
    weights[0][1][10][20] = (float)INFINITY;
    weights[1][0][10][20] = (float)NAN;
    weights[1][2][199][332] = (float)NAN;
    for (uint32_t i = 0; i < QUERIES; i++) { /* a whole row and column of cells */
        weights[0][0][i][0] = weights[0][0][i][1] = weights[1][0][i][0] = weights[1][0][i][1] =
            (float)NAN;
    }
    struct attention a = map_pool_attention_of(QUERIES, KEYS);
    for_every_isa(&a, 50);
}

TEST(map_pool_out_of_memory)
{
    struct attention a = map_pool_attention_of(QUERIES, KEYS);
    struct map_pool pool;
    for (unsigned nth = 1; nth <= 3; nth++) {
        heap_fail_at(nth);
        assert_int_equal(map_pool_init(&pool, &a, 0, QUERIES), ERR_MEMORY);
        heap_fail_at(0);
        assert_null(pool.sum);
    }
}

TEST(bytes_are_an_upper_bound)
{
    struct attention a = map_pool_attention_of(QUERIES, KEYS);
    struct map_pool pool;
    for (uint32_t begin = 0; begin < QUERIES; begin += 7) {
        for (uint32_t part = 1; begin + part <= QUERIES; part += 13) {
            assert_int_equal(map_pool_init(&pool, &a, begin, begin + part), 0);
            assert_true((size_t)pool.count * (pool.columns * 16 + 8) <=
                        map_pool_bytes(QUERIES, KEYS, part));
            map_pool_clear(&pool);
        }
    }
}
