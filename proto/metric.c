/* SPDX-License-Identifier: MIT */
#include "metric.h"

const struct metric_info metric_info[METRIC_COUNT] = {
#define METRIC(symbol, name, kind, group, unit)                                                    \
    {name, METRIC_KIND_##kind, METRIC_GROUP_##group, unit},
#include "metric.def"
#undef METRIC
};

const char *const aggregate_name[AGGREGATE_COUNT] = {
    [AGGREGATE_SUM] = "sum",
    [AGGREGATE_MEAN] = "mean",
    [AGGREGATE_MAX] = "max",
};

const char *const map_stat_name[MAP_STAT_COUNT] = {
    [MAP_MEAN] = "mean",
    [MAP_MAX] = "max",
    [MAP_MIN] = "min",
    [MAP_STD] = "std",
};
