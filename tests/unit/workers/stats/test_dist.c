/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/stats/dist.h"
#include "proto/err.h"
#include "tests/unit/heap.h"
#include "tests/unit/workers/hist_bound.h"

#define KEY_MAX 2561
#define VALUES  5000

static void add_all(struct dist *d, const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(dist_add(d, x[i]), 0);
    }
}

/* Signed, over twelve orders of magnitude, with zeros. */
static void dist_fill(double *x, size_t n)
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

static void dist_assert_same_moments(const struct dist *a, const struct dist *b)
{
    double scale = fmax(fabs(a->moments.min), fabs(a->moments.max));
    assert_close(a->moments.mean, b->moments.mean, 1e-12 * scale);
    assert_close(moments_std(&a->moments), moments_std(&b->moments), 1e-12 * scale);
}

TEST(empty_has_no_numbers)
{
    OWNED(dist_clear) struct dist d = {0};
    assert_nan(moments_mean(&d.moments));
    assert_nan(moments_variance(&d.moments));
    assert_nan(moments_std(&d.moments));
    assert_nan(dist_quantile(&d, 0.5));
}

TEST(one_value_has_no_variance)
{
    OWNED(dist_clear) struct dist d = {0};
    assert_int_equal(dist_add(&d, -3.7), 0);
    assert_true(moments_mean(&d.moments) == -3.7 && d.moments.min == -3.7 && d.moments.max == -3.7);
    assert_nan(moments_variance(&d.moments));
    assert_true(dist_quantile(&d, 0) == -3.7 && dist_quantile(&d, 1) == -3.7);
}

TEST(variance_divides_by_n_less_one)
{
    struct moments m = {0};
    for (int i = 1; i <= 4; i++) {
        moments_add(&m, i);
    }
    assert_close(moments_mean(&m), 2.5, 1e-15);
    assert_close(moments_variance(&m), 5.0 / 3.0, 1e-15);
}

/* 1e9 + small: a sum of squares would lose every digit. */
TEST(variance_survives_a_large_offset)
{
    struct moments whole = {0}, half[2] = {{0}, {0}};
    for (int i = 0; i < 1000; i++) {
        moments_add(&whole, 1e9 + i % 10);
        moments_add(&half[i / 500], 1e9 + i % 10);
    }
    moments_merge(&half[0], &half[1]);
    assert_close(moments_variance(&whole), 8.25 * 1000 / 999, 1e-6);
    assert_close(moments_variance(&half[0]), 8.25 * 1000 / 999, 1e-6);
}

TEST(not_finite_is_ignored)
{
    OWNED(dist_clear) struct dist d = {0};
    assert_int_equal(dist_add(&d, NAN), 0);
    assert_int_equal(dist_add(&d, INFINITY), 0);
    assert_int_equal(dist_add(&d, -INFINITY), 0);
    assert_int_equal(d.moments.n, 0);
    assert_int_equal(d.hist.used, 0);
}

/* Contiguous parts of random length, merged forwards, backwards, and as a tree. */
static void dist_merge_parts(struct dist *part, unsigned parts, unsigned order)
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
    dist_merge_parts(part, parts, order);
    assert_same_counts(&part[0], whole);
    dist_assert_same_moments(&part[0], whole);
    for (unsigned i = 0; i < parts; i++) {
        dist_clear(&part[i]);
    }
}

TEST(any_split_merges_to_the_whole)
{
    static double x[VALUES];
    dist_fill(x, VALUES);
    OWNED(dist_clear) struct dist whole = {0};
    add_all(&whole, x, VALUES);
    for (unsigned parts = 1; parts <= 16; parts++) {
        for (unsigned order = 0; order < 3; order++) {
            check_split(x, &whole, parts, order);
        }
    }
}

TEST(merging_with_empty_changes_nothing)
{
    double x[] = {1, 2, 0, -5};
    OWNED(dist_clear) struct dist a = {0}, b = {0}, empty = {0};
    add_all(&a, x, 4);
    add_all(&b, x, 4);
    assert_int_equal(dist_merge(&a, &empty), 0);
    assert_same_counts(&a, &b);
    assert_int_equal(dist_merge(&empty, &a), 0);
    assert_same_counts(&empty, &b);
    assert_true(empty.moments.mean == b.moments.mean && empty.moments.m2 == b.moments.m2);
}

TEST(merging_with_itself_doubles)
{
    double x[] = {1, 2, 0, -5};
    OWNED(dist_clear) struct dist a = {0};
    add_all(&a, x, 4);
    assert_int_equal(dist_merge(&a, &a), 0);
    assert_int_equal(a.moments.n, 8);
    assert_int_equal(a.hist.used, 4);
    assert_int_equal(a.hist.buckets[2].count, 2);
    assert_close(moments_mean(&a.moments), -0.5, 1e-15);
}

/* Every bound is 2^(u/32) correctly rounded, belongs to its bucket, and its successor to the next.
 */
TEST(keys_are_exact_at_every_bound)
{
    for (int32_t key = 1; key <= KEY_MAX; key++) {
        double bound = hist_bound_of(key);
        assert_int_equal(hist_key(bound), key);
        assert_int_equal(hist_key(-bound), -key);
        assert_int_equal(hist_key(nextafter(bound, INFINITY)), key < KEY_MAX ? key + 1 : KEY_MAX);
        assert_int_equal(hist_key(nextafter(bound, 0)), key > 1 ? key : 0);
    }
}

TEST(bound_is_the_largest_value_of_its_key)
{
    for (int32_t key = -KEY_MAX; key < KEY_MAX; key++) {
        double bound = hist_bound_of(key);
        assert_int_equal(hist_key(bound), key);
        assert_true(hist_key(nextafter(bound, INFINITY)) > key);
        assert_true(bound < hist_bound_of(key + 1));
    }
}

TEST(powers_of_two_end_their_bucket)
{
    for (int e = -40; e <= 40; e++) {
        assert_int_equal(hist_key(ldexp(1, e)), (e + 40) * 32 + 1);
        assert_true(hist_bound_of((e + 40) * 32 + 1) == ldexp(1, e));
    }
}

TEST(extremes_go_to_the_outermost_buckets)
{
    assert_int_equal(hist_key(0), 0);
    assert_int_equal(hist_key(-0.0), 0);
    assert_int_equal(hist_key(nextafter(0x1p-40, 0)), 0);
    assert_int_equal(hist_key(-0x1p-1074), 0);
    assert_int_equal(hist_key(1e300), KEY_MAX);
    assert_int_equal(hist_key(-1e300), -KEY_MAX);
    assert_true(hist_bound_of(KEY_MAX) == 0x1p40 && hist_bound_of(KEY_MAX + 1) == 0x1p40);
    assert_true(hist_middle(0, 0) == 0);
}

TEST(middle_lies_within_its_bucket)
{
    for (int32_t key = -KEY_MAX; key <= KEY_MAX; key++) {
        assert_int_equal(hist_key(hist_middle(key, 0)), key);
    }
    assert_close(hist_middle(hist_key(1.01), 0), exp2(1.0 / 64), 1e-15);
    assert_close(hist_middle(hist_key(-1.01), 0), -exp2(1.0 / 64), 1e-15);
}

static int dist_ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

TEST(quantiles_are_within_half_a_bucket_of_a_seen_value)
{
    static double x[VALUES];
    dist_fill(x, VALUES);
    OWNED(dist_clear) struct dist d = {0};
    add_all(&d, x, VALUES);
    qsort(x, VALUES, sizeof x[0], dist_ascending);
    for (int percent = 0; percent <= 100; percent++) {
        double q = percent / 100.0;
        size_t rank = (size_t)fmax(1, ceil(q * VALUES));
        assert_close(dist_quantile(&d, q), x[rank - 1],
                     fabs(x[rank - 1]) * (exp2(1.0 / 64) - 1) * 1.0001);
    }
}

TEST(quantiles_stay_between_min_and_max)
{
    double x[] = {1.0001, 1.0002, 1.0003};
    OWNED(dist_clear) struct dist d = {0};
    add_all(&d, x, 3);
    assert_true(dist_quantile(&d, 0.1) == 1.0001 && dist_quantile(&d, 0.9) == 1.0003);
    assert_close(dist_quantile(&d, 0.5), 1.0002, 1e-7);
    dist_clear(&d);
    double y[] = {1e80, 2e80, 3e80};
    add_all(&d, y, 3);
    assert_true(dist_quantile(&d, 0.5) == 1e80);
    dist_clear(&d);
    double z[] = {-1.015, -1.012, -1.01, 0.98, 0.99, 0.999};
    add_all(&d, z, 6);
    assert_close(dist_quantile(&d, 0.25), -sqrt(1.015), 1e-12);
    assert_close(dist_quantile(&d, 0.75), sqrt(0.999 * exp2(-1.0 / 32)), 1e-12);
}

TEST(dist_counts_saturate)
{
    OWNED(hist_clear) struct hist a = {0}, b = {0};
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(hist_add(&b, 1), 0);
    a.buckets[0].count = UINT32_MAX - 1;
    b.buckets[0].count = 5;
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(hist_add(&a, 1), 0);
    assert_int_equal(a.buckets[0].count, UINT32_MAX);
    assert_int_equal(hist_merge(&a, &b), 0);
    assert_int_equal(a.buckets[0].count, UINT32_MAX);
}

TEST(add_out_of_memory_has_no_effect)
{
    OWNED(dist_clear) struct dist d = {0}, before = {0};
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
}

TEST(merge_out_of_memory_has_no_effect)
{
    double x[] = {1, 2, 3, 4, 5, 6}, y[] = {-1, 2, 30, 40, 50, 60};
    OWNED(dist_clear) struct dist a = {0}, before = {0}, b = {0};
    add_all(&a, x, 6);
    add_all(&before, x, 6);
    add_all(&b, y, 6);
    heap_fail_at(1);
    assert_int_equal(dist_merge(&a, &b), ERR_MEMORY);
    heap_fail_at(0);
    assert_same_counts(&a, &before);
    assert_int_equal(dist_merge(&a, &b), 0);
    assert_int_equal(a.hist.used, 11);
}

static void fill_floats(float *x, size_t n)
{
    double wide[VALUES];
    dist_fill(wide, n);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)wide[i];
    }
    x[0] = NAN;
    x[n / 2] = INFINITY;
    x[n - 1] = 0;
}

static void dist_collect(struct dist_counts *counts, int32_t begin, int32_t end)
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
        dist_collect(counts, hist_key(counts->moments.min), hist_key(counts->moments.max));
    }
    return dist_add_counts(d, counts);
}

TEST(many_are_as_one_by_one)
{
    static struct dist_counts counts;
    static float x[VALUES];
    fill_floats(x, VALUES);
    for (size_t stride = 1; stride <= 3; stride++) {
        OWNED(dist_clear) struct dist many = {0}, single = {0};
        size_t n = VALUES / stride;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(dist_add(&single, (double)x[i * stride]), 0);
        }
        /* Twice: the second time the list is merged into one that is there. */
        assert_int_equal(add_many(&many, x, n / 2, stride, &counts), 0);
        assert_int_equal(add_many(&many, x + n / 2 * stride, n - n / 2, stride, &counts), 0);
        assert_same_counts(&many, &single);
        dist_assert_same_moments(&many, &single);
    }
    for (size_t k = 0; k < HIST_KEYS; k++) {
        assert_int_equal(counts.count[k], 0);
    }
}

TEST(many_without_a_value_change_nothing)
{
    static struct dist_counts counts;
    const float x[] = {NAN, INFINITY, -INFINITY};
    struct dist d = {0};
    assert_int_equal(add_many(&d, x, 3, 1, &counts), 0);
    assert_int_equal(add_many(&d, x, 0, 1, &counts), 0);
    assert_int_equal(d.moments.n, 0);
    assert_null(d.hist.buckets);
}

TEST(many_out_of_memory_have_no_effect)
{
    static struct dist_counts counts;
    const float x[] = {1, 2, 3};
    OWNED(dist_clear) struct dist d = {0};
    heap_fail_at(1);
    assert_int_equal(add_many(&d, x, 3, 1, &counts), ERR_MEMORY);
    heap_fail_at(0);
    assert_int_equal(d.moments.n, 0);
    assert_int_equal(add_many(&d, x, 3, 1, &counts), 0);
    assert_int_equal(d.moments.n, 3);
    assert_int_equal(d.hist.used, 3);
}

/* Resolution */

static uint32_t used_at(const double *x, size_t n, uint32_t halvings)
{
    OWNED(dist_clear) struct dist d = {0};
    add_all(&d, x, n);
    hist_halve(&d.hist, halvings);
    uint32_t used = d.hist.used;
    return used;
}

/* By the definition: the bucket of x is (2^(v-1), 2^v] in units of 2^halvings / 32. */
TEST(halved_keys_are_those_of_wider_buckets)
{
    for (uint32_t halvings = 0; halvings <= HIST_HALVINGS_MAX; halvings++) {
        int32_t lowest = hist_key_halve(1, 0, halvings);
        assert_int_equal(lowest, 1);
        assert_int_equal(hist_key_halve(KEY_MAX, 0, halvings), hist_key_max(halvings));
        for (int32_t key = 1; key <= KEY_MAX; key++) {
            int32_t u = key - 1281;
            int32_t v = (int32_t)ceil(ldexp(u, -(int)halvings));
            int32_t first = (int32_t)ceil(ldexp(-1280, -(int)halvings));
            assert_int_equal(hist_key_halve(key, 0, halvings), v - first + 1);
            assert_int_equal(hist_key_halve(-key, 0, halvings), -(v - first + 1));
        }
        assert_int_equal(hist_key_halve(0, 0, halvings), 0);
    }
}

TEST(halving_in_steps_is_halving_at_once)
{
    for (uint32_t from = 0; from <= HIST_HALVINGS_MAX; from++) {
        for (uint32_t to = from; to <= HIST_HALVINGS_MAX; to++) {
            for (int32_t key = -KEY_MAX; key <= KEY_MAX; key++) {
                assert_int_equal(hist_key_halve(hist_key_halve(key, 0, from), from, to),
                                 hist_key_halve(key, 0, to));
            }
        }
    }
}

TEST(powers_of_two_stay_bounds_at_every_resolution)
{
    for (uint32_t halvings = 0; halvings <= HIST_HALVINGS_MAX; halvings++) {
        for (int e = -39; e < 40; e++) {
            int32_t at = hist_key_halve(hist_key(ldexp(1, e)), 0, halvings);
            int32_t past =
                hist_key_halve(hist_key(nextafter(ldexp(1, e), 2 * ldexp(1, e))), 0, halvings);
            assert_int_equal(past, at + 1);
        }
    }
}

TEST(limit_takes_the_finest_resolution_that_fits)
{
    static double x[VALUES];
    dist_fill(x, VALUES);
    for (uint32_t limit = 8; limit < 3000; limit = limit * 3 / 2 + 1) {
        OWNED(dist_clear) struct dist d = {0};
        add_all(&d, x, VALUES);
        dist_limit(&d, limit);
        assert_true(d.hist.used <= limit || d.hist.halvings == HIST_HALVINGS_MAX);
        assert_int_equal(hist_total(&d.hist), VALUES);
        if (d.hist.halvings > 0) {
            assert_true(used_at(x, VALUES, d.hist.halvings - 1) > limit);
        }
    }
}

TEST(at_the_lowest_resolution_the_smallest_count_as_zero)
{
    OWNED(dist_clear) struct dist d = {0};
    for (int32_t key = -KEY_MAX; key <= KEY_MAX; key++) {
        assert_int_equal(dist_add(&d, hist_bound_of(key)), 0);
    }
    dist_limit(&d, 1);
    assert_int_equal(d.hist.halvings, HIST_HALVINGS_MAX);
    assert_int_equal(d.hist.used, HIST_LIMIT_MIN);
    assert_int_equal(d.hist.buckets[HIST_SPAN].key, 0);
    assert_int_equal(d.hist.buckets[HIST_SPAN + 1].key,
                     hist_key_max(HIST_HALVINGS_MAX) - HIST_SPAN + 1);
    assert_int_equal(hist_total(&d.hist), 2 * KEY_MAX + 1);
}

static void dist_assert_same_hist(const struct hist *a, const struct hist *b)
{
    assert_int_equal(a->halvings, b->halvings);
    assert_int_equal(a->used, b->used);
    assert_memory_equal(a->buckets, b->buckets, a->used * sizeof *a->buckets);
}

/* Values that narrow and widen, so that the parts end at different resolutions. */
static size_t random_stream(double *x, uint64_t *seed)
{
    size_t n = 2 + (size_t)(298 * random_unit(seed));
    double spread = 40 * random_unit(seed), middle = 20 * random_unit(seed) - 10;
    for (size_t i = 0; i < n; i++) {
        double sign = random_unit(seed) < 0.2 ? -1 : 1;
        double power = middle + spread * (random_unit(seed) - 0.5) * (double)i / (double)n;
        x[i] = random_unit(seed) < 0.05 ? 0 : sign * exp(power);
    }
    return n;
}

/* Deals the values to parts, limits now and then, and merges the parts in random order. */
static void split_and_merge(const double *x, size_t n, uint32_t limit, uint64_t *seed,
                            struct dist *ret_whole)
{
    struct dist part[8] = {{.hist = {0}}};
    uint32_t parts = 1 + (uint32_t)(8 * random_unit(seed)), left = parts;
    for (size_t i = 0; i < n; i++) {
        struct dist *to = &part[(uint32_t)(parts * random_unit(seed))];
        assert_int_equal(dist_add(to, x[i]), 0);
        if (random_unit(seed) < 0.1) {
            dist_limit(to, limit);
        }
    }
    for (; left > 1; left--) {
        uint32_t from = (uint32_t)(left * random_unit(seed));
        uint32_t into = (from + 1 + (uint32_t)((left - 1) * random_unit(seed))) % left;
        assert_int_equal(dist_merge(&part[into], &part[from]), 0);
        if (random_unit(seed) < 0.5) {
            dist_limit(&part[into], limit);
        }
        dist_clear(&part[from]);
        part[from] = part[left - 1];
    }
    dist_limit(&part[0], limit);
    *ret_whole = part[0];
}

TEST(limited_parts_merge_to_the_limited_whole)
{
    uint64_t seed = 7;
    static double x[300];
    for (int round = 0; round < 2000; round++) {
        size_t n = random_stream(x, &seed);
        uint32_t limit = 2 + (uint32_t)(120 * random_unit(&seed));
        OWNED(dist_clear) struct dist whole = {0}, merged = {0};
        add_all(&whole, x, n);
        dist_limit(&whole, limit);
        split_and_merge(x, n, limit, &seed, &merged);
        dist_assert_same_hist(&merged.hist, &whole.hist);
        assert_same_counts(&merged, &whole);
        dist_assert_same_moments(&merged, &whole);
    }
}

TEST(quantiles_of_limited_are_within_the_stated_error)
{
    static double x[VALUES];
    dist_fill(x, VALUES);
    OWNED(dist_clear) struct dist d = {0};
    add_all(&d, x, VALUES);
    qsort(x, VALUES, sizeof x[0], dist_ascending);
    for (uint32_t limit = 2000; limit >= 2; limit = limit * 2 / 3) {
        dist_limit(&d, limit);
        double small = d.hist.halvings == HIST_HALVINGS_MAX
                           ? exp2(-11.5) * fmax(fabs(x[0]), fabs(x[VALUES - 1]))
                           : 0;
        for (int percent = 0; percent <= 100; percent++) {
            size_t rank = (size_t)fmax(1, ceil(percent / 100.0 * VALUES));
            assert_close(dist_quantile(&d, percent / 100.0), x[rank - 1],
                         fmax(small, fabs(x[rank - 1]) * dist_quantile_error(&d) * 1.0001));
        }
    }
}

TEST(quantile_error_is_half_a_bucket)
{
    struct dist d = {0};
    for (uint32_t halvings = 0; halvings <= HIST_HALVINGS_MAX; halvings++) {
        d.hist.halvings = halvings;
        double base = exp2(ldexp(1, (int)halvings) / 32);
        assert_close(dist_quantile_error(&d), sqrt(base) - 1, 1e-12 * base);
    }
}

/* Whatever the resolutions: an allocation that fails leaves everything as it was. */
TEST(merging_resolutions_out_of_memory_has_no_effect)
{
    double x[] = {1, 2, 3, 4, 5, 6, 7, 8}, y[] = {1e-6, 1e-4, 1e-2, 100, 1e4, 1e6, -3, 0};
    for (int coarse_into = 0; coarse_into < 2; coarse_into++) {
        struct dist into = {0}, from = {0}, before = {0};
        add_all(&into, x, 8);
        add_all(&before, x, 8);
        add_all(&from, y, 8);
        hist_halve(coarse_into ? &into.hist : &from.hist, 3);
        hist_halve(&before.hist, into.hist.halvings);
        for (unsigned nth = 1;; nth++) {
            heap_fail_at(nth);
            int rc = dist_merge(&into, &from);
            if (!heap_has_failed()) {
                assert_int_equal(rc, 0);
                break;
            }
            assert_int_equal(rc, ERR_MEMORY);
            assert_same_counts(&into, &before);
            assert_int_equal(into.hist.halvings, before.hist.halvings);
        }
        heap_fail_at(0);
        assert_int_equal(into.hist.halvings, 3);
        assert_int_equal(into.moments.n, 16);
        dist_clear(&into);
        dist_clear(&from);
        dist_clear(&before);
    }
}

/* Divergence */

static int32_t largest_key(const struct hist *h, uint32_t halvings)
{
    int32_t largest = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        int32_t key = abs(hist_key_halve(h->buckets[i].key, h->halvings, halvings));
        largest = key > largest ? key : largest;
    }
    return largest;
}

/* The key at that resolution, with what counts as zero beside `largest`. */
static int32_t key_beside(int32_t key, uint32_t from, uint32_t to, int32_t largest)
{
    key = hist_key_halve(key, from, to);
    return to == HIST_HALVINGS_MAX && abs(key) <= largest - HIST_SPAN ? 0 : key;
}

static double js_by_definition(const struct dist *a, const struct dist *b, uint32_t halvings)
{
    int32_t of_a = largest_key(&a->hist, halvings), of_b = largest_key(&b->hist, halvings);
    int32_t largest = of_a > of_b ? of_a : of_b;
    double js = 0, total_a = (double)hist_total(&a->hist), total_b = (double)hist_total(&b->hist);
    for (int32_t key = -KEY_MAX; key <= KEY_MAX; key++) {
        double p = 0, q = 0;
        for (uint32_t i = 0; i < a->hist.used; i++) {
            p += key_beside(a->hist.buckets[i].key, a->hist.halvings, halvings, largest) == key
                     ? a->hist.buckets[i].count / total_a
                     : 0;
        }
        for (uint32_t i = 0; i < b->hist.used; i++) {
            q += key_beside(b->hist.buckets[i].key, b->hist.halvings, halvings, largest) == key
                     ? b->hist.buckets[i].count / total_b
                     : 0;
        }
        js += p > 0 ? p * log(p / ((p + q) / 2)) / 2 : 0;
        js += q > 0 ? q * log(q / ((p + q) / 2)) / 2 : 0;
    }
    return js;
}

TEST(divergence_is_that_of_the_coarser_buckets)
{
    uint64_t seed = 3;
    static double x[300];
    for (int round = 0; round < 30; round++) {
        OWNED(dist_clear) struct dist a = {0}, b = {0};
        add_all(&a, x, random_stream(x, &seed));
        add_all(&b, x, random_stream(x, &seed));
        hist_halve(&a.hist, (uint32_t)(4 * random_unit(&seed)));
        hist_halve(&b.hist, (uint32_t)(4 * random_unit(&seed)));
        uint32_t halvings = a.hist.halvings > b.hist.halvings ? a.hist.halvings : b.hist.halvings;
        assert_close(dist_js(&a, &b), js_by_definition(&a, &b, halvings), 1e-13);
        assert_close(dist_js(&a, &b), dist_js(&b, &a), 1e-13);
        assert_close(dist_js(&a, &a), 0, 1e-15);
    }
}

TEST(divergence_of_what_shares_nothing_is_ln_2)
{
    struct dist a = {0}, b = {0}, empty = {0};
    assert_int_equal(dist_add(&a, 1), 0);
    assert_int_equal(dist_add(&b, -1), 0);
    assert_true(dist_js(&a, &b) == log(2));
    assert_nan(dist_js(&a, &empty));
    assert_nan(dist_js(&empty, &b));
    assert_nan(dist_js(&empty, &empty));
    dist_clear(&a);
    dist_clear(&b);
}
