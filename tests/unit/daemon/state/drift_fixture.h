/* SPDX-License-Identifier: MIT */
/* drift_fixture: a drift of three heads, and windows to give it. */
#ifndef TESTS_UNIT_DAEMON_STATE_DRIFT_FIXTURE_H
#define TESTS_UNIT_DAEMON_STATE_DRIFT_FIXTURE_H

#include "tests/unit/unit.h"

#include "daemon/state/drift.h"
#include "tests/unit/daemon/state/learned.h"

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
static inline double drift_random_normal(uint64_t *seed)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        sum += random_unit(seed);
    }
    return sum;
}

static inline struct layer_state *test_drift_state_of(const struct drift_sample *sample,
                                                      uint32_t buckets)
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
static inline struct drift_sample flat(double value)
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

static inline struct drift_sample without_head(struct drift_sample sample, int head)
{
    for (int r = 0; r < ROWS; r++) {
        sample.row[head][r] = NAN;
    }
    sample.message[head] = NAN;
    return sample;
}

static inline struct drift *new_drift(const struct drift_rule *of)
{
    struct drift *drift = drift_new(of, HEADS);
    assert_non_null(drift);
    return drift;
}

static inline int drift_set_up(void **state)
{
    *state = new_drift(&rule);
    return 0;
}

static inline int drift_tear_down(void **state)
{
    struct drift *drift = *state;
    drift_free(&drift);
    return 0;
}

#define DRIFT_TEST(name) TEST_OF(name, struct drift *drift, drift_set_up, drift_tear_down)

static inline void drift_give(struct drift *drift, const struct drift_sample *sample, uint64_t last,
                              bool learn)
{
    OWNED(layer_state_free) struct layer_state *state = test_drift_state_of(sample, KEYS);
    assert_int_equal(drift_window(drift, state, last, learn), 0);
}

static inline void give_flat(struct drift *drift, double value, uint64_t last)
{
    struct drift_sample sample = flat(value);
    drift_give(drift, &sample, last, true);
}

/* Values, one after the other; the units are 10, 20, 30, ... */
static inline void give_all(struct drift *drift, const double *values, int count, int first)
{
    for (int i = 0; i < count; i++) {
        give_flat(drift, values[i], 10 * (uint64_t)(first + i));
    }
}

/* The numbers of head 0 in the newest window. */
static inline struct result_drift newest(const struct drift *drift, int metric)
{
    assert_non_null(drift_result(drift, metric));
    return drift_result(drift, metric)[0];
}

static inline void assert_near(double got, double want, double tolerance)
{
    assert_close_or_nan(got, want, tolerance * fmax(1, fabs(want)));
}

/* Levels that slide and jump, heads that come late or are missing now and then. */
static struct drift_sample samples[WINDOWS];

static inline void fill_samples(uint64_t seed)
{
    double level[HEADS] = {1, -2, 100};
    for (int t = 0; t < WINDOWS; t++) {
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

static const double around_ten[] = {11, 9, 10, 9, 11}; /* mean 10, std 1, no slope */

#endif
