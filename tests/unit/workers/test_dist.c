/* SPDX-License-Identifier: MIT */
#include "unit.h"
#include "dist.h"
#include "err.h"
#include "heap.h"

#include <stdlib.h>
#include <string.h>

#define KEY_MAX 2561
#define VALUES  5000

static void add_all(struct dist *d, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(dist_add(d, x[i]), 0);
    }
}

/* Signed, over twelve orders of magnitude, with zeros. */
static void fill(double *x, size_t n)
{
    uint64_t state = 42;
    for (size_t i = 0; i < n; i++) {
        double magnitude = exp(28 * random_unit(&state) - 14);
        double sign = random_unit(&state) < 0.3 ? -1 : 1;
        x[i] = random_unit(&state) < 0.05 ? 0 : sign * magnitude;
    }
}

static void assert_same_counts(const struct dist *a, const struct dist *b)
{
    assert_int_equal(a->moments.n, b->moments.n);
    assert_true(a->moments.min == b->moments.min && a->moments.max == b->moments.max);
    assert_int_equal(a->hist.used, b->hist.used);
    assert_memory_equal(a->hist.buckets, b->hist.buckets, a->hist.used * sizeof *a->hist.buckets);
}

static void assert_same_moments(const struct dist *a, const struct dist *b)
{
    double scale = fmax(fabs(a->moments.min), fabs(a->moments.max));
    assert_close(a->moments.mean, b->moments.mean, 1e-12 * scale);
    assert_close(moments_std(&a->moments), moments_std(&b->moments), 1e-12 * scale);
}

static void test_empty_has_no_numbers(void **state)
{
    (void)state;
    struct dist d = {0};
    assert_nan(moments_mean(&d.moments));
    assert_nan(moments_variance(&d.moments));
    assert_nan(moments_std(&d.moments));
    assert_nan(dist_quantile(&d, 0.5));
    dist_clear(&d);
}

static void test_one_value_has_no_variance(void **state)
{
    (void)state;
    struct dist d = {0};
    assert_int_equal(dist_add(&d, -3.7), 0);
    assert_true(moments_mean(&d.moments) == -3.7 && d.moments.min == -3.7 && d.moments.max == -3.7);
    assert_nan(moments_variance(&d.moments));
    assert_true(dist_quantile(&d, 0) == -3.7 && dist_quantile(&d, 1) == -3.7);
    dist_clear(&d);
}

static void test_variance_divides_by_n_less_one(void **state)
{
    (void)state;
    struct moments m = {0};
    for (int i = 1; i <= 4; i++) {
        moments_add(&m, i);
    }
    assert_close(moments_mean(&m), 2.5, 1e-15);
    assert_close(moments_variance(&m), 5.0 / 3.0, 1e-15);
}

/* 1e9 + small: a sum of squares would lose every digit. */
static void test_variance_survives_a_large_offset(void **state)
{
    (void)state;
    struct moments whole = {0}, half[2] = {{0}, {0}};
    for (int i = 0; i < 1000; i++) {
        moments_add(&whole, 1e9 + i % 10);
        moments_add(&half[i / 500], 1e9 + i % 10);
    }
    moments_merge(&half[0], &half[1]);
    assert_close(moments_variance(&whole), 8.25 * 1000 / 999, 1e-6);
    assert_close(moments_variance(&half[0]), 8.25 * 1000 / 999, 1e-6);
}

static void test_not_finite_is_ignored(void **state)
{
    (void)state;
    struct dist d = {0};
    assert_int_equal(dist_add(&d, NAN), 0);
    assert_int_equal(dist_add(&d, INFINITY), 0);
    assert_int_equal(dist_add(&d, -INFINITY), 0);
    assert_int_equal(d.moments.n, 0);
    assert_int_equal(d.hist.used, 0);
    dist_clear(&d);
}

/* Contiguous parts of random length, merged forwards, backwards, and as a tree. */
static void merge_parts(struct dist *part, unsigned parts, unsigned order)
{
    for (unsigned step = 1; order == 2 && step < parts; step *= 2) {
        for (unsigned i = 0; i + step < parts; i += 2 * step) {
            assert_int_equal(dist_merge(&part[i], &part[i + step]), 0);
        }
    }
    for (unsigned i = 1; order != 2 && i < parts; i++) {
        assert_int_equal(dist_merge(&part[0], &part[order == 0 ? i : parts - i]), 0);
    }
}

static void check_split(const double *x, const struct dist *whole, unsigned parts, unsigned order)
{
    struct dist part[16];
    memset(part, 0, sizeof part);
    uint64_t random = parts * 10 + order;
    for (size_t i = 0; i < VALUES; i++) {
        unsigned to = (unsigned)(random_unit(&random) * random_unit(&random) * parts);
        assert_int_equal(dist_add(&part[to], x[i]), 0);
    }
    merge_parts(part, parts, order);
    assert_same_counts(&part[0], whole);
    assert_same_moments(&part[0], whole);
    for (unsigned i = 0; i < parts; i++) {
        dist_clear(&part[i]);
    }
}

static void test_any_split_merges_to_the_whole(void **state)
{
    (void)state;
    static double x[VALUES];
    fill(x, VALUES);
    struct dist whole = {0};
    add_all(&whole, x, VALUES);
    for (unsigned parts = 1; parts <= 16; parts++) {
        for (unsigned order = 0; order < 3; order++) {
            check_split(x, &whole, parts, order);
        }
    }
    dist_clear(&whole);
}

static void test_merging_with_empty_changes_nothing(void **state)
{
    (void)state;
    double x[] = {1, 2, 0, -5};
    struct dist a = {0}, b = {0}, empty = {0};
    add_all(&a, x, 4);
    add_all(&b, x, 4);
    assert_int_equal(dist_merge(&a, &empty), 0);
    assert_same_counts(&a, &b);
    assert_int_equal(dist_merge(&empty, &a), 0);
    assert_same_counts(&empty, &b);
    assert_true(empty.moments.mean == b.moments.mean && empty.moments.m2 == b.moments.m2);
    dist_clear(&a);
    dist_clear(&b);
    dist_clear(&empty);
}

static void test_merging_with_itself_doubles(void **state)
{
    (void)state;
    double x[] = {1, 2, 0, -5};
    struct dist a = {0};
    add_all(&a, x, 4);
    assert_int_equal(dist_merge(&a, &a), 0);
    assert_int_equal(a.moments.n, 8);
    assert_int_equal(a.hist.used, 4);
    assert_int_equal(a.hist.buckets[2].count, 2);
    assert_close(moments_mean(&a.moments), -0.5, 1e-15);
    dist_clear(&a);
}

/* Every bound is 2^(u/32) correctly rounded, belongs to its bucket, and its successor to the next.
 */
static void test_keys_are_exact_at_every_bound(void **state)
{
    (void)state;
    for (int32_t key = 1; key <= KEY_MAX; key++) {
        double bound = hist_key_bound(key);
        long double want = ldexpl(exp2l((long double)((key - 1) % 32) / 32), (key - 1) / 32 - 40);
        assert_true(bound == (double)want);
        assert_int_equal(hist_key(bound), key);
        assert_int_equal(hist_key(-bound), -key);
        assert_int_equal(hist_key(nextafter(bound, INFINITY)), key < KEY_MAX ? key + 1 : KEY_MAX);
        assert_int_equal(hist_key(nextafter(bound, 0)), key > 1 ? key : 0);
    }
}

static void test_bound_is_the_largest_value_of_its_key(void **state)
{
    (void)state;
    for (int32_t key = -KEY_MAX; key < KEY_MAX; key++) {
        double bound = hist_key_bound(key);
        assert_int_equal(hist_key(bound), key);
        assert_true(hist_key(nextafter(bound, INFINITY)) > key);
        assert_true(bound < hist_key_bound(key + 1));
    }
}

static void test_powers_of_two_end_their_bucket(void **state)
{
    (void)state;
    for (int e = -40; e <= 40; e++) {
        assert_int_equal(hist_key(ldexp(1, e)), (e + 40) * 32 + 1);
        assert_true(hist_key_bound((e + 40) * 32 + 1) == ldexp(1, e));
    }
}

static void test_extremes_go_to_the_outermost_buckets(void **state)
{
    (void)state;
    assert_int_equal(hist_key(0), 0);
    assert_int_equal(hist_key(-0.0), 0);
    assert_int_equal(hist_key(nextafter(0x1p-40, 0)), 0);
    assert_int_equal(hist_key(-0x1p-1074), 0);
    assert_int_equal(hist_key(1e300), KEY_MAX);
    assert_int_equal(hist_key(-1e300), -KEY_MAX);
    assert_true(hist_key_bound(KEY_MAX) == 0x1p40 && hist_key_bound(KEY_MAX + 1) == 0x1p40);
    assert_true(hist_key_middle(0) == 0);
}

static void test_middle_lies_within_its_bucket(void **state)
{
    (void)state;
    for (int32_t key = -KEY_MAX; key <= KEY_MAX; key++) {
        assert_int_equal(hist_key(hist_key_middle(key)), key);
    }
    assert_close(hist_key_middle(hist_key(1.01)), exp2(1.0 / 64), 1e-15);
    assert_close(hist_key_middle(hist_key(-1.01)), -exp2(1.0 / 64), 1e-15);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_quantiles_are_within_half_a_bucket_of_a_seen_value(void **state)
{
    (void)state;
    static double x[VALUES];
    fill(x, VALUES);
    struct dist d = {0};
    add_all(&d, x, VALUES);
    qsort(x, VALUES, sizeof x[0], ascending);
    for (int percent = 0; percent <= 100; percent++) {
        double q = percent / 100.0;
        size_t rank = (size_t)fmax(1, ceil(q * VALUES));
        assert_close(dist_quantile(&d, q), x[rank - 1],
                     fabs(x[rank - 1]) * (exp2(1.0 / 64) - 1) * 1.0001);
    }
    dist_clear(&d);
}

static void test_quantiles_stay_between_min_and_max(void **state)
{
    (void)state;
    double x[] = {1.0001, 1.0002, 1.0003};
    struct dist d = {0};
    add_all(&d, x, 3);
    assert_true(dist_quantile(&d, 0.5) == 1.0003);
    dist_clear(&d);
    double y[] = {1e80, 3e80};
    add_all(&d, y, 2);
    assert_true(dist_quantile(&d, 0.5) == 1e80);
    dist_clear(&d);
}

static void test_counts_saturate(void **state)
{
    (void)state;
    struct hist a = {0}, b = {0};
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(hist_add(&b, 1), 0);
    a.buckets[0].count = UINT32_MAX - 1;
    b.buckets[0].count = 5;
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(a.buckets[0].count, UINT32_MAX);
    assert_int_equal(hist_merge(&a, &b), 0);
    assert_int_equal(a.buckets[0].count, UINT32_MAX);
    hist_clear(&a);
    hist_clear(&b);
}

static void test_add_out_of_memory_has_no_effect(void **state)
{
    (void)state;
    struct dist d = {0}, before = {0};
    for (int i = 0; i < 8; i++) { /* the ninth bucket needs a larger list */
        assert_int_equal(dist_add(&d, i), 0);
        assert_int_equal(dist_add(&before, i), 0);
    }
    heap_fail_at(1);
    assert_int_equal(dist_add(&d, 100), ERR_MEMORY);
    heap_fail_at(0);
    assert_same_counts(&d, &before);
    assert_int_equal(dist_add(&d, 100), 0);
    assert_int_equal(d.moments.n, 9);
    dist_clear(&d);
    dist_clear(&before);
}

static void test_merge_out_of_memory_has_no_effect(void **state)
{
    (void)state;
    double x[] = {1, 2, 3, 4, 5, 6}, y[] = {-1, 2, 30, 40, 50, 60};
    struct dist a = {0}, before = {0}, b = {0};
    add_all(&a, x, 6);
    add_all(&before, x, 6);
    add_all(&b, y, 6);
    heap_fail_at(1);
    assert_int_equal(dist_merge(&a, &b), ERR_MEMORY);
    heap_fail_at(0);
    assert_same_counts(&a, &before);
    assert_int_equal(dist_merge(&a, &b), 0);
    assert_int_equal(a.hist.used, 11);
    dist_clear(&a);
    dist_clear(&before);
    dist_clear(&b);
}

static void fill_floats(float *x, size_t n)
{
    double wide[VALUES];
    fill(wide, n);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)wide[i];
    }
    x[0] = NAN;
    x[n / 2] = INFINITY;
    x[n - 1] = 0;
}

static void collect(struct dist_counts *counts, int32_t begin, int32_t end)
{
    counts->used = 0;
    for (int32_t key = begin; key <= end; key++) {
        uint32_t *count = &counts->count[key + HIST_KEY_MAX];
        counts->list[counts->used] = (struct bucket){.key = key, .count = *count};
        counts->used += *count != 0;
        *count = 0;
    }
}

/* As the kernels do it: counts a batch, and adds it. */
static int add_many(struct dist *d, const float *x, size_t n, size_t stride,
                    struct dist_counts *counts)
{
    counts->moments = (struct moments){0};
    for (size_t k = 0; k < n; k++) {
        double value = (double)x[k * stride];
        if (isfinite(value)) {
            counts->count[hist_key(value) + HIST_KEY_MAX]++;
            moments_add(&counts->moments, value);
        }
    }
    if (counts->moments.n > 0) {
        collect(counts, hist_key(counts->moments.min), hist_key(counts->moments.max));
    }
    return dist_add_counts(d, counts);
}

static void test_many_are_as_one_by_one(void **state)
{
    (void)state;
    static struct dist_counts counts;
    static float x[VALUES];
    fill_floats(x, VALUES);
    for (size_t stride = 1; stride <= 3; stride++) {
        struct dist many = {0}, single = {0};
        size_t n = VALUES / stride;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(dist_add(&single, (double)x[i * stride]), 0);
        }
        /* Twice: the second time the list is merged into one that is there. */
        assert_int_equal(add_many(&many, x, n / 2, stride, &counts), 0);
        assert_int_equal(add_many(&many, x + n / 2 * stride, n - n / 2, stride, &counts), 0);
        assert_same_counts(&many, &single);
        assert_same_moments(&many, &single);
        dist_clear(&many);
        dist_clear(&single);
    }
    for (size_t k = 0; k < HIST_KEYS; k++) {
        assert_int_equal(counts.count[k], 0);
    }
}

static void test_many_without_a_value_change_nothing(void **state)
{
    (void)state;
    static struct dist_counts counts;
    const float x[] = {NAN, INFINITY, -INFINITY};
    struct dist d = {0};
    assert_int_equal(add_many(&d, x, 3, 1, &counts), 0);
    assert_int_equal(add_many(&d, x, 0, 1, &counts), 0);
    assert_int_equal(d.moments.n, 0);
    assert_null(d.hist.buckets);
}

static void test_many_out_of_memory_have_no_effect(void **state)
{
    (void)state;
    static struct dist_counts counts;
    const float x[] = {1, 2, 3};
    struct dist d = {0};
    heap_fail_at(1);
    assert_int_equal(add_many(&d, x, 3, 1, &counts), ERR_MEMORY);
    heap_fail_at(0);
    assert_int_equal(d.moments.n, 0);
    assert_int_equal(add_many(&d, x, 3, 1, &counts), 0);
    assert_int_equal(d.moments.n, 3);
    assert_int_equal(d.hist.used, 3);
    dist_clear(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_has_no_numbers),
        cmocka_unit_test(test_one_value_has_no_variance),
        cmocka_unit_test(test_variance_divides_by_n_less_one),
        cmocka_unit_test(test_variance_survives_a_large_offset),
        cmocka_unit_test(test_not_finite_is_ignored),
        cmocka_unit_test(test_any_split_merges_to_the_whole),
        cmocka_unit_test(test_merging_with_empty_changes_nothing),
        cmocka_unit_test(test_merging_with_itself_doubles),
        cmocka_unit_test(test_keys_are_exact_at_every_bound),
        cmocka_unit_test(test_bound_is_the_largest_value_of_its_key),
        cmocka_unit_test(test_powers_of_two_end_their_bucket),
        cmocka_unit_test(test_extremes_go_to_the_outermost_buckets),
        cmocka_unit_test(test_middle_lies_within_its_bucket),
        cmocka_unit_test(test_quantiles_are_within_half_a_bucket_of_a_seen_value),
        cmocka_unit_test(test_quantiles_stay_between_min_and_max),
        cmocka_unit_test(test_counts_saturate),
        cmocka_unit_test(test_add_out_of_memory_has_no_effect),
        cmocka_unit_test(test_merge_out_of_memory_has_no_effect),
        cmocka_unit_test(test_many_are_as_one_by_one),
        cmocka_unit_test(test_many_without_a_value_change_nothing),
        cmocka_unit_test(test_many_out_of_memory_have_no_effect),
    };
    return cmocka_run_group_tests_name("dist", tests, NULL, NULL);
}
