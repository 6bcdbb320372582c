/* SPDX-License-Identifier: MIT */
/* Baselines and changes of series that a reader can follow. */
#include "tests/unit/daemon/state/drift_fixture.h"

/* The baseline */

DRIFT_TEST(windows_of_the_baseline_have_no_drift)
{
    for (int i = 0; i < 5; i++) {
        give_all(drift, &around_ten[i], 1, i);
        assert_int_equal(learned_windows(drift), i + 1);
        assert_null(drift_result(drift, METRIC_ENTROPY));
    }
    give_flat(drift, 12, 60);
    assert_int_equal(learned_windows(drift), 5);
    assert_near(newest(drift, METRIC_MEAN).delta, 2, 1e-15);
    assert_near(newest(drift, METRIC_MEAN).shift, 2, 1e-15);
    assert_nan(newest(drift, METRIC_MEAN).js);
    assert_near(newest(drift, METRIC_ENTROPY).js, log(2), 1e-15);
    assert_null(drift_result(drift, METRIC_MAX));
}

DRIFT_TEST(partial_windows_are_compared_and_not_learned)
{
    struct drift_sample far = flat(1000);
    drift_give(drift, &far, 1, false);
    assert_int_equal(learned_windows(drift), 0);
    give_all(drift, around_ten, 5, 0);
    for (int i = 0; i < 20; i++) {
        drift_give(drift, &far, 60, false);
    }
    assert_near(newest(drift, METRIC_MEAN).delta, 990, 1e-15);
    assert_nan(newest(drift, METRIC_MEAN).change);
    give_flat(drift, 10, 60);
    assert_near(newest(drift, METRIC_MEAN).delta, 0, 0);
}

DRIFT_TEST(windows_are_learned_once_and_do_not_overlap)
{
    struct result_window window = {.first = 0, .last = 9};
    assert_true(drift_may_learn(drift, &window));
    give_flat(drift, 1, 9);
    assert_false(drift_may_learn(drift, &window));
    window = (struct result_window){.first = 9, .last = 18};
    assert_false(drift_may_learn(drift, &window));
    window = (struct result_window){.first = 10, .last = 19};
    assert_true(drift_may_learn(drift, &window));
    window.partial = true;
    assert_false(drift_may_learn(drift, &window));
}

TEST(a_baseline_of_one_window_has_no_change)
{
    struct drift_rule one = rule;
    one.windows = 1;
    OWNED(drift_free) struct drift *drift = new_drift(&one);
    give_flat(drift, 1, 0);
    give_flat(drift, 1, 1);
    assert_near(newest(drift, METRIC_ENTROPY).shift, 0, 0);
    for (uint64_t t = 2; t < 40; t++) {
        give_flat(drift, 2, t);
    }
    assert_near(newest(drift, METRIC_ENTROPY).delta, 1, 0);
    assert_near(newest(drift, METRIC_ENTROPY).shift, 20, 0); /* the resolution is 0.05 */
    assert_nan(newest(drift, METRIC_ENTROPY).change);
}

/* Rounding is no drift, and what never moved by itself has no small unit either. */
TEST(a_baseline_that_never_moved_does_not_inflate_the_shift)
{
    static const double level[] = {0.3, -7e5, 0, 1e-30};
    for (size_t i = 0; i < sizeof level / sizeof *level; i++) {
        double step = fmax(0.01, fabs(level[i]) / 100), unit = fmax(0.05, fabs(level[i]) / 20);
        OWNED(drift_free) struct drift *drift = new_drift(&rule);
        for (uint64_t t = 0; t < 1000; t++) {
            give_flat(drift, level[i] * (1 + (double)(t % 3) * 0x1p-23), t);
        }
        assert_near(newest(drift, METRIC_ENTROPY).shift, 0, 3e-6);
        assert_nan(newest(drift, METRIC_MEAN).change);
        for (uint64_t t = 1000; t < 1010; t++) {
            give_flat(drift, level[i] + step, t);
        }
        assert_near(newest(drift, METRIC_ENTROPY).shift, step / unit, 1e-5);
        assert_near(newest(drift, METRIC_MEAN).change, 1000, 0);
    }
}

DRIFT_TEST(a_constant_series_never_changes)
{
    for (uint64_t t = 0; t < 2000; t++) {
        give_flat(drift, 0.1, t);
    }
    assert_near(newest(drift, METRIC_ENTROPY).delta, 0, 1e-15);
    assert_near(newest(drift, METRIC_ENTROPY).shift, 0, 0);
    assert_near(newest(drift, METRIC_ENTROPY).js, 0, 0);
    assert_nan(newest(drift, METRIC_ENTROPY).change);
}

/* No baseline can be had of it; from 1, where uniform attention is, it is far at last. */
DRIFT_TEST(a_fall_without_end_is_compared_with_uniform_attention)
{
    for (int t = 0; t < 40; t++) {
        double x = 1 - 0.02 * t;
        give_flat(drift, x, (uint64_t)t);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY_NORMALIZED);
        assert_non_null(got);
        assert_near(got[0].delta, x - 1, 1e-15);
        assert_near(got[0].shift, (x - 1) / 0.05, 1e-12);
        assert_true(isnan(got[0].js));
        assert_near(got[0].change, t < 4 ? NAN : 0, 0);   /* it began with the first window */
        assert_null(drift_result(drift, METRIC_ENTROPY)); /* uniform is ln T there */
        assert_int_equal(learned_windows(drift), (t + 1) % 5);
    }
}

DRIFT_TEST(the_baseline_is_the_first_plateau_and_nothing_before_it)
{
    static const double fall[] = {1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4};
    give_all(drift, fall, 10, 3); /* the second block still falls, by its first window */
    assert_int_equal(learned_windows(drift), 0);
    for (int t = 13; t < 40; t++) {
        give_flat(drift, 0.4, 10 * (uint64_t)t);
        assert_int_equal(drift_result(drift, METRIC_ENTROPY) != NULL, t >= 18);
        for (int m = 0; m < METRICS && t >= 18; m++) {
            const struct result_drift *got = drift_result(drift, test_metrics[m]);
            bool uniform = test_metrics[m] == METRIC_ENTROPY_NORMALIZED;
            assert_near(got[0].shift, uniform ? -12 : 0, 1e-12);
            assert_near(got[0].js, m < TEST_ROW_METRICS ? 0 : NAN, 0); /* no row of the fall */
            assert_near(got[0].change, 30, 0);
        }
    }
    give_flat(drift, 0.1, 400);
    assert_near(newest(drift, METRIC_MEAN).shift, -6, 1e-12);
    assert_near(newest(drift, METRIC_ENTROPY).js, log(2), 1e-15);
}

/* It stays farther from uniform attention than a head that learns. */
TEST(a_collapse_in_the_first_windows_does_not_become_the_baseline)
{
    static const double collapse[] = {0.8, 0.15, 0.12, 0.16, 0.02},
                        healthy[] = {1, 0.9, 0.8, 0.7, 0.6};
    OWNED(drift_free) struct drift *collapsed = new_drift(&rule), *learnt = new_drift(&rule);
    for (int t = 0; t < 50; t++) {
        give_flat(collapsed, collapse[t < 5 ? t : 4], (uint64_t)t);
        give_flat(learnt, healthy[t < 5 ? t : 4], (uint64_t)t);
    }
    assert_near(newest(collapsed, METRIC_ENTROPY_NORMALIZED).shift, -19.6, 1e-12);
    assert_near(newest(learnt, METRIC_ENTROPY_NORMALIZED).shift, -8, 1e-12);
}

DRIFT_TEST(windows_without_values_neither_count_nor_shift)
{
    struct drift_sample none = flat(NAN);
    for (int t = 0; t < 30; t++) {
        if (t % 3 > 0) {
            drift_give(drift, &none, 10 * (uint64_t)t, true);
        } else {
            give_flat(drift, around_ten[t / 3 % 5], 10 * (uint64_t)t);
        }
        const struct result_drift *got = drift_result(drift, METRIC_MEAN);
        assert_int_equal(learned_windows(drift), t < 12 ? t / 3 + 1 : 5);
        assert_int_equal(got != NULL, t > 12);
        assert_true(!got || isnan(got[0].shift) == (t % 3 > 0));
    }
}

/* Nor is it learned from. */
DRIFT_TEST(a_partial_first_window_is_compared_with_uniform_attention)
{
    struct drift_sample sample = without_head(flat(0.5), 1);
    drift_give(drift, &sample, 3, false);
    const struct result_drift *got = drift_result(drift, METRIC_ENTROPY_NORMALIZED);
    assert_non_null(got);
    assert_near(got[0].shift, -10, 1e-12);
    assert_true(isnan(got[1].shift) && isnan(got[0].js));
    assert_int_equal(learned_windows(drift), 0);
}

/* Changes */

/* Windows until the change of head 0 is another one; -1 = it stayed for `most`. */
static int windows_to_change(struct drift *drift, double value, int first, int most)
{
    const struct result_drift *now = drift_result(drift, METRIC_MEAN);
    double before = now ? now[0].change : NAN;
    for (int i = 0; i < most; i++) {
        give_flat(drift, value, 10 * (uint64_t)(first + i));
        double change = newest(drift, METRIC_MEAN).change;
        if (!isnan(change) && !(fabs(change - before) <= 0)) {
            return i + 1;
        }
    }
    return -1;
}

/* A step of 3 std gives 2.5 at first, less as the level follows: 2.5, 2, 1.57, ... */
TEST(a_step_of_three_stds_is_found_and_named)
{
    for (int sign = -1; sign <= 1; sign += 2) {
        OWNED(drift_free) struct drift *drift = new_drift(&rule);
        for (int i = 0; i < 4; i++) {
            give_all(drift, around_ten, 5, 5 * i);
        }
        give_flat(drift, 10 - 0.4 * sign, 200); /* ends what the noise began */
        assert_int_equal(windows_to_change(drift, 10 + 3 * sign, 21, 20), 5);
        assert_near(newest(drift, METRIC_MEAN).change, 210, 0);
        assert_near(drift_result(drift, METRIC_ENTROPY)[2].change, 210, 0);
    }
}

DRIFT_TEST(two_shifts_are_two_changes_and_the_newest_is_kept)
{
    for (int i = 0; i < 4; i++) {
        give_all(drift, around_ten, 5, 5 * i);
    }
    give_flat(drift, 9, 200); /* ends what the noise began */
    int found = windows_to_change(drift, 15, 21, 20);
    assert_in_range(found, 1, 4);
    assert_near(newest(drift, METRIC_MEAN).change, 210, 0);
    assert_int_equal(windows_to_change(drift, 15, 21 + found, 100), -1);
    assert_near(newest(drift, METRIC_MEAN).change, 210, 0);
    found = windows_to_change(drift, 8, 200, 20);
    assert_in_range(found, 1, 4);
    assert_near(newest(drift, METRIC_MEAN).change, 2000, 0);
}

DRIFT_TEST(huge_values_neither_overflow_nor_stick)
{
    give_all(drift, around_ten, 5, 0);
    give_flat(drift, 1e300, 50); /* beyond what squares can hold: taken for none */
    assert_nan(newest(drift, METRIC_MEAN).delta);
    give_flat(drift, 1e140, 60);
    assert_near(newest(drift, METRIC_MEAN).change, 60, 0);
    give_flat(drift, 10, 70);
    assert_near(newest(drift, METRIC_MEAN).change, 70, 0);
    assert_int_equal(windows_to_change(drift, 10, 8, 50), -1);
}

DRIFT_TEST(a_head_that_comes_late_has_its_own_baseline)
{
    for (int i = 0; i < 12; i++) {
        struct drift_sample sample = flat(around_ten[i % 5]);
        sample = i < 5 ? without_head(sample, 1) : sample;
        drift_give(drift, &sample, (uint64_t)i, true);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY);
        assert_int_equal(got != NULL, i >= 5);
        assert_true(!got || isnan(got[1].delta) == (i < 10));
        assert_true(!got || isnan(got[1].js) == (i < 10));
    }
}

/* Pinned */

static void test_drift_pin(struct drift *drift, const double *values, uint32_t count)
{
    struct layer_state *states[8];
    for (uint32_t i = 0; i < count; i++) {
        struct drift_sample sample = without_head(flat(values[i]), 2);
        states[i] = test_drift_state_of(&sample, KEYS);
    }
    assert_int_equal(drift_pin(drift, (const struct layer_state *const *)states, count), 0);
    for (uint32_t i = 0; i < count; i++) {
        layer_state_free(&states[i]);
    }
}

DRIFT_TEST(pinned_windows_replace_what_was_learned)
{
    static const double pinned[] = {19, 21};
    give_all(drift, around_ten, 5, 0);
    test_drift_pin(drift, pinned, 2);
    assert_int_equal(learned_windows(drift), 2);
    assert_null(drift_result(drift, METRIC_MEAN));
    for (int i = 6; i < 20; i++) {
        give_flat(drift, 22, 10 * (uint64_t)i);
    }
    const struct result_drift *got = drift_result(drift, METRIC_MEAN);
    assert_near(got[0].delta, 2, 1e-15);
    assert_near(got[0].shift, sqrt(2), 1e-15);
    assert_true(isnan(got[2].delta)); /* not in the baseline, and not learned later */
    assert_int_equal(learned_windows(drift), 2);
}

DRIFT_TEST(pinned_windows_may_fall_and_are_all_there_is)
{
    static const double pinned[] = {0.9, 0.7, 0.5}; /* mean 0.7, std 0.2 */
    test_drift_pin(drift, pinned, 3);
    for (int i = 0; i < 10; i++) {
        give_flat(drift, 0.3, 10 * (uint64_t)i);
    }
    const struct result_drift *got = drift_result(drift, METRIC_ENTROPY_NORMALIZED);
    assert_near(got[0].shift, -2, 1e-12);
    assert_near(got[0].js, log(2), 1e-15);
    assert_true(isnan(got[2].shift)); /* pinned to a run without this head: not to uniform */
}
