/* SPDX-License-Identifier: MIT */
/* chart_scale: which numbers a chart's axes go from and to. Pure. */
#ifndef CLIENTS_CLI_PLOT_CHART_SCALE_H
#define CLIENTS_CLI_PLOT_CHART_SCALE_H

#include "clients/cli/plot/chart.h"

/* Returns 0, or CHART_NO_NUMBER. */
int chart_scales(const struct chart *chart, struct axis_scale *ret_x, struct axis_scale *ret_y);

#endif
