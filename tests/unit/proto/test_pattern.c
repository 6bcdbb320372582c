/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "proto/pattern.h"

struct set {
    enum metric metric;
    double value;
};

/* The name by these numbers; all others do not exist. */
static enum pattern name_of(const struct set *set, size_t count)
{
    double value[METRIC_COUNT];
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = NAN;
    }
    for (size_t i = 0; i < count; i++) {
        value[set[i].metric] = set[i].value;
    }
    return pattern_of(value);
}

#define NAME_OF(...)                                                                               \
    name_of((const struct set[]){__VA_ARGS__},                                                     \
            sizeof((const struct set[]){__VA_ARGS__}) / sizeof(struct set))
#define ENTROPY                                                                                    \
    {                                                                                              \
        METRIC_ENTROPY, 1                                                                          \
    }

TEST(without_a_sound_row_there_is_none)
{
    assert_int_equal(NAME_OF({METRIC_DIAGONAL, 1}), PATTERN_NONE);
    assert_null(pattern_name[PATTERN_NONE]);
}

TEST(uniform_comes_first)
{
    assert_int_equal(NAME_OF(ENTROPY, {METRIC_ENTROPY_NORMALIZED, 0.95}, {METRIC_INDUCTION, 1}),
                     PATTERN_UNIFORM);
    assert_int_equal(NAME_OF(ENTROPY, {METRIC_ENTROPY_NORMALIZED, 0.94}, {METRIC_INDUCTION, 1}),
                     PATTERN_INDUCTION);
}

TEST(every_focus_has_its_name)
{
    const struct {
        enum metric metric;
        enum pattern pattern;
    } want[] = {
        {METRIC_PREVIOUS_TOKEN, PATTERN_PREVIOUS_TOKEN},
        {METRIC_NEXT_TOKEN, PATTERN_NEXT_TOKEN},
        {METRIC_DIAGONAL, PATTERN_DIAGONAL},
        {METRIC_FIRST_TOKEN, PATTERN_FIRST_TOKEN},
        {METRIC_INDUCTION, PATTERN_INDUCTION},
        {METRIC_DUPLICATE_TOKEN, PATTERN_DUPLICATE_TOKEN},
    };
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(NAME_OF(ENTROPY, {want[k].metric, 0.5}), want[k].pattern);
        assert_int_equal(NAME_OF(ENTROPY, {want[k].metric, 0.499}), PATTERN_MIXED);
        for (size_t other = 0; other < 6; other++) { /* in a tie the first, else the largest */
            size_t first = k < other ? k : other;
            assert_int_equal(NAME_OF(ENTROPY, {want[k].metric, 0.6}, {want[other].metric, 0.6}),
                             want[first].pattern);
            if (other != k) {
                assert_int_equal(NAME_OF(ENTROPY, {want[k].metric, 0.7}, {want[other].metric, 0.6}),
                                 want[k].pattern);
            }
        }
    }
}

TEST(distance_names_the_rest)
{
    const struct {
        double local_mass, distance;
        enum pattern pattern;
    } want[] = {
        {0.75, 0.25, PATTERN_LOCAL}, {0.74, 0.25, PATTERN_MIXED},    {0.75, 0.26, PATTERN_MIXED},
        {0.1, 0.5, PATTERN_MIXED},   {0.1, 0.6, PATTERN_LONG_RANGE}, {1, 0.6, PATTERN_LONG_RANGE},
        {1, NAN, PATTERN_MIXED},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_int_equal(NAME_OF(ENTROPY, {METRIC_LOCAL_MASS, want[i].local_mass},
                                 {METRIC_MEAN_DISTANCE_NORMALIZED, want[i].distance}),
                         want[i].pattern);
    }
}

TEST(the_evidence_of_a_pattern_is_what_decides)
{
    uint32_t read = 0;
    for (enum metric m = 0; m < METRIC_COUNT; m++) {
        read += pattern_reads(m) ? 1 : 0;
    }
    assert_int_equal(read, 10);
    assert_true(pattern_reads(METRIC_ENTROPY) && !pattern_reads(METRIC_CONFIDENCE));
    for (enum pattern pattern = 0; pattern < PATTERN_COUNT; pattern++) {
        struct pattern_condition all[PATTERN_CONDITIONS_MAX] = {{.bound = NAN}, {.bound = NAN}};
        bool named = pattern != PATTERN_MIXED && pattern != PATTERN_NONE;
        assert_int_equal(pattern_conditions(pattern, all), named + (pattern == PATTERN_LOCAL));
        if (named) { /* just so it has the name; a bit off it has not */
            struct set set[] = {ENTROPY, {all[0].metric, all[0].bound}, {METRIC_MEAN_DISTANCE, 1}};
            if (pattern == PATTERN_LOCAL) {
                set[2] = (struct set){all[1].metric, all[1].bound};
            }
            assert_int_equal(name_of(set, 3), pattern);
            set[1].value -= 0.01;
            assert_int_equal(name_of(set, 3), PATTERN_MIXED);
        }
    }
}

TEST(sink_rate_counts_heads_that_have_the_number)
{
    const double first_token[] = {0.3, 0.31, NAN, 1, 0};
    assert_true(pattern_sink_rate(first_token, 5) == 0.5);
    assert_true(pattern_sink_rate(first_token, 1) == 0);
    assert_nan(pattern_sink_rate(first_token + 2, 1));
}
