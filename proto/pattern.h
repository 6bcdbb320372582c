/* SPDX-License-Identifier: MIT */
/* pattern: names the behaviour of a head, by thresholds on its numbers (KERNELS.md). Pure. */
#ifndef PROTO_PATTERN_H
#define PROTO_PATTERN_H

#include "proto/metric.h"

/* One of the conditions of a pattern: `metric` is at least, or at most, `bound`. */
struct pattern_condition {
    enum metric metric;
    double bound; /* > 0 */
    bool at_most;
};
#define PATTERN_CONDITIONS_MAX 2

/* `value` holds one head's numbers; NaN = does not exist. */
enum pattern pattern_of(const double value[METRIC_COUNT]);
/* All that a head of this pattern fulfils, which is the evidence for it; returns how many. Those
 * of `mixed` and of no pattern are none. */
uint32_t pattern_conditions(enum pattern pattern,
                            struct pattern_condition ret_conditions[PATTERN_CONDITIONS_MAX]);
/* Whether pattern_of looks at this number. */
bool pattern_reads(enum metric metric);

/* Share of the heads whose first_token exceeds 0.3, among those that have one; NaN without. */
double pattern_sink_rate(const double *first_token, uint32_t heads);

#endif
