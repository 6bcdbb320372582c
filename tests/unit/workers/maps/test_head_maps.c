/* SPDX-License-Identifier: MIT */
/* Cells against sums over all entries, by every instruction set, of every dtype, at any address. */
#include "tests/unit/unit.h"

#include "proto/err.h"
#include "workers/maps/head_maps.h"
#include "tests/unit/heap.h"

#include <float.h>

enum { B = 2, H = 3, QUERIES = 70, KEYS = 2200 };

/* One byte off the address that malloc gives. */
static unsigned char *memory;
static struct attention a;
static uint64_t seed = 5;

static void make(enum dtype dtype, uint32_t batch, uint32_t heads, uint32_t queries, uint32_t keys)
{
    size_t entries = (size_t)batch * heads * queries * keys;
    free(memory);
    memory = malloc(1 + entries * dtype_size(dtype));
    assert_non_null(memory);
    a = (struct attention){.weights = memory + 1,
                           .dtype = dtype,
                           .batch = batch,
                           .heads = heads,
                           .queries = queries,
                           .keys = keys};
}

static int drop_memory(void **state)
{
    (void)state;
    free(memory);
    return 0;
}

static void head_maps_put(uint32_t b, uint32_t h, uint32_t i, uint32_t j, double x)
{
    size_t at = (((size_t)b * a.heads + h) * a.queries + i) * a.keys + j;
    unsigned char *to = memory + 1 + at * dtype_size(a.dtype);
    float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    uint16_t upper = (uint16_t)(bits >> 16);
    switch (a.dtype) {
    case DTYPE_F64:
        memcpy(to, &x, sizeof x);
        break;
    case DTYPE_F32:
        memcpy(to, &narrow, sizeof narrow);
        break;
    case DTYPE_BF16:
        memcpy(to, &upper, sizeof upper);
        break;
    default: { /* F16: small powers of two are exact, and so is what is not finite */
        uint16_t half = isnan(x)   ? 0x7e00
                        : isinf(x) ? (uint16_t)(x > 0 ? 0x7c00 : 0xfc00)
                                   : (uint16_t)((15 + (x == 0 ? -15 : ilogb(x))) << 10);
        memcpy(to, &half, sizeof half);
    }
    }
}

static double head_maps_get(uint32_t b, uint32_t h, uint32_t i, uint32_t j)
{
    double x;
    attention_load(a.weights, a.dtype, (((size_t)b * a.heads + h) * a.queries + i) * a.keys + j, 1,
                   &x);
    return x;
}

static void head_maps_fill(void)
{
    for (uint32_t b = 0; b < a.batch; b++) {
        for (uint32_t h = 0; h < a.heads; h++) {
            for (uint32_t i = 0; i < a.queries; i++) {
                for (uint32_t j = 0; j < a.keys; j++) {
                    double x = random_unit(&seed);
                    head_maps_put(b, h, i, j,
                                  a.dtype == DTYPE_F16 ? ldexp(1, (int)(x * -12)) : x * x);
                }
            }
        }
    }
}

/* Entry (i, j) of head h, or of the maximum over heads: the largest that is no NaN. */
static double entry(uint32_t b, uint32_t h, uint32_t i, uint32_t j)
{
    if (h < a.heads) {
        return head_maps_get(b, h, i, j);
    }
    double largest = NAN;
    for (uint32_t g = 0; g < a.heads; g++) {
        largest = fmax(largest, head_maps_get(b, g, i, j));
    }
    return largest;
}

/* The part that is checked; the padding of queries in `hidden` is inside of it. */
static struct attention_extent part;
static const bool *hidden;

static double head_maps_brute_cell(const struct head_maps *m, uint32_t h, uint32_t r, uint32_t c)
{
    double sum = 0;
    uint32_t n = 0;
    uint32_t T = part.query_end - part.query, K = part.key_end - part.key;
    for (uint32_t i = r * T / m->rows; i < (r + 1) * T / m->rows; i++) {
        for (uint32_t j = c * K / m->columns; j < (c + 1) * K / m->columns; j++) {
            bool skip = hidden && hidden[part.query + i];
            double x = skip ? NAN : entry(m->sample, h, part.query + i, part.key + j);
            sum += isfinite(x) ? x : 0;
            n += isfinite(x) != 0;
        }
    }
    double mean = sum / n;
    return fabs(mean) <= (double)FLT_MAX ? mean : NAN;
}

static void assert_cell(double got, double want)
{
    assert_close_or_nan(got, want, 2e-6 * fabs(want));
}

static void assert_means(const struct head_maps *m)
{
    size_t cells = (size_t)m->rows * m->columns;
    for (size_t i = 0; i < cells; i++) {
        double sum = 0;
        for (uint32_t h = 0; h < m->heads; h++) {
            sum += (double)m->values[h * cells + i];
        }
        assert_cell((double)m->mean[i], sum / m->heads);
    }
}

static void head_maps_check(uint32_t sample, uint32_t size, enum isa isa)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(head_maps_free) struct head_maps *m;
    assert_int_equal(head_maps_new(&a, sample, size, isa, &scratch, &m), 0);
    assert_int_equal(m->queries, part.query_end - part.query);
    assert_int_equal(m->keys, part.key_end - part.key);
    assert_int_equal(m->first_query, part.query);
    assert_int_equal(m->first_key, part.key);
    assert_int_equal(m->queries_sent, a.queries);
    assert_int_equal(m->keys_sent, a.keys);
    assert_int_equal(m->rows, m->queries < size ? m->queries : size);
    assert_int_equal(m->columns, m->keys < size ? m->keys : size);
    assert_int_equal(m->sample, sample < a.batch ? sample : a.batch - 1);
    size_t cells = (size_t)m->rows * m->columns;
    assert_ptr_equal(m->max, m->values + a.heads * cells);
    for (uint32_t h = 0; h <= a.heads; h++) {
        for (size_t i = 0; i < cells; i++) {
            double want =
                head_maps_brute_cell(m, h, (uint32_t)(i / m->columns), (uint32_t)(i % m->columns));
            assert_cell((double)m->values[h * cells + i], want);
        }
    }
    assert_means(m);
}

static void check_part(uint32_t sample, uint32_t size)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            head_maps_check(sample, size, (enum isa)isa);
        }
    }
}

static void check_all(uint32_t sample, uint32_t size)
{
    part = (struct attention_extent){.query_end = a.queries, .key_end = a.keys};
    check_part(sample, size);
}

/* Whatever stands in the padding, and in the middle of a cell. */
TEST(padding_is_no_part_of_a_map)
{
    static const int32_t q_len[] = {60, 41}, k_len[] = {90, 33};
    make(DTYPE_F32, 2, H, QUERIES, 90);
    head_maps_fill();
    for (uint32_t j = 0; j < 90; j++) {
        head_maps_put(1, 0, 41, j, 1e6);
        head_maps_put(1, 1, 3, j < 33 ? 33 : j, NAN);
        head_maps_put(1, 2, 3, j < 33 ? 33 : j, 1e6);
    }
    a.q_len = q_len;
    a.k_len = k_len;
    part = (struct attention_extent){.query_end = 41, .key_end = 33};
    check_part(1, 128);
    check_part(1, 10);
    part = (struct attention_extent){.query_end = 60, .key_end = 90};
    check_part(0, 32);
}

/* The mask of left padding: 20 queries and keys before a causal text; and a query without keys. */
TEST(padding_before_a_text_is_none_either)
{
    static uint8_t mask[QUERIES * QUERIES];
    static bool none[QUERIES];
    memset(mask, 0, sizeof mask);
    make(DTYPE_F16, 1, H, QUERIES, QUERIES);
    head_maps_fill();
    for (uint32_t i = 20; i < QUERIES; i++) {
        for (uint32_t j = 20; j <= i && i != 50; j++) {
            mask[i * QUERIES + j] = 1;
        }
    }
    a.mask = mask;
    a.self = true;
    none[50] = true;
    hidden = none;
    part = (struct attention_extent){20, QUERIES, 20, QUERIES};
    check_part(0, 128);
    check_part(0, 7);
    hidden = NULL;
}

TEST(a_sample_of_padding_alone_has_no_number)
{
    static const int32_t none[] = {0};
    make(DTYPE_F32, 1, 1, 3, 4);
    head_maps_fill();
    a.q_len = a.k_len = none;
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(head_maps_free) struct head_maps *m;
    assert_int_equal(head_maps_new(&a, 0, 128, isa_best(), &scratch, &m), 0);
    assert_int_equal(m->rows, 3);
    for (uint32_t e = 0; e < 12; e++) {
        assert_nan(m->values[e]);
    }
}

TEST(cells_are_means_of_any_shape)
{
    static const uint32_t shape[][3] = {{1, 1, 1},   {1, 1, 300},  {3, 300, 1},  {2, 7, 7},
                                        {2, 31, 33}, {3, 32, 32},  {2, 65, 130}, {1, 40, 2049},
                                        {4, 17, 19}, {2, 128, 96}, {1, 333, 17}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        make(DTYPE_F32, 1, shape[s][0], shape[s][1], shape[s][2]);
        head_maps_fill();
        check_all(0, 32);
        check_all(0, 128);
    }
}

TEST(every_dtype_at_any_address)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F64, DTYPE_F16, DTYPE_BF16};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        make(dtypes[d], B, H, QUERIES, 201);
        head_maps_fill();
        check_all(1, 32);
        check_all(7, 128);
    }
}

/* Rows, columns, single entries, of one head and of all. */
TEST(head_maps_entries_that_are_not_finite_are_left_out)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F64, DTYPE_F16, DTYPE_BF16};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        make(dtypes[d], 1, H, QUERIES, 90);
        head_maps_fill();
        head_maps_put(0, 0, 10, 20, INFINITY);
        head_maps_put(0, 1, 10, 20, NAN);
        head_maps_put(0, 2, 69, 89, -INFINITY);
        for (uint32_t k = 0; k < QUERIES; k++) {
            head_maps_put(0, 1, 40, k, NAN);
            head_maps_put(0, 2, 41, k, k % 2 ? -INFINITY : INFINITY);
            for (uint32_t h = 0; h < H; h++) {
                head_maps_put(0, h, k, 0, NAN);
                head_maps_put(0, h, 50, k, NAN);
                head_maps_put(0, h, 51, k, -INFINITY);
            }
        }
        check_all(0, 128);
        check_all(0, 35);
    }
}

TEST(nothing_but_nan)
{
    make(DTYPE_F32, 1, 2, 5, 9);
    for (uint32_t e = 0; e < 2 * 5 * 9; e++) {
        head_maps_put(0, e / 45, e / 9 % 5, e % 9, NAN);
    }
    check_all(0, 4);
}

/* Sums that f32 cannot hold, and entries, which are right all the same, or NaN. */
TEST(numbers_that_are_too_large_for_f32)
{
    make(DTYPE_F32, 1, 2, 40, 60);
    head_maps_fill();
    for (uint32_t j = 0; j < 60; j++) {
        head_maps_put(0, 0, 3, j, 3e38);
        head_maps_put(0, 0, 4, j, 3e38);
    }
    check_all(0, 10);
    make(DTYPE_F64, 1, 2, 40, 60);
    head_maps_fill();
    head_maps_put(0, 1, 7, 8, 1e300);
    head_maps_put(0, 1, 9, 30, -1e39);
    head_maps_put(0, 1, 9, 31, 1e39);
    check_all(0, 10);
    check_all(0, 64);
}

TEST(a_weighted_sum_is_added)
{
    make(DTYPE_F32, 1, H, 3, 4);
    head_maps_fill();
    head_maps_put(0, 1, 2, 3, NAN);
    OWNED(scratch_clear) struct scratch scratch = {0};
    OWNED(head_maps_free) struct head_maps *m;
    const double weight[H] = {2, 0.5, -1};
    double sum[12] = {[0] = 10};
    assert_int_equal(head_maps_new(&a, 0, 128, isa_best(), &scratch, &m), 0);
    head_maps_add_weighted(m, weight, sum);
    for (uint32_t e = 0; e < 12; e++) {
        double want = e == 0 ? 10 : 0;
        for (uint32_t h = 0; h < H; h++) {
            want += weight[h] * head_maps_get(0, h, e / 4, e % 4);
        }
        assert_cell(sum[e], want);
    }
}

/* 2 heads of 2 x 2 cells: 1, 0.5, NaN, infinity; NaN, 2, NaN, -3 / 2^24. */
TEST(given_maps_are_read_from_half_precision)
{
    static const uint16_t halves[] = {0x3c00, 0x3800, 0x7e00, 0x7c00,
                                      0x7e00, 0x4000, 0xfe00, 0x8003};
    struct head_maps shape = {.heads = 2, .queries = 2, .keys = 2, .rows = 2, .columns = 2}, *m;
    assert_int_equal(head_maps_given(&shape, halves, &m), 0);
    const float least = -3 * 0x1p-24F, want[] = {1, 0.5F, NAN, NAN, NAN, 2, NAN, least};
    const float max[] = {1, 2, NAN, least};
    for (int i = 0; i < 8; i++) {
        assert_cell(m->values[i], want[i]);
    }
    for (int i = 0; i < 4; i++) {
        assert_cell(m->max[i], max[i]);
        assert_cell(m->mean[i], i == 1 ? 1.25F : NAN);
    }
    head_maps_free(&m);
    shape.keys = 3; /* what was largest in a cell is not known */
    assert_int_equal(head_maps_given(&shape, halves, &m), 0);
    assert_cell(m->values[5], 2);
    assert_cell(m->max[1], NAN);
    head_maps_free(&m);
    for (unsigned nth = 1; nth <= 2; nth++) {
        heap_fail_at(nth);
        assert_int_equal(head_maps_given(&shape, halves, &m), ERR_MEMORY);
        heap_fail_at(0);
    }
}

TEST(head_maps_out_of_memory)
{
    make(DTYPE_F32, 1, 2, 5, 5);
    head_maps_fill();
    for (unsigned nth = 1; nth <= 2; nth++) {
        OWNED(scratch_clear) struct scratch scratch = {0};
        struct head_maps *m = NULL;
        heap_fail_at(nth);
        assert_int_equal(head_maps_new(&a, 0, 128, isa_best(), &scratch, &m), ERR_MEMORY);
        assert_true(heap_has_failed());
        heap_fail_at(0);
        assert_null(m);
    }
}

/* A header may say any shape: what it would cost is known before it is believed. */
TEST(bytes_of_any_shape)
{
    assert_true(head_maps_bytes(2, 5, 7, 4) >= (2 + 2) * 4 * 4 * sizeof(float));
    assert_true(head_maps_bytes(1048576, UINT32_MAX, UINT32_MAX, UINT32_MAX) >= UINT64_C(1) << 61);
    assert_true(head_maps_scratch(1048576, UINT32_MAX, UINT32_MAX) >= UINT64_C(1) << 52);
}

int main(void)
{
    return unit_run(NULL, drop_memory);
}
