/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/percentile.h"

#include <math.h>
#include <stdlib.h>

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

void percentile_sort(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare_doubles);
}

double percentile(const double *sorted, size_t count, double share)
{
    if (count == 0)
        return NAN;
    double place = share * (double)(count - 1);
    size_t below = (size_t)floor(place), above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}
