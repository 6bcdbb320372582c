/* SPDX-License-Identifier: MIT */
/* pattern: a list of questions, in order; the first yes is the name.
 *
 * The thresholds are conventions, written down in KERNELS.md with their reasons. A comparison with
 * a number that does not exist (NaN) is false, so a missing number never decides anything. */
#include "proto/pattern.h"

#include <math.h>
#include <stddef.h>

#define FOCUS_WEIGHT 0.5
#define SINK_WEIGHT  0.3

/* A bound of 0 ends the list. */
static const struct pattern_condition conditions[PATTERN_COUNT][PATTERN_CONDITIONS_MAX] = {
    [PATTERN_UNIFORM] = {{METRIC_ENTROPY_NORMALIZED, 0.95, false}},
    [PATTERN_PREVIOUS_TOKEN] = {{METRIC_PREVIOUS_TOKEN, FOCUS_WEIGHT, false}},
    [PATTERN_NEXT_TOKEN] = {{METRIC_NEXT_TOKEN, FOCUS_WEIGHT, false}},
    [PATTERN_DIAGONAL] = {{METRIC_DIAGONAL, FOCUS_WEIGHT, false}},
    [PATTERN_FIRST_TOKEN] = {{METRIC_FIRST_TOKEN, FOCUS_WEIGHT, false}},
    [PATTERN_INDUCTION] = {{METRIC_INDUCTION, FOCUS_WEIGHT, false}},
    [PATTERN_DUPLICATE_TOKEN] = {{METRIC_DUPLICATE_TOKEN, FOCUS_WEIGHT, false}},
    [PATTERN_LOCAL] = {{METRIC_LOCAL_MASS, 0.75, false},
                       {METRIC_MEAN_DISTANCE_NORMALIZED, 0.25, true}},
    [PATTERN_LONG_RANGE] = {{METRIC_MEAN_DISTANCE_NORMALIZED, 0.6, false}},
};

uint32_t pattern_conditions(enum pattern pattern,
                            struct pattern_condition ret_conditions[PATTERN_CONDITIONS_MAX])
{
    uint32_t count = 0;
    while (count < PATTERN_CONDITIONS_MAX && conditions[pattern][count].bound > 0) {
        ret_conditions[count] = conditions[pattern][count];
        count++;
    }
    return count;
}

bool pattern_reads(enum metric metric)
{
    bool reads = metric == METRIC_ENTROPY;
    for (int pattern = 0; pattern < PATTERN_COUNT && !reads; pattern++) {
        for (int i = 0; i < PATTERN_CONDITIONS_MAX; i++) {
            const struct pattern_condition *one = &conditions[pattern][i];
            reads = reads || (one->bound > 0 && one->metric == metric);
        }
    }
    return reads;
}

static bool pattern_holds(enum pattern pattern, const double value[METRIC_COUNT])
{
    struct pattern_condition all[PATTERN_CONDITIONS_MAX];
    uint32_t count = pattern_conditions(pattern, all);
    bool holds = true;
    for (uint32_t i = 0; i < count; i++) {
        double number = value[all[i].metric];
        holds = holds && (all[i].at_most ? number <= all[i].bound : number >= all[i].bound);
    }
    return holds;
}

enum pattern pattern_of(const double value[METRIC_COUNT])
{
    if (isnan(value[METRIC_ENTROPY])) {
        return PATTERN_NONE;
    }
    if (pattern_holds(PATTERN_UNIFORM, value)) {
        return PATTERN_UNIFORM;
    }
    /* The largest of the weights on one kind of key, if it is most of the weight; ties to the
     * earlier, which is the simpler explanation. */
    static const enum pattern kinds[] = {PATTERN_PREVIOUS_TOKEN, PATTERN_NEXT_TOKEN,
                                         PATTERN_DIAGONAL,       PATTERN_FIRST_TOKEN,
                                         PATTERN_INDUCTION,      PATTERN_DUPLICATE_TOKEN};
    enum pattern found = PATTERN_NONE;
    double largest = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        double weight = value[conditions[kinds[k]][0].metric];
        if (pattern_holds(kinds[k], value) && weight > largest) {
            largest = weight;
            found = kinds[k];
        }
    }
    if (found != PATTERN_NONE) {
        return found;
    }
    return pattern_holds(PATTERN_LOCAL, value)        ? PATTERN_LOCAL
           : pattern_holds(PATTERN_LONG_RANGE, value) ? PATTERN_LONG_RANGE
                                                      : PATTERN_MIXED;
}

double pattern_sink_rate(const double *first_token, uint32_t heads)
{
    uint32_t sinks = 0, known = 0;
    for (uint32_t h = 0; h < heads; h++) {
        sinks += first_token[h] > SINK_WEIGHT;
        known += isnan(first_token[h]) ? 0 : 1;
    }
    return known > 0 ? (double)sinks / known : NAN;
}
