/* SPDX-License-Identifier: MIT */
/* statistics: the plain statistics of attention maps: mean, std, min, max over all entries as sent,
 * masked ones included. */
#ifndef CLIENTS_CLI_ANALYZE_STATISTICS_H
#define CLIENTS_CLI_ANALYZE_STATISTICS_H

#include "clients/cli/analyze/input.h"

#include "workers/stats/dist.h"

/* Entries that are not finite are left out. Accurate to about 1e-15 of the largest entry: within a
 * row in two passes, rows merged (Chan, Golub and LeVeque 1983), all in f64. Returns 0 or
 * ERR_MEMORY. */
int statistics_measure(const struct attention *a, struct moments *ret_entries);

/* Prints {"encoder": [{"layer", "type", "mean", "std", "min", "max", "shape"}], "decoder": [...]};
 * entries[i] belongs to inputs->items[i]. A missing number is null. */
void statistics_print(const struct inputs *inputs, const struct moments *entries, FILE *out);

#endif
