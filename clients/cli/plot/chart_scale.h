/* SPDX-License-Identifier: MIT */
/* chart_scale: which numbers a chart's axes go from and to. Pure. */
#ifndef PLOT_CHART_SCALE_H
#define PLOT_CHART_SCALE_H

#include "chart.h"

/* Returns 0, or CHART_NO_NUMBER. */
int chart_scales(const struct chart *chart, struct axis_scale *ret_x, struct axis_scale *ret_y);

#endif
