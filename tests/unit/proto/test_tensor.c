/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/err.h"
#include "proto/metric.h"
#include "proto/tensor.h"

TEST(names_come_back_as_themselves)
{
    for (unsigned i = 0; i < DTYPE_COUNT; i++) {
        enum dtype dtype;
        const char *name = dtype_name((enum dtype)i);

        assert_int_equal(dtype_parse(name, strlen(name), &dtype), 0);
        assert_int_equal(dtype, i);
    }
    for (unsigned i = 0; i < TENSOR_ROLE_COUNT; i++) {
        enum tensor_role role;
        const char *name = tensor_role_name((enum tensor_role)i);

        assert_int_equal(tensor_role_parse(name, strlen(name), &role), 0);
        assert_int_equal(role, i);
    }
}

TEST(a_part_of_a_name_is_no_name)
{
    enum dtype dtype;
    enum tensor_role role;

    assert_int_equal(dtype_parse(LITERAL("f3"), &dtype), ERR_DTYPE);
    assert_int_equal(dtype_parse(LITERAL("f32x"), &dtype), ERR_DTYPE);
    assert_int_equal(dtype_parse(LITERAL("F32"), &dtype), ERR_DTYPE);
    assert_int_equal(dtype_parse(LITERAL(""), &dtype), ERR_DTYPE);
    assert_int_equal(tensor_role_parse(LITERAL("weight"), &role), ERR_TENSOR_NAME);
}

TEST(bytes_are_the_product_of_the_shape)
{
    static const uint64_t shape[] = {2, 3, 5, 7};
    uint64_t bytes;

    assert_int_equal(tensor_bytes(DTYPE_F64, shape, 4, &bytes), 0);
    assert_int_equal(bytes, 2 * 3 * 5 * 7 * 8);
    assert_int_equal(tensor_bytes(DTYPE_U8, shape, 1, &bytes), 0);
    assert_int_equal(bytes, 2);
}

TEST(rank_zero_and_five_are_refused)
{
    static const uint64_t shape[] = {1, 1, 1, 1, 1};
    uint64_t bytes;

    assert_int_equal(tensor_bytes(DTYPE_F32, shape, 0, &bytes), ERR_SHAPE);
    assert_int_equal(tensor_bytes(DTYPE_F32, shape, 5, &bytes), ERR_SHAPE);
}

TEST(a_zero_is_a_zero_even_beside_an_overflow)
{
    static const uint64_t shape[] = {UINT64_MAX, UINT64_MAX, 0, 1};
    uint64_t bytes;

    assert_int_equal(tensor_bytes(DTYPE_F32, shape, 4, &bytes), ERR_SHAPE_ZERO);
}

TEST(the_largest_size_is_int64_max)
{
    uint64_t shape[] = {INT64_MAX, 1}, bytes;

    assert_int_equal(tensor_bytes(DTYPE_U8, shape, 2, &bytes), 0);
    assert_int_equal(bytes, INT64_MAX);
    assert_int_equal(tensor_bytes(DTYPE_F16, shape, 2, &bytes), ERR_SHAPE_OVERFLOW);
    shape[0] = (uint64_t)1 << 32;
    shape[1] = (uint64_t)1 << 32;
    assert_int_equal(tensor_bytes(DTYPE_U8, shape, 2, &bytes), ERR_SHAPE_OVERFLOW);
}

TEST(row_metrics_come_first_and_those_of_matrices_last)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        assert_true(strlen(metric_info[i].name) > 0);
        assert_int_equal(metric_info[i].kind == METRIC_KIND_ROW, i < METRIC_ROW_COUNT);
        assert_int_equal(metric_info[i].kind == METRIC_KIND_MATRIX, i >= METRIC_MATRIX_FIRST);
    }
}
