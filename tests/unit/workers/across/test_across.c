/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/across/across.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/map_of.h"

static struct moments weighted(const struct attention *a, const double *weight, enum isa isa)
{
    struct moments map = {0};
    OWNED(scratch_clear) struct scratch scratch = {0};
    assert_int_equal(across_weighted_map(&map, a, weight, 0, a->queries, isa, &scratch), 0);
    return map;
}

/* By every instruction set that is here. */
static void across_expect_map(const struct attention *a, const double *weight, uint64_t n,
                              double mean, double variance)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (isa_available((enum isa)isa)) {
            struct moments map = weighted(a, weight, (enum isa)isa);
            assert_int_equal(map.n, n);
            assert_close(moments_mean(&map), mean, 1e-6 * fabs(mean));
            assert_close(moments_variance(&map), variance, 1e-6 * fabs(variance));
        }
    }
}

TEST(a_weighted_map_is_the_weighted_sum)
{
    const double x[2][1][3] = {{{1, 2, 3}}, {{10, 20, 30}}}, weight[] = {2, 0.1};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 3);
    across_expect_map(&a, weight, 3, 6, 9); /* 3, 6, 9 */
}

/* No entry of a head that takes no part is looked at. */
TEST(heads_without_weight_take_no_part)
{
    const double x[3][1][2] = {{{NAN, INFINITY}}, {{1, 3}}, {{NAN, 1}}}, weight[] = {0, 1, NAN};
    struct attention a = map_of(x, DTYPE_F64, 3, 1, 2);
    across_expect_map(&a, weight, 2, 2, 2);
}

TEST(across_entries_that_are_not_finite_are_left_out)
{
    const double x[2][2][2] = {{{1, NAN}, {3, 5}}, {{1, 1}, {INFINITY, 1}}}, weight[] = {1, 1};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    across_expect_map(&a, weight, 2, 4, 8); /* 2 and 6 */
}

TEST(a_map_of_no_head_has_no_entries)
{
    const double x[] = {1, 2}, weight[] = {NAN};
    struct attention a = map_of(x, DTYPE_F64, 1, 1, 2);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        assert_int_equal(weighted(&a, weight, (enum isa)isa).n, 0);
    }
}

/* Numbers that f32 cannot hold go through the reference. */
TEST(weights_and_entries_may_be_large)
{
    const double x[2][1][2] = {{{1, 3}}, {{1e60, 3e60}}}, weight[] = {1e60, 1};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    across_expect_map(&a, weight, 2, 4e60, 8e120);
    const double infinite[] = {1, INFINITY};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        assert_int_equal(weighted(&a, infinite, (enum isa)isa).n, 0);
    }
}

#define HEADS 7
#define ROWS  9
#define KEYS  701

/* More entries than one chunk, no multiple of anything, at an odd address. */
TEST(across_every_instruction_set_agrees_with_the_reference)
{
    size_t bytes = sizeof(float) * HEADS * ROWS * KEYS;
    unsigned char *memory = malloc(bytes + 1);
    assert_non_null(memory);
    uint64_t random = 5;
    for (size_t i = 0; i < bytes; i += sizeof(float)) {
        float x = (float)random_unit(&random);
        memcpy(memory + 1 + i, &x, sizeof x);
    }
    struct attention a = map_of(memory + 1, DTYPE_F64, HEADS, ROWS, KEYS);
    a.dtype = DTYPE_F32;
    const double weight[HEADS] = {0.1, -0.5, 0, 2, 1, 1, 0.25};
    struct moments want = weighted(&a, weight, ISA_SCALAR);
    for (int isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        struct moments got = weighted(&a, weight, (enum isa)isa);
        assert_int_equal(got.n, want.n);
        assert_close(got.mean, want.mean, 1e-5);
        assert_close(got.m2, want.m2, 1e-5 * want.m2);
        assert_close(got.min, want.min, 1e-5);
        assert_close(got.max, want.max, 1e-5);
    }
    free(memory);
}

static void expect_score(const struct attention *a, const double want[2])
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        double score[2] = {0};
        OWNED(scratch_clear) struct scratch scratch = {0};
        int rc = across_gradient(score, a, 0, a->queries, (enum isa)isa, &scratch);
        assert_int_equal(rc, 0);
        assert_close(score[0], want[0], 1e-6 * want[0]);
        assert_close(score[1], want[1], 1e-6 * want[1]);
    }
}

TEST(the_gradient_score_sums_magnitudes)
{
    const double x[2][1][2] = {{{0.25, 0.75}}, {{1, 0}}}, grad[2][1][2] = {{{4, -4}}, {{-3, 100}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    a.grad = grad;
    expect_score(&a, (double[]){4, 3});
}

/* An excluded key, an unsound row, a product that is not finite. */
TEST(only_valid_finite_products_of_sound_rows_count)
{
    const double x[2][2][2] = {{{1, 5}, {0.5, 0.5}}, {{1, 5}, {3, 0}}};
    const double grad[2][2][2] = {{{2, 7}, {NAN, 6}}, {{1, NAN}, {8, 8}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 2, 2);
    a.grad = grad;
    a.causal = true;
    expect_score(&a, (double[]){2 + 3, 1});
}

TEST(small_gradients_are_not_lost)
{
    const double x[2][1][2] = {{{0.5, 0.5}}, {{1, 0}}};
    const double grad[2][1][2] = {{{4e-60, 4e-60}}, {{1e-60, 0}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 1, 2);
    a.grad = grad;
    expect_score(&a, (double[]){4e-60, 1e-60});
}

TEST(scores_are_normalized_over_the_heads)
{
    double score[] = {3, 4}, huge[] = {3e300, 4e300}, zero[] = {0, 0}, bad[] = {1, NAN};
    across_gradient_normalize(score, 2);
    assert_close(score[0], 0.6, 1e-15);
    assert_close(score[1], 0.8, 1e-15);
    across_gradient_normalize(huge, 2);
    assert_close(huge[1], 0.8, 1e-15);
    across_gradient_normalize(zero, 2);
    across_gradient_normalize(bad, 2);
    for (int h = 0; h < 2; h++) {
        assert_nan(zero[h]);
        assert_nan(bad[h]);
    }
}

#define LIMIT 3

static void expect_pairs(const struct attention *a, uint32_t h, const struct pair *want,
                         uint32_t count_want)
{
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        struct pair pairs[2 * LIMIT];
        uint32_t count[2] = {0};
        OWNED(scratch_clear) struct scratch scratch = {0};
        int rc = across_head_pairs(pairs, count, LIMIT, a, 0, a->queries, (enum isa)isa, &scratch);
        assert_int_equal(rc, 0);
        assert_int_equal(count[h], count_want);
        for (uint32_t k = 0; k < count_want; k++) {
            const struct pair *got = &pairs[h * LIMIT + k];
            assert_int_equal(got->query, want[k].query);
            assert_int_equal(got->key, want[k].key);
            assert_close(got->weight, want[k].weight, 0);
        }
    }
}

TEST(each_head_has_its_largest_entries)
{
    const double x[2][3][2] = {{{1, 2}, {4, 3}, {0, 4}}, {{9, 9}, {9, 9}, {NAN, 10}}};
    struct attention a = map_of(x, DTYPE_F64, 2, 3, 2);
    expect_pairs(&a, 0, (struct pair[]){{1, 0, 4}, {2, 1, 4}, {1, 1, 3}}, LIMIT);
    expect_pairs(&a, 1, (struct pair[]){{2, 1, 10}, {0, 0, 9}, {0, 1, 9}}, LIMIT);
}

/* Entry (0, 1) is finite in one sample, (0, 2) in none. */
TEST(pairs_average_over_the_samples_that_are_finite)
{
    const double x[2][1][1][3] = {{{{1, NAN, NAN}}}, {{{4, 3, INFINITY}}}};
    struct attention a = map_of(x, DTYPE_F64, 1, 1, 3);
    a.batch = 2;
    expect_pairs(&a, 0, (struct pair[]){{0, 1, 3}, {0, 0, 2.5}}, 2);
}

/* 0.1 + 0.1 + 0.1 over 3 is not 0.1, and 1e300 is no f32. */
TEST(rounding_hides_no_pair)
{
    const double x[5][1] = {{0.1}, {1}, {1 + 1e-12}, {1e300}, {2e300}};
    struct attention a = map_of(x, DTYPE_F64, 1, 5, 1);
    expect_pairs(&a, 0, (struct pair[]){{4, 0, 2e300}, {3, 0, 1e300}, {2, 0, 1 + 1e-12}}, LIMIT);
}

TEST(lists_merge_in_order)
{
    struct pair into[] = {{0, 0, 5}, {1, 1, 3}}, later[] = {{2, 0, 5}, {2, 1, 4}};
    uint32_t count = 2, later_count = 2;
    across_head_pairs_merge(into, &count, 2, 1, later, &later_count);
    assert_int_equal(count, 2);
    assert_true(into[0].query == 0 && into[1].query == 2 && into[1].key == 0);
}

TEST(across_out_of_memory_is_reported)
{
    const double x[] = {1}, weight[] = {1};
    struct attention a = map_of(x, DTYPE_F64, 1, 1, 1);
    a.grad = x;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        struct scratch scratch = {0};
        struct moments map = {0};
        struct pair pair;
        double score = 0;
        uint32_t count = 0;
        enum isa one = (enum isa)isa;
        heap_fail_at(1);
        assert_int_equal(across_weighted_map(&map, &a, weight, 0, 1, one, &scratch), ERR_MEMORY);
        heap_fail_at(1);
        assert_int_equal(across_gradient(&score, &a, 0, 1, one, &scratch), ERR_MEMORY);
        heap_fail_at(1);
        int rc = across_head_pairs(&pair, &count, 1, &a, 0, 1, one, &scratch);
        assert_int_equal(rc, ERR_MEMORY);
        heap_fail_at(0);
    }
}
