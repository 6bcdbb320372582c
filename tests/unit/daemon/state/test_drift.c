/* SPDX-License-Identifier: MIT */
/* Drift against brute force: what it says of a window is worked out again from all values of all
 * windows so far, by the definitions (two passes for a std, the residuals of a line through all
 * points for the slope test, the cumulative sum and its extremes for Page-Hinkley, a list of all
 * keys for js). */
#include "tests/unit/unit.h"

#include "daemon/state/drift.h"
#include "daemon/state/packed_hists.h"
#include "tests/unit/daemon/state/learned.h"
#include "tests/unit/heap.h"

#define HEADS   3
#define ROWS    40 /* of a head in a window */
#define WINDOWS 60
#define KEYS    5123 /* buckets: no limit */

static const struct drift_rule rule = {
    .windows = 5, .tolerance = 0.5, .threshold = 10, .buckets = KEYS};

/* One window: rows of both metrics of rows, and `mean`, once per message. NaN = the head has none.
 */
struct drift_sample {
    double row[HEADS][ROWS];
    double message[HEADS];
};

/* `entropy` has no end and a resolution of 0.05; the others are from 0 to 1, and coarser. */
enum { METRICS = 3, TEST_ROW_METRICS = 2 };
static const int test_metrics[METRICS] = {METRIC_ENTROPY, METRIC_ENTROPY_NORMALIZED, METRIC_MEAN};

/* About normal. */
static double drift_random_normal(uint64_t *seed)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        sum += random_unit(seed);
    }
    return sum;
}

static struct layer_state *test_drift_state_of(const struct drift_sample *sample, uint32_t buckets)
{
    struct layer_state *state = layer_state_new(HEADS, buckets);
    struct message message = {.header = {.heads = HEADS, .heads_total = HEADS, .batch = 1}};
    struct head_block *head = calloc(HEADS, sizeof *head);
    double means[HEADS], values[HEADS];
    assert_non_null(state);
    assert_non_null(head);
    struct measured measured = {.tier = TIER_ATTENTION, .heads = HEADS, .head = head};
    measured.value[METRIC_ENTROPY] = measured.value[METRIC_ENTROPY_NORMALIZED] = means;
    measured.value[METRIC_MEAN] = values;
    for (int h = 0; h < HEADS; h++) {
        for (int m = 0; m < TEST_ROW_METRICS; m++) {
            struct dist *rows = &head[h].row[test_metrics[m]];
            for (int r = 0; r < ROWS; r++) {
                assert_int_equal(dist_add(rows, sample->row[h][r]), 0);
            }
            means[h] = moments_mean(&rows->moments);
        }
        values[h] = sample->message[h];
    }
    assert_int_equal(layer_state_add(state, &message, &measured), 0);
    for (int h = 0; h < HEADS; h++) {
        dist_clear(&head[h].row[METRIC_ENTROPY]);
        dist_clear(&head[h].row[METRIC_ENTROPY_NORMALIZED]);
    }
    free(head);
    return state;
}

/* The same value everywhere. */
static struct drift_sample flat(double value)
{
    struct drift_sample sample;
    for (int h = 0; h < HEADS; h++) {
        for (int r = 0; r < ROWS; r++) {
            sample.row[h][r] = value;
        }
        sample.message[h] = value;
    }
    return sample;
}

static struct drift_sample without_head(struct drift_sample sample, int head)
{
    for (int r = 0; r < ROWS; r++) {
        sample.row[head][r] = NAN;
    }
    sample.message[head] = NAN;
    return sample;
}

static struct drift *new_drift(const struct drift_rule *of)
{
    struct drift *drift = drift_new(of, HEADS);
    assert_non_null(drift);
    return drift;
}

static int drift_set_up(void **state)
{
    *state = new_drift(&rule);
    return 0;
}

static int drift_tear_down(void **state)
{
    struct drift *drift = *state;
    drift_free(&drift);
    return 0;
}

#define DRIFT_TEST(name) TEST_OF(name, struct drift *drift, drift_set_up, drift_tear_down)

static void drift_give(struct drift *drift, const struct drift_sample *sample, uint64_t last,
                       bool learn)
{
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(sample, KEYS);
    assert_int_equal(drift_window(drift, state, last, learn), 0);
}

static void give_flat(struct drift *drift, double value, uint64_t last)
{
    struct drift_sample sample = flat(value);
    drift_give(drift, &sample, last, true);
}

/* Values, one after the other; the units are 10, 20, 30, ... */
static void give_all(struct drift *drift, const double *values, int count, int first)
{
    for (int i = 0; i < count; i++) {
        give_flat(drift, values[i], 10 * (uint64_t)(first + i));
    }
}

static void assert_near(double got, double want, double tolerance)
{
    if (isnan(got) != isnan(want) || fabs(got - want) > tolerance * fmax(1, fabs(want))) {
        fail_msg("got %.17g, want %.17g", got, want);
    }
}

/* Brute force */

struct drift_series {
    double mean[WINDOWS];
    bool has[WINDOWS];
    int count;
};

/* The windows begin .. end - 1; those of them that have a value count. */
struct drift_block {
    int begin, end, count;
    double mean, std;
    int fell; /* the first window with a value, when a block was forgotten; else -1 */
};

static double brute_grain(int metric, double around)
{
    return metric == METRIC_ENTROPY ? fmax(0.05, 0.05 * fabs(around)) : 0.05;
}

/* Whether the line through the block's points climbs or descends by more than twice their spread
 * around it, or by what no spread excuses. */
static bool brute_slopes(const struct drift_series *s, const struct drift_block *block, int metric)
{
    double n = block->count, across = 0, along = 0, left = 0;
    double at = 0;
    for (int i = block->begin; i < block->end; i++) {
        if (s->has[i]) {
            double x = at++ - (n - 1) / 2;
            across += x * (s->mean[i] - block->mean);
            along += x * x;
        }
    }
    double slope = across / along, grain = brute_grain(metric, block->mean);
    at = 0;
    for (int i = block->begin; i < block->end; i++) {
        if (s->has[i]) {
            double off = s->mean[i] - (block->mean + slope * (at++ - (n - 1) / 2));
            left += off * off;
        }
    }
    return fabs(slope) * (n - 1) > fmin(fmax(2 * sqrt(left / (n - 2)), grain), 2 * grain);
}

/* The block of the windows before t that is the baseline, or the one that is not complete. */
static struct drift_block block_of(const struct drift_series *s, int t, int metric)
{
    struct drift_block block = {.fell = -1};
    for (;;) {
        double sum = 0, squares = 0;
        block.count = 0;
        for (block.end = block.begin; block.end < t && block.count < (int)rule.windows;
             block.end++) {
            if (s->has[block.end]) {
                sum += s->mean[block.end], block.count++;
            }
        }
        block.mean = sum / block.count;
        for (int i = block.begin; i < block.end; i++) {
            squares += s->has[i] ? (s->mean[i] - block.mean) * (s->mean[i] - block.mean) : 0;
        }
        block.std = sqrt(squares / (block.count - 1));
        if (block.count < (int)rule.windows || !brute_slopes(s, &block, metric)) {
            return block;
        }
        while (block.fell < 0 || !s->has[block.fell]) {
            block.fell++;
        }
        block.begin = block.end;
    }
}

/* Sum over i = from .. to of side * (x_i - mean of what was before since `level`) / std -
 * tolerance.
 */
static double cumulated(const struct drift_series *s, int level, int from, int to, double std,
                        double side)
{
    double total = 0;
    for (int i = from; i <= to; i++) {
        double sum = 0;
        int n = 0;
        for (int j = level; j < i; j++) {
            if (s->has[j]) {
                sum += s->mean[j], n++;
            }
        }
        if (s->has[i]) {
            total += side * (s->mean[i] - sum / n) / std - rule.tolerance;
        }
    }
    return total;
}

/* Where the largest of all sums that end at t begins: the first window after the extreme of the
 * cumulative sum; -1 when it does not exceed the threshold. */
static int excursion(const struct drift_series *s, int level, int from, int t, double std,
                     double side)
{
    double most = 0;
    int begin = -1;
    for (int i = t; i >= from; i--) {
        double sum = cumulated(s, level, i, t, std, side);
        if (s->has[i] && sum > most) {
            most = sum, begin = i;
        }
    }
    return most > rule.threshold ? begin : -1;
}

/* The newest change at window t: every window is judged from the last restart on. */
static double change_of(const struct drift_series *s, const struct drift_block *baseline, int t)
{
    double change = baseline->fell < 0 ? NAN : 10.0 * baseline->fell;
    int first = baseline->end, level = baseline->begin;
    for (int i = first; i <= t && baseline->count == (int)rule.windows; i++) {
        int up = excursion(s, level, first, i, baseline->std, 1);
        int down = excursion(s, level, first, i, baseline->std, -1);
        if (up < 0 && down < 0) {
            continue;
        }
        change = 10.0 * (up >= 0 ? up : down);
        level = i;
        first = i + 1;
    }
    return change;
}

static int drift_by_key(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

static int count_key(const int32_t *keys, int n, int32_t key)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        count += keys[i] == key;
    }
    return count;
}

/* The divergence of two lists of keys. */
static double drift_js_of(int32_t *p, int np, int32_t *q, int nq)
{
    double js = 0;
    int32_t all[(5 + 1) * ROWS];
    memcpy(all, p, (size_t)np * sizeof *p);
    memcpy(all + np, q, (size_t)nq * sizeof *q);
    qsort(all, (size_t)(np + nq), sizeof *all, drift_by_key);
    for (int i = 0; i < np + nq; i++) {
        if (i > 0 && all[i] == all[i - 1]) {
            continue;
        }
        double a = count_key(p, np, all[i]) / (double)np;
        double b = count_key(q, nq, all[i]) / (double)nq, middle = (a + b) / 2;
        js += a > 0 ? a * log(a / middle) / 2 : 0;
        js += b > 0 ? b * log(b / middle) / 2 : 0;
    }
    return js;
}

/* The divergence of head h's rows in window t against those of its baseline. */
static double brute_js(const struct drift_sample *samples, const struct drift_block *baseline,
                       int t, int h)
{
    int32_t p[5 * ROWS], q[ROWS];
    int np = 0, nq = 0;
    for (int i = baseline->begin; i < baseline->end; i++) {
        for (int r = 0; r < ROWS; r++) {
            if (!isnan(samples[i].row[h][r])) {
                p[np++] = hist_key(samples[i].row[h][r]);
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        if (!isnan(samples[t].row[h][r])) {
            q[nq++] = hist_key(samples[t].row[h][r]);
        }
    }
    return nq > 0 ? drift_js_of(p, np, q, nq) : NAN;
}

static struct drift_series drift_series_of(const struct drift_sample *samples, int count, int h,
                                           bool rows)
{
    struct drift_series s = {.count = count};
    for (int t = 0; t < count; t++) {
        double sum = 0;
        for (int r = 0; r < ROWS; r++) {
            sum += samples[t].row[h][r] / ROWS;
        }
        s.mean[t] = rows ? sum : samples[t].message[h];
        s.has[t] = !isnan(s.mean[t]);
    }
    return s;
}

static void assert_brute_head(const struct result_drift *got, const struct drift_sample *samples,
                              int t, int h, int metric)
{
    bool rows = metric != METRIC_MEAN, uniform = metric == METRIC_ENTROPY_NORMALIZED;
    struct drift_series s = drift_series_of(samples, t + 1, h, rows);
    struct drift_block baseline = block_of(&s, t, metric), after = block_of(&s, t + 1, metric);
    bool learned = baseline.count == (int)rule.windows;
    double from = learned ? baseline.mean : NAN, std = learned ? baseline.std : 0;
    from = uniform && (!learned || baseline.fell >= 0) ? 1 : from;
    assert_true(got || isnan(from) || isnan(s.mean[t]));
    if (got) {
        assert_near(got[h].delta, s.mean[t] - from, 1e-12);
        assert_near(got[h].shift, (s.mean[t] - from) / fmax(std, brute_grain(metric, from)), 1e-9);
        assert_near(got[h].js, learned && rows ? brute_js(samples, &baseline, t, h) : NAN, 1e-12);
        assert_near(got[h].change, change_of(&s, &after, t), 0);
    }
}

static void assert_brute(const struct drift *drift, const struct drift_sample *samples, int t)
{
    for (int h = 0; h < HEADS; h++) {
        for (int m = 0; m < METRICS; m++) {
            assert_brute_head(drift_result(drift, test_metrics[m]), samples, t, h, test_metrics[m]);
        }
    }
}

/* Levels that slide and jump, heads that come late or are missing now and then. */
static void fill_samples(struct drift_sample *samples, int count, uint64_t seed)
{
    double level[HEADS] = {1, -2, 100};
    for (int t = 0; t < count; t++) {
        for (int h = 0; h < HEADS; h++) {
            level[h] += random_unit(&seed) < 0.05 ? 2 * drift_random_normal(&seed) : 0;
            level[h] += t < 5 * (int)(seed % 4) ? 0.25 : 0;
            for (int r = 0; r < ROWS; r++) {
                samples[t].row[h][r] = level[h] + drift_random_normal(&seed);
            }
            samples[t].message[h] = level[h] + drift_random_normal(&seed) / 4;
            if ((h == 1 && t < 7) || random_unit(&seed) < 0.1) {
                samples[t] = without_head(samples[t], h);
            }
        }
    }
}

TEST(every_number_is_that_of_brute_force)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    assert_non_null(samples);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        OWNED(drift_free) struct drift *drift = new_drift(&rule);
        fill_samples(samples, WINDOWS, seed);
        for (int t = 0; t < WINDOWS; t++) {
            drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
            assert_brute(drift, samples, t);
        }
    }
    free(samples);
}

TEST(limited_histograms_are_those_of_one_pass)
{
    struct drift_rule narrow = rule;
    narrow.buckets = 9;
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    assert_non_null(samples);
    OWNED(drift_free) struct drift *drift = new_drift(&narrow);
    fill_samples(samples, WINDOWS, 3);
    int compared = 0;
    for (int t = 0; t < 30; t++) {
        drift_give(drift, &samples[t], (uint64_t)t, true);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY);
        struct drift_series s = drift_series_of(samples, t + 1, 2, true);
        struct drift_block baseline = block_of(&s, t, METRIC_ENTROPY);
        OWNED(dist_clear) struct dist pooled = {0}, window = {0};
        for (int i = baseline.begin; got && !isnan(got[2].js) && i <= t; i++) {
            for (int r = 0; r < ROWS && (i < baseline.end || i == t); r++) {
                assert_int_equal(dist_add(i < t ? &pooled : &window, samples[i].row[2][r]), 0);
            }
        }
        if (window.moments.n > 0) {
            dist_limit(&pooled, narrow.buckets);
            assert_near(got[2].js, dist_js(&pooled, &window), 0);
            compared++;
        }
    }
    assert_in_range(compared, 10, 29);
    free(samples);
}

/* The baseline */

static const double around_ten[] = {11, 9, 10, 9, 11}; /* mean 10, std 1, no slope */

DRIFT_TEST(windows_of_the_baseline_have_no_drift)
{
    for (int i = 0; i < 5; i++) {
        give_all(drift, &around_ten[i], 1, i);
        assert_int_equal(learned_windows(drift), i + 1);
        assert_null(drift_result(drift, METRIC_ENTROPY));
    }
    give_flat(drift, 12, 60);
    assert_int_equal(learned_windows(drift), 5);
    assert_near(drift_result(drift, METRIC_MEAN)[0].delta, 2, 1e-15);
    assert_near(drift_result(drift, METRIC_MEAN)[0].shift, 2, 1e-15);
    assert_true(isnan(drift_result(drift, METRIC_MEAN)[0].js));
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].js, log(2), 1e-15);
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
    assert_near(drift_result(drift, METRIC_MEAN)[0].delta, 990, 1e-15);
    assert_true(isnan(drift_result(drift, METRIC_MEAN)[0].change));
    give_flat(drift, 10, 60);
    assert_near(drift_result(drift, METRIC_MEAN)[0].delta, 0, 0);
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
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].shift, 0, 0);
    for (uint64_t t = 2; t < 40; t++) {
        give_flat(drift, 2, t);
    }
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].delta, 1, 0);
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].shift, 20, 0); /* the resolution is 0.05 */
    assert_true(isnan(drift_result(drift, METRIC_ENTROPY)[0].change));
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
        assert_in_range(1e9 * fabs(drift_result(drift, METRIC_ENTROPY)[0].shift), 0, 3000);
        assert_true(isnan(drift_result(drift, METRIC_MEAN)[0].change));
        for (uint64_t t = 1000; t < 1010; t++) {
            give_flat(drift, level[i] + step, t);
        }
        assert_near(drift_result(drift, METRIC_ENTROPY)[0].shift, step / unit, 1e-5);
        assert_near(drift_result(drift, METRIC_MEAN)[0].change, 1000, 0);
    }
}

DRIFT_TEST(a_constant_series_never_changes)
{
    for (uint64_t t = 0; t < 2000; t++) {
        give_flat(drift, 0.1, t);
    }
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].delta, 0, 1e-15);
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].shift, 0, 0);
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].js, 0, 0);
    assert_true(isnan(drift_result(drift, METRIC_ENTROPY)[0].change));
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
    assert_near(drift_result(drift, METRIC_MEAN)[0].shift, -6, 1e-12);
    assert_near(drift_result(drift, METRIC_ENTROPY)[0].js, log(2), 1e-15);
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
    assert_near(drift_result(collapsed, METRIC_ENTROPY_NORMALIZED)[0].shift, -19.6, 1e-12);
    assert_near(drift_result(learnt, METRIC_ENTROPY_NORMALIZED)[0].shift, -8, 1e-12);
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
        double change = drift_result(drift, METRIC_MEAN)[0].change;
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
        assert_near(drift_result(drift, METRIC_MEAN)[0].change, 210, 0);
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
    assert_near(drift_result(drift, METRIC_MEAN)[0].change, 210, 0);
    assert_int_equal(windows_to_change(drift, 15, 21 + found, 100), -1);
    assert_near(drift_result(drift, METRIC_MEAN)[0].change, 210, 0);
    found = windows_to_change(drift, 8, 200, 20);
    assert_in_range(found, 1, 4);
    assert_near(drift_result(drift, METRIC_MEAN)[0].change, 2000, 0);
}

DRIFT_TEST(huge_values_neither_overflow_nor_stick)
{
    give_all(drift, around_ten, 5, 0);
    give_flat(drift, 1e300, 50); /* beyond what squares can hold: taken for none */
    assert_true(isnan(drift_result(drift, METRIC_MEAN)[0].delta));
    give_flat(drift, 1e140, 60);
    assert_near(drift_result(drift, METRIC_MEAN)[0].change, 60, 0);
    give_flat(drift, 10, 70);
    assert_near(drift_result(drift, METRIC_MEAN)[0].change, 70, 0);
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

/* Kept */

static void test_drift_pack(const struct drift *drift, struct mpk_writer *writer)
{
    mpk_writer_init(writer);
    assert_int_equal(drift_pack(drift, writer), 0);
}

static void assert_same_pack(const struct drift *drift, const struct mpk_writer *want)
{
    OWNED(mpk_writer_clear) struct mpk_writer got;
    test_drift_pack(drift, &got);
    assert_int_equal(got.buffer.size, want->buffer.size);
    assert_memory_equal(got.buffer.data, want->buffer.data, want->buffer.size);
}

/* Everything there is: heads that learn still, sums under way, changes. */
static struct drift *busy_drift(struct drift_sample *samples, int windows)
{
    struct drift *drift = new_drift(&rule);
    fill_samples(samples, WINDOWS, 7);
    for (int t = 0; t < windows; t++) {
        drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
    }
    return drift;
}

static void assert_same_results(const struct drift *a, const struct drift *b)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        assert_int_equal(!drift_result(a, m), !drift_result(b, m));
        if (drift_result(a, m)) {
            assert_memory_equal(drift_result(a, m), drift_result(b, m),
                                HEADS * sizeof(struct result_drift));
        }
    }
}

TEST(what_was_packed_goes_on_bit_for_bit)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    assert_non_null(samples);
    for (int windows = 0; windows < WINDOWS; windows += 3) {
        OWNED(drift_free) struct drift *drift = busy_drift(samples, windows), *back = NULL;
        OWNED(mpk_writer_clear) struct mpk_writer packed;
        test_drift_pack(drift, &packed);
        assert_int_equal(drift_unpack(&rule, packed.buffer.data, packed.buffer.size, &back), 0);
        assert_same_pack(back, &packed);
        drift_result_clear(drift);
        assert_int_equal(drift_bytes(back), drift_bytes(drift));
        for (int t = windows; t < WINDOWS; t++) {
            drift_give(drift, &samples[t], 10 * (uint64_t)t, true);
            drift_give(back, &samples[t], 10 * (uint64_t)t, true);
            assert_same_results(drift, back);
        }
    }
    free(samples);
}

TEST(what_was_said_of_the_newest_window_is_said_again)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    assert_non_null(samples);
    for (uint32_t windows = 1; windows <= 5; windows += 2) {
        struct drift_rule of = rule;
        of.windows = windows;
        OWNED(drift_free) struct drift *drift = new_drift(&of);
        fill_samples(samples, WINDOWS, 7);
        for (int t = 0; t < WINDOWS; t++) {
            struct layer_state *state = test_drift_state_of(&samples[t], KEYS);
            OWNED(drift_free) struct drift *back = NULL;
            OWNED(mpk_writer_clear) struct mpk_writer packed;
            assert_int_equal(drift_window(drift, state, 10 * (uint64_t)t, true), 0);
            test_drift_pack(drift, &packed);
            assert_int_equal(drift_unpack(&of, packed.buffer.data, packed.buffer.size, &back), 0);
            assert_int_equal(drift_window_again(back, state, 10 * (uint64_t)t), 0);
            assert_same_results(drift, back);
            layer_state_free(&state);
        }
    }
    free(samples);
}

/* One list of a cell in the layout of before: three heads. */
static void put_before(struct mpk_writer *writer, const char *name, double a, double b, double c)
{
    bool count = strstr(name, "count") != NULL;
    const double values[HEADS] = {a, b, c};
    mpk_put_str(writer, name);
    mpk_put_array(writer, HEADS);
    for (int h = 0; h < HEADS; h++) {
        if (count) {
            mpk_put_u64(writer, (uint64_t)values[h]);
        } else {
            mpk_put_f64(writer, values[h]);
        }
    }
}

/* A baseline of 5 windows at 2, one of 3 windows so far, and none; rows of 2 in all. */
static void pack_before(struct mpk_writer *writer)
{
    OWNED(packed_hists_clear) struct packed_hists hists = {0};
    struct hist empty = {0}, full = {0};
    hist_add(&full, 2);
    mpk_writer_init(writer);
    mpk_put_map(writer, 5);
    mpk_pair_u64(writer, "heads", HEADS);
    mpk_pair_u64(writer, "windows", 5);
    mpk_pair_bool(writer, "pinned", false);
    mpk_pair_u64(writer, "last", 90);
    mpk_put_str(writer, "metrics");
    mpk_put_map(writer, 1);
    mpk_put_str(writer, "entropy");
    mpk_put_map(writer, 11);
    put_before(writer, "count", 5, 3, 0);
    put_before(writer, "mean", 2, 2, 0);
    put_before(writer, "m2", 4, 1, 0);
    put_before(writer, "level_count", 8, 3, 0); /* a level from the first window on */
    put_before(writer, "level", 2.5, 2, 0);
    put_before(writer, "up", 0.5, 0, 0);
    put_before(writer, "up_since", 80, 0, 0);
    put_before(writer, "down", 0, 0, 0);
    put_before(writer, "down_since", 0, 0, 0);
    put_before(writer, "change", 70, NAN, NAN);
    for (int h = 0; h < HEADS; h++) {
        assert_int_equal(packed_hists_add(&hists, h < 2 ? &full : &empty), 0);
    }
    mpk_put_str(writer, "hists");
    mpk_put_bin(writer, hists.bytes, hists.size);
    hist_clear(&full);
}

TEST(a_checkpoint_of_before_keeps_what_was_learned)
{
    OWNED(mpk_writer_clear) struct mpk_writer before;
    OWNED(drift_free) struct drift *drift = NULL;
    pack_before(&before);
    assert_int_equal(drift_unpack(&rule, before.buffer.data, before.buffer.size, &drift), 0);
    assert_int_equal(learned_windows(drift), 5);
    for (int t = 10; t < 16; t++) {
        give_flat(drift, 3, 10 * (uint64_t)t);
        const struct result_drift *got = drift_result(drift, METRIC_ENTROPY);
        assert_near(got[0].delta, 1, 0);
        assert_near(got[0].shift, 1, 0); /* std 1 */
        assert_near(got[0].change, 70, 0);
        assert_near(got[0].js, log(2), 1e-15);
        for (int h = 1; h < HEADS; h++) { /* begun over, without the rows of before */
            assert_near(got[h].delta, t < 15 ? NAN : 0, 0);
            assert_near(got[h].js, t < 15 ? NAN : 0, 0);
        }
    }
}

/* Exactly as long as it is, so that ASan sees a byte read beyond. */
static int unpack_copy(const char *data, size_t size, struct drift **ret_drift)
{
    char *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    int code = drift_unpack(&rule, copy, size, ret_drift);
    free(copy);
    return code;
}

TEST(hostile_bytes_are_refused_or_harmless)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    OWNED(mpk_writer_clear) struct mpk_writer packed;
    assert_non_null(samples);
    struct drift *drift = busy_drift(samples, 9), *back = NULL;
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(&samples[10], KEYS);
    test_drift_pack(drift, &packed);
    for (size_t size = 0; size < packed.buffer.size; size++) {
        assert_int_equal(unpack_copy(packed.buffer.data, size, &back), ERR_STORE_FORMAT);
    }
    uint64_t seed = 1;
    for (int i = 0; i < 4000; i++) {
        size_t at = (size_t)(random_unit(&seed) * (double)packed.buffer.size);
        char was = packed.buffer.data[at];
        packed.buffer.data[at] = (char)(unsigned char)(random_unit(&seed) * 256);
        int code = unpack_copy(packed.buffer.data, packed.buffer.size, &back);
        assert_true(code == 0 || code == ERR_STORE_FORMAT);
        if (code == 0) {
            assert_int_equal(drift_window(back, state, 1000, true), 0);
        }
        if (code == 0) {
            drift_free(&back);
        }
        packed.buffer.data[at] = was;
    }
    drift_free(&drift);
    free(samples);
}

TEST(bytes_that_are_no_drift_are_refused)
{
    static const char *const documents[] = {"\xc0", "\x80", "\x01", "\x81\xa5heads\x03"};
    struct drift *drift = NULL;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        assert_int_equal(unpack_copy(documents[i], strlen(documents[i]), &drift), ERR_STORE_FORMAT);
    }
    assert_null(drift);
}

/* Out of memory */

TEST(a_window_without_memory_has_no_effect)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    struct mpk_writer before;
    assert_non_null(samples);
    static const int windows[] = {0, 3, 9, 20};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        struct drift *drift = busy_drift(samples, windows[w]);
        struct layer_state *state = test_drift_state_of(&samples[windows[w]], KEYS);
        test_drift_pack(drift, &before);
        unsigned nth = 1;
        for (;; nth++) {
            heap_fail_at(nth);
            int code = drift_window(drift, state, 10 * (uint64_t)windows[w], true);
            bool failed = heap_has_failed();
            heap_fail_at(0);
            if (code == 0) {
                break;
            }
            assert_true(failed);
            assert_int_equal(code, ERR_MEMORY);
            assert_same_pack(drift, &before);
        }
        assert_true(nth > 2);
        mpk_writer_clear(&before);
        layer_state_free(&state);
        drift_free(&drift);
    }
    free(samples);
}

DRIFT_TEST(pinning_without_memory_has_no_effect)
{
    struct drift_sample sample = flat(3);
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(&sample, KEYS);
    const struct layer_state *states[] = {state, state};
    OWNED(mpk_writer_clear) struct mpk_writer before;
    give_all(drift, around_ten, 5, 0);
    test_drift_pack(drift, &before);
    int code = ERR_MEMORY;
    for (unsigned nth = 1; code != 0; nth++) {
        heap_fail_at(nth);
        code = drift_pin(drift, states, 2);
        heap_fail_at(0);
        if (code != 0) {
            assert_same_pack(drift, &before);
        }
    }
}

TEST(packing_and_unpacking_survive_a_lack_of_memory)
{
    struct drift_sample *samples = malloc(WINDOWS * sizeof *samples);
    OWNED(mpk_writer_clear) struct mpk_writer packed, broken;
    assert_non_null(samples);
    OWNED(drift_free) struct drift *drift = busy_drift(samples, 9), *back = NULL;
    test_drift_pack(drift, &packed);
    int code = ERR_MEMORY;
    for (unsigned nth = 1; code != 0; nth++) {
        heap_fail_at(nth);
        code = drift_unpack(&rule, packed.buffer.data, packed.buffer.size, &back);
        heap_fail_at(0);
        assert_true(code == 0 || code == ERR_MEMORY);
    }
    mpk_writer_init(&broken);
    heap_fail_at(1);
    assert_int_equal(drift_pack(drift, &broken), ERR_MEMORY);
    heap_fail_at(0);
    free(samples);
}
