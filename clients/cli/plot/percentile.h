/* SPDX-License-Identifier: MIT */
/* percentile: of the numbers of several heads. Pure; any thread. */
#ifndef CLIENTS_CLI_PLOT_PERCENTILE_H
#define CLIENTS_CLI_PLOT_PERCENTILE_H

#include <stddef.h>

/* In ascending order; none is NaN. */
void percentile_sort(double *values, size_t count);
/* Between the two nearest, in proportion; `share` 0.5 is the median. NaN of nothing. */
double percentile(const double *sorted, size_t count, double share);

#endif
