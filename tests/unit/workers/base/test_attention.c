/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/base/attention.h"

/* The valid keys of a row as text, one digit per key. */
static void assert_keys(const struct attention *a, uint32_t b, uint32_t i, const char *want)
{
    uint32_t keys[10];
    char got[11] = {0};
    uint32_t n = attention_valid_keys(a, b, i, keys);
    for (uint32_t k = 0; k < n; k++) {
        got[k] = (char)('0' + keys[k]);
    }
    assert_string_equal(got, want);
}

static struct attention shape(uint32_t batch, uint32_t queries, uint32_t keys)
{
    return (struct attention){.batch = batch, .heads = 1, .queries = queries, .keys = keys};
}

TEST(without_a_mask_all_keys_are_valid)
{
    struct attention a = shape(1, 2, 5);
    assert_keys(&a, 0, 0, "01234");
    assert_keys(&a, 0, 1, "01234");
    assert_true(attention_query_valid(&a, 0, 1));
    assert_false(attention_query_valid(&a, 0, 2));
}

/* Top-left alignment: query 0 sees key 0 only, whatever the shape. */
TEST(causal_is_aligned_top_left)
{
    struct attention wide = shape(1, 2, 5), tall = shape(1, 5, 2);
    wide.causal = tall.causal = true;
    assert_keys(&wide, 0, 0, "0");
    assert_keys(&wide, 0, 1, "01");
    assert_keys(&tall, 0, 0, "0");
    assert_keys(&tall, 0, 4, "01");
}

static void assert_extent(const struct attention *a, uint32_t query, uint32_t query_end,
                          uint32_t key, uint32_t key_end)
{
    struct attention_extent extent = attention_extent(a, 0);
    assert_int_equal(extent.query, query);
    assert_int_equal(extent.query_end, query_end);
    assert_int_equal(extent.key, key);
    assert_int_equal(extent.key_end, key_end);
}

TEST(a_sample_ends_where_its_padding_begins)
{
    static const int32_t two[] = {2}, three[] = {3};
    struct attention a = shape(1, 5, 5);
    assert_extent(&a, 0, 5, 0, 5);
    a.k_len = three; /* in cross-attention that says nothing of the queries */
    assert_extent(&a, 0, 5, 0, 3);
    a.self = true;
    assert_extent(&a, 0, 3, 0, 3);
    a.q_len = two;
    assert_extent(&a, 0, 2, 0, 3);
    a.q_len = NULL;
    a.queries = 2;
    a.q_offset = 4; /* the first is at a padding key, the second behind all keys: a cache */
    assert_extent(&a, 0, 2, 0, 3);
    static const uint8_t before[] = {0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0};
    struct attention left = shape(1, 3, 4);
    left.mask = before;
    assert_extent(&left, 1, 3, 1, 3);
    assert_false(attention_shown(&left, &(struct attention_extent){1, 3, 1, 3}, 0, 0));
    assert_true(attention_shown(&left, &(struct attention_extent){1, 3, 1, 3}, 0, 2));
    static const uint8_t nothing[12] = {0};
    left.mask = nothing;
    assert_extent(&left, 0, 0, 0, 0);
}

TEST(lengths_are_per_sample)
{
    const int32_t q_len[] = {2, 0, 3}, k_len[] = {1, 0, 4};
    struct attention a = shape(3, 3, 4);
    a.q_len = q_len;
    a.k_len = k_len;
    assert_keys(&a, 0, 0, "0");
    assert_keys(&a, 1, 0, "");
    assert_keys(&a, 2, 2, "0123");
    assert_true(attention_query_valid(&a, 0, 1));
    assert_false(attention_query_valid(&a, 0, 2));
    assert_false(attention_query_valid(&a, 1, 0));
    assert_true(attention_query_valid(&a, 2, 2));
}

TEST(lengths_out_of_range_are_clamped)
{
    const int32_t len[] = {-1, 100};
    struct attention a = shape(2, 3, 3);
    a.q_len = a.k_len = len;
    assert_keys(&a, 0, 0, "");
    assert_keys(&a, 1, 0, "012");
    assert_false(attention_query_valid(&a, 0, 0));
    assert_false(attention_query_valid(&a, 1, 3));
}

TEST(window_bounds_the_past)
{
    struct attention a = shape(1, 6, 6);
    a.window = 2;
    assert_keys(&a, 0, 0, "012345");
    assert_keys(&a, 0, 3, "2345");
    a.causal = true;
    assert_keys(&a, 0, 0, "0");
    assert_keys(&a, 0, 3, "23");
    a.window = 1;
    assert_keys(&a, 0, 5, "5");
    a.window = UINT32_MAX;
    assert_keys(&a, 0, 5, "012345");
}

TEST(window_past_the_last_key_leaves_none)
{
    struct attention a = shape(1, 9, 3);
    a.window = 2;
    assert_keys(&a, 0, 3, "2");
    assert_keys(&a, 0, 4, "");
    assert_keys(&a, 0, 8, "");
}

TEST(explicit_mask_makes_holes)
{
    const uint8_t mask[2 * 2 * 3] = {1, 0, 1, 0, 0, 0, 2, 1, 255, 1, 1, 1};
    struct attention a = shape(2, 2, 3);
    a.mask = mask;
    assert_keys(&a, 0, 0, "02");
    assert_keys(&a, 0, 1, "");
    assert_keys(&a, 1, 0, "1"); /* only 1 means "may attend" */
    a.causal = true;
    assert_keys(&a, 1, 1, "01");
}

/* Query i stands at position q_offset + i. */
TEST(offset_moves_the_causal_bound_and_the_window)
{
    struct attention a = shape(1, 2, 6);
    a.q_offset = 3;
    a.causal = true;
    assert_keys(&a, 0, 0, "0123");
    assert_keys(&a, 0, 1, "01234");
    a.window = 2;
    assert_keys(&a, 0, 0, "23");
    assert_keys(&a, 0, 1, "34");
    a.causal = false;
    assert_keys(&a, 0, 0, "2345");
    a.q_offset = UINT32_MAX; /* positions do not wrap around */
    assert_keys(&a, 0, 1, "");
    a.window = 0;
    a.causal = true;
    assert_keys(&a, 0, 1, "012345");
}

/* Query i stands at position q_offset + i * q_stride. */
TEST(the_rows_of_a_sample_stand_apart)
{
    const int32_t q_len = 1, k_len = 7;
    struct attention a = shape(1, 2, 8);
    a.q_offset = 1;
    a.q_stride = 4;
    a.causal = true;
    assert_keys(&a, 0, 0, "01");
    assert_keys(&a, 0, 1, "012345");
    a.window = 2;
    assert_keys(&a, 0, 1, "45");
    assert_int_equal(attention_position_count(&a, 0), 8); /* up to where the next row would be */
    a.q_len = &q_len;
    assert_int_equal(attention_position_count(&a, 0), 5);
    a.q_len = NULL;
    a.k_len = &k_len;
    assert_int_equal(attention_position_count(&a, 0), 7);
    a.q_stride = UINT32_MAX; /* positions do not wrap around */
    assert_keys(&a, 0, 1, "");
}

static void attention_assert_range(const struct attention *a, uint32_t b, uint32_t i,
                                   uint32_t begin, uint32_t end)
{
    uint32_t got_begin, got_end;
    attention_key_range(a, b, i, &got_begin, &got_end);
    assert_int_equal(got_begin, begin);
    assert_int_equal(got_end, end);
}

TEST(key_range_is_what_the_bounds_leave)
{
    const uint8_t mask[9 * 6] = {0};
    const int32_t documents[6] = {0, 1, 2, 3, 4, 5}, k_len = 5;
    struct attention a = shape(1, 9, 6);
    a.k_len = &k_len;
    a.mask = mask; /* holes are not its business */
    a.documents = documents;
    a.self = true;
    attention_assert_range(&a, 0, 0, 0, 5);
    a.causal = true;
    attention_assert_range(&a, 0, 1, 0, 2);
    attention_assert_range(&a, 0, 8, 0, 5);
    a.window = 2;
    attention_assert_range(&a, 0, 3, 2, 4);
    attention_assert_range(&a, 0, 5, 4, 5);
    attention_assert_range(&a, 0, 6, 5, 5);
    attention_assert_range(&a, 0, 8, 5, 5);
}

TEST(documents_do_not_see_each_other)
{
    const int32_t documents[2 * 6] = {1, 1, 2, 2, 1, -7, 0, 0, 0, 0, 0, 0};
    struct attention a = shape(2, 6, 6);
    a.documents = documents;
    a.self = true;
    assert_keys(&a, 0, 0, "014");
    assert_keys(&a, 0, 3, "23");
    assert_keys(&a, 0, 5, "5");
    assert_keys(&a, 1, 3, "012345");
    a.causal = true;
    assert_keys(&a, 0, 1, "01");
    assert_keys(&a, 0, 4, "014");
    a.self = false; /* cross-attention has no documents of its queries */
    assert_keys(&a, 0, 4, "01234");
}

TEST(documents_follow_the_position_of_the_query)
{
    unsigned char bytes[1 + 4 * sizeof(int32_t)];
    const int32_t documents[4] = {1, 1, 2, 2};
    memcpy(bytes + 1, documents, sizeof documents);
    struct attention a = shape(1, 3, 4);
    a.documents = (const int32_t *)(const void *)(bytes + 1);
    a.self = true;
    a.q_offset = 2;
    assert_keys(&a, 0, 0, "23");
    assert_keys(&a, 0, 1, "23");
    assert_keys(&a, 0, 2, ""); /* past the keys */
    assert_true(attention_query_valid(&a, 0, 1));
    assert_false(attention_query_valid(&a, 0, 2));
}

/* Left padding: what mask and documents leave keyless is no query. */
TEST(a_row_without_keys_by_tensors_is_padding)
{
    const uint8_t mask[2 * 2] = {1, 0, 1, 0};
    const int32_t documents[2] = {1, 2}, none = 0;
    struct attention a = shape(1, 2, 2);
    a.self = true;
    a.mask = mask;
    assert_true(attention_query_valid(&a, 0, 1));
    a.documents = documents; /* query 1 may see key 0 by mask, key 1 by document */
    assert_true(attention_query_valid(&a, 0, 0));
    assert_false(attention_query_valid(&a, 0, 1));
    a.k_len = &none; /* a row that the length leaves none is a query, and unsound */
    assert_true(attention_query_valid(&a, 0, 0));
}

static double f16_by_formula(uint32_t code)
{
    double sign = code & 0x8000 ? -1 : 1;
    int exponent = (int)(code >> 10 & 31);
    double fraction = code & 1023;
    if (exponent == 31) {
        return fraction == 0 ? sign * INFINITY : NAN;
    }
    return sign * (exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25));
}

static double bf16_by_formula(uint32_t code)
{
    double sign = code & 0x8000 ? -1 : 1;
    int exponent = (int)(code >> 7 & 255);
    double fraction = code & 127;
    if (exponent == 255) {
        return fraction == 0 ? sign * INFINITY : NAN;
    }
    return sign * (exponent == 0 ? ldexp(fraction, -133) : ldexp(128 + fraction, exponent - 134));
}

static void check_codes(enum dtype dtype, double (*formula)(uint32_t))
{
    static unsigned char bytes[1 + 65536 * 2];
    static double row[65536];
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t half = (uint16_t)code;
        memcpy(bytes + 1 + 2 * (size_t)code, &half, 2);
    }
    struct attention a = shape(1, 1, 65536);
    a.weights = bytes + 1;
    a.dtype = dtype;
    attention_load_row(&a, 0, 0, 0, row);
    for (uint32_t code = 0; code < 65536; code++) {
        double want = formula(code);
        assert_true(isnan(want) ? isnan(row[code]) : row[code] == want);
        assert_true(isnan(want) || !signbit(want) == !signbit(row[code]));
    }
}

TEST(all_f16_codes_convert_exactly)
{
    check_codes(DTYPE_F16, f16_by_formula);
}

TEST(all_bf16_codes_convert_exactly)
{
    check_codes(DTYPE_BF16, bf16_by_formula);
}

TEST(rows_are_found_at_any_alignment)
{
    unsigned char bytes[2 * 3 * 2 * 2 * 8 + 8];
    for (uint32_t offset = 0; offset < 8; offset++) {
        for (uint32_t i = 0; i < 24; i++) {
            float single = (float)i;
            memcpy(bytes + offset + i * 4, &single, 4);
        }
        struct attention a = shape(2, 2, 2);
        a.heads = 3;
        a.weights = bytes + offset;
        double row[2];
        attention_load_row(&a, 1, 2, 1, row);
        assert_true(row[0] == 22 && row[1] == 23);
        attention_load_row(&a, 0, 1, 0, row);
        assert_true(row[0] == 4 && row[1] == 5);
    }
}

TEST(f32_and_f64_keep_special_values)
{
    float single[] = {0x1p-149f, INFINITY, -0.0f};
    double twice[] = {0x1p-1074, -INFINITY, NAN}, row[3];
    struct attention a = shape(1, 1, 3);
    a.weights = single;
    attention_load_row(&a, 0, 0, 0, row);
    assert_true(row[0] == 0x1p-149 && isinf(row[1]) && signbit(row[2]));
    a.weights = twice;
    a.dtype = DTYPE_F64;
    attention_load_row(&a, 0, 0, 0, row);
    assert_true(row[0] == 0x1p-1074 && row[1] == -INFINITY && isnan(row[2]));
}

TEST(tolerances_follow_the_dtype)
{
    assert_true(attention_tolerance(DTYPE_F32) == 1e-3 && attention_tolerance(DTYPE_F64) == 1e-3);
    assert_true(attention_tolerance(DTYPE_F16) == 2e-2 && attention_tolerance(DTYPE_BF16) == 2e-2);
    assert_true(attention_negative_bound(DTYPE_F32) == -1e-6);
    assert_true(attention_negative_bound(DTYPE_BF16) == -1e-3);
}
