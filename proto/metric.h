/* SPDX-License-Identifier: MIT */
/* metric: the names, kinds and groups of everything attnd measures. Constants only; any thread. */
#ifndef PROTO_METRIC_H
#define PROTO_METRIC_H

#include <stdint.h>

enum metric {
#define METRIC(symbol, name, kind, group, unit) METRIC_##symbol,
#include "metric.def"
#undef METRIC
    METRIC_COUNT
};

/* The first METRIC_ROW_COUNT metrics have one value per attention row. */
#define METRIC_ROW_COUNT METRIC_MEAN

enum metric_kind { METRIC_KIND_ROW, METRIC_KIND_MESSAGE };

enum metric_group {
    METRIC_GROUP_CORE,       /* entropy, distances, moments */
    METRIC_GROUP_IMPORTANCE, /* the variance + entropy score */
    METRIC_GROUP_PAIRS,      /* top_pairs; has no per-head metric */
    METRIC_GROUP_SPECTRUM,   /* singular values and what follows from them */
    METRIC_GROUP_COUNT
};

struct metric_info {
    const char *name;
    enum metric_kind kind;
    enum metric_group group;
    const char *unit;
};

extern const struct metric_info metric_info[METRIC_COUNT];

/* The across-head maps and the statistics kept of each. */
enum aggregate { AGGREGATE_SUM, AGGREGATE_MEAN, AGGREGATE_MAX, AGGREGATE_COUNT };
enum map_stat { MAP_MEAN, MAP_MAX, MAP_MIN, MAP_STD, MAP_STAT_COUNT };
extern const char *const aggregate_name[AGGREGATE_COUNT];
extern const char *const map_stat_name[MAP_STAT_COUNT];

/* Leading singular values that are published. */
#define SINGULAR_VALUES_MAX 16
/* Upper bound of `metrics.top_pairs`. */
#define TOP_PAIRS_MAX 100

/* One entry of an attention map. */
struct pair {
    uint32_t query, key;
    double weight;
};

#endif
