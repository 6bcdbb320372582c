/* SPDX-License-Identifier: MIT */
/* pattern: names the behaviour of a head, by thresholds on its numbers (KERNELS.md). */
#ifndef WORKERS_ROWS_PATTERN_H
#define WORKERS_ROWS_PATTERN_H

#include "proto/metric.h"

/* `value` holds one head's numbers; NaN = does not exist. */
enum pattern pattern_of(const double value[METRIC_COUNT]);
/* Share of the heads whose first_token exceeds 0.3, among those that have one; NaN without. */
double pattern_sink_rate(const double *first_token, uint32_t heads);

#endif
