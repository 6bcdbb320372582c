/* SPDX-License-Identifier: MIT */
/* pattern: a list of questions, in order; the first yes is the name.
 *
 * The thresholds are conventions, written down in KERNELS.md with their reasons. A comparison with
 * a number that does not exist (NaN) is false, so a missing number never decides anything. */
#include "workers/rows/pattern.h"

#include <math.h>
#include <stddef.h>

#define UNIFORM_ENTROPY     0.95
#define FOCUS_WEIGHT        0.5
#define LOCAL_WEIGHT        0.75
#define LOCAL_DISTANCE      0.25
#define LONG_RANGE_DISTANCE 0.6
#define SINK_WEIGHT         0.3

/* The largest of the weights on one kind of key, if it is most of the weight; ties to the earlier,
 * which is the simpler explanation. */
static enum pattern focus_of(const double value[METRIC_COUNT])
{
    static const struct {
        enum metric metric;
        enum pattern pattern;
    } kinds[] = {
        {METRIC_PREVIOUS_TOKEN, PATTERN_PREVIOUS_TOKEN},
        {METRIC_NEXT_TOKEN, PATTERN_NEXT_TOKEN},
        {METRIC_DIAGONAL, PATTERN_DIAGONAL},
        {METRIC_FIRST_TOKEN, PATTERN_FIRST_TOKEN},
        {METRIC_INDUCTION, PATTERN_INDUCTION},
        {METRIC_DUPLICATE_TOKEN, PATTERN_DUPLICATE_TOKEN},
    };
    enum pattern found = PATTERN_NONE;
    double largest = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        double weight = value[kinds[k].metric];
        if (weight >= FOCUS_WEIGHT && weight > largest) {
            largest = weight;
            found = kinds[k].pattern;
        }
    }
    return found;
}

/* The pattern by range of a head that is neither uniform nor focused. */
static enum pattern pattern_range_of(double local_mass, double distance)
{
    if (local_mass >= LOCAL_WEIGHT && distance <= LOCAL_DISTANCE) {
        return PATTERN_LOCAL;
    }
    return distance >= LONG_RANGE_DISTANCE ? PATTERN_LONG_RANGE : PATTERN_MIXED;
}

enum pattern pattern_of(const double value[METRIC_COUNT])
{
    if (isnan(value[METRIC_ENTROPY])) {
        return PATTERN_NONE;
    }
    if (value[METRIC_ENTROPY_NORMALIZED] >= UNIFORM_ENTROPY) {
        return PATTERN_UNIFORM;
    }
    enum pattern focus = focus_of(value);
    return focus != PATTERN_NONE
               ? focus
               : pattern_range_of(value[METRIC_LOCAL_MASS], value[METRIC_MEAN_DISTANCE_NORMALIZED]);
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
