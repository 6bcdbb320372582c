/* SPDX-License-Identifier: MIT */
#include "proto/metric.h"

#include <math.h>
#include <string.h>

#define GRAIN_SHARE 0.05

const struct metric_info metric_info[METRIC_COUNT] = {
#define METRIC(symbol, name, kind, group, unit, minimum, maximum, worse, resolution, description)  \
    {name,    METRIC_KIND_##kind,   METRIC_GROUP_##group, unit,       minimum,                     \
     maximum, METRIC_WORSE_##worse, resolution,           description},
#include "proto/metric.def"
#undef METRIC
};

unsigned metric_find(const char *name)
{
    unsigned metric = 0;
    while (metric < METRIC_COUNT && strcmp(name, metric_info[metric].name) != 0) {
        metric++;
    }
    return metric;
}

double metric_grain(enum metric metric, double around)
{
    const struct metric_info *info = &metric_info[metric];
    double range = info->maximum - info->minimum;
    return fmax(info->resolution, GRAIN_SHARE * (isfinite(range) ? range : fabs(around)));
}

bool metric_in_spectrum(unsigned metric)
{
    return metric_info[metric].group == METRIC_GROUP_SPECTRUM &&
           metric_info[metric].kind != METRIC_KIND_MATRIX;
}

const struct vector_info vector_info[VECTOR_COUNT] = {
    [VECTOR_SINGULAR_VALUES] = {"singular_values", SINGULAR_VALUES_MAX, 0, true},
    [VECTOR_LOW_RANK_ERROR] = {"low_rank_error", LOW_RANK_COUNT, SINGULAR_VALUES_MAX, false},
    [VECTOR_QK_SINGULAR_VALUES] = {"qk_singular_values", SINGULAR_VALUES_MAX,
                                   SINGULAR_VALUES_MAX + LOW_RANK_COUNT, true},
};

const uint32_t low_rank[LOW_RANK_COUNT] = {1, 2, 4, 8, 16};

const char *const pattern_name[PATTERN_COUNT] = {
    [PATTERN_PREVIOUS_TOKEN] = "previous_token",
    [PATTERN_NEXT_TOKEN] = "next_token",
    [PATTERN_DIAGONAL] = "diagonal",
    [PATTERN_FIRST_TOKEN] = "first_token",
    [PATTERN_LOCAL] = "local",
    [PATTERN_UNIFORM] = "uniform",
    [PATTERN_LONG_RANGE] = "long_range",
    [PATTERN_INDUCTION] = "induction",
    [PATTERN_DUPLICATE_TOKEN] = "duplicate_token",
    [PATTERN_MIXED] = "mixed",
};

const char *const aggregate_name[AGGREGATE_COUNT] = {
    [AGGREGATE_SUM] = "sum",
    [AGGREGATE_MEAN] = "mean",
    [AGGREGATE_MAX] = "max",
    [AGGREGATE_WEIGHTED] = "weighted",
    [AGGREGATE_IMPORTANCE] = "importance",
};

const char *const map_stat_name[MAP_STAT_COUNT] = {
    [MAP_MEAN] = "mean",
    [MAP_MAX] = "max",
    [MAP_MIN] = "min",
    [MAP_STD] = "std",
};

const char *const projection_name[PROJECTION_COUNT] = {
    [PROJECTION_Q] = "wq",
    [PROJECTION_K] = "wk",
    [PROJECTION_V] = "wv",
    [PROJECTION_O] = "wo",
};

const char *const circuit_name[CIRCUIT_COUNT] = {
    [CIRCUIT_QK] = "wq_wk",
    [CIRCUIT_OV] = "wv_wo",
};
