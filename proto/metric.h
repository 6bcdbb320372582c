/* SPDX-License-Identifier: MIT */
/* metric: the names, kinds and groups of everything attnd measures, and the plain structs its
 * numbers travel in between folders. Constants and data only; any thread. */
#ifndef PROTO_METRIC_H
#define PROTO_METRIC_H

#include <stdbool.h>
#include <stdint.h>

enum metric {
#define METRIC(symbol, name, kind, group, unit, minimum, maximum, worse, resolution, description)  \
    METRIC_##symbol,
#include "proto/metric.def"
#undef METRIC
    METRIC_COUNT
};

/* The first METRIC_ROW_COUNT metrics have one value per attention row. */
#define METRIC_ROW_COUNT METRIC_MEAN
/* The metrics from METRIC_MATRIX_FIRST on have one value per message of tier weights. */
#define METRIC_MATRIX_FIRST METRIC_WQ_WK_SPECTRAL_NORM
#define METRIC_MATRIX_COUNT (METRIC_COUNT - METRIC_MATRIX_FIRST)

enum metric_kind { METRIC_KIND_ROW, METRIC_KIND_MESSAGE, METRIC_KIND_MATRIX };

enum metric_group {
    METRIC_GROUP_CORE,       /* entropy, distances, moments */
    METRIC_GROUP_IMPORTANCE, /* the variance + entropy score */
    METRIC_GROUP_PAIRS,      /* top_pairs; has no per-head metric */
    METRIC_GROUP_SIMILARITY, /* how alike heads are; has no per-head metric */
    METRIC_GROUP_SPECTRUM,   /* singular values and what follows from them */
    METRIC_GROUP_COUNT
};

enum metric_worse { METRIC_WORSE_LOW, METRIC_WORSE_HIGH, METRIC_WORSE_BOTH, METRIC_WORSE_NEITHER };

struct metric_info {
    const char *name;
    enum metric_kind kind;
    enum metric_group group;
    const char *unit;
    double minimum, maximum; /* infinite where it has no end */
    enum metric_worse worse;
    double resolution; /* the smallest difference that says anything */
    const char *description;
};

extern const struct metric_info metric_info[METRIC_COUNT];

/* The metric of this name; METRIC_COUNT: there is none. */
unsigned metric_find(const char *name);

/* The least difference from a value `around` that counts: the resolution or, when it is more, 5 %
 * of the natural range, or of `around` where the range has no end. */
double metric_grain(enum metric metric, double around);

/* Whether a metric is listed under `spectrum`; all others are under `heads`. */
bool metric_in_spectrum(unsigned metric);

/* Lists of numbers that a head has, under `spectrum`. */
enum vector {
    VECTOR_SINGULAR_VALUES,    /* the largest, descending */
    VECTOR_LOW_RANK_ERROR,     /* of the best rank-k map, k = low_rank[] */
    VECTOR_QK_SINGULAR_VALUES, /* of Q K^T */
    VECTOR_COUNT
};
/* Leading singular values that are published. */
#define SINGULAR_VALUES_MAX 16
#define LOW_RANK_COUNT      5
/* The width of all vectors of a head, side by side. */
#define VECTORS_WIDTH (2 * SINGULAR_VALUES_MAX + LOW_RANK_COUNT)

struct vector_info {
    const char *name;
    uint32_t width, offset; /* of the first number among the VECTORS_WIDTH */
    bool ends;              /* a result's list ends with the last number that exists */
};

extern const struct vector_info vector_info[VECTOR_COUNT];
/* 1, 2, 4, 8, 16: the ranks of VECTOR_LOW_RANK_ERROR. */
extern const uint32_t low_rank[LOW_RANK_COUNT];

/* The behaviour of a head, judged by its numbers: see KERNELS.md, patterns. */
enum pattern {
    PATTERN_PREVIOUS_TOKEN,
    PATTERN_NEXT_TOKEN,
    PATTERN_DIAGONAL,
    PATTERN_FIRST_TOKEN,
    PATTERN_LOCAL,
    PATTERN_UNIFORM,
    PATTERN_LONG_RANGE,
    PATTERN_INDUCTION,
    PATTERN_DUPLICATE_TOKEN,
    PATTERN_MIXED,
    PATTERN_NONE, /* no sound row: null */
    PATTERN_COUNT
};
/* NULL for PATTERN_NONE. */
extern const char *const pattern_name[PATTERN_COUNT];

/* The across-head maps and the statistics kept of each. */
enum aggregate {
    AGGREGATE_SUM,
    AGGREGATE_MEAN,
    AGGREGATE_MAX,
    AGGREGATE_WEIGHTED,
    AGGREGATE_IMPORTANCE,
    AGGREGATE_COUNT
};
enum map_stat { MAP_MEAN, MAP_MAX, MAP_MIN, MAP_STD, MAP_STAT_COUNT };
extern const char *const aggregate_name[AGGREGATE_COUNT];
extern const char *const map_stat_name[MAP_STAT_COUNT];

/* Upper bound of `metrics.top_pairs`. */
#define TOP_PAIRS_MAX 100

/* One entry of an attention map. */
struct pair {
    uint32_t query, key;
    double weight;
};

/* Two heads g < h that do the same, and their Jensen-Shannon divergence in nats. */
struct redundant_pair {
    uint32_t g, h;
    double js;
};

/* Singular values and what follows from them. NaN where a number does not exist (an empty or
 * non-finite map, the condition number of a map of short rank, values past min(rows, columns)) or
 * was not asked for. */
struct spectrum {
    double singular_values[SINGULAR_VALUES_MAX]; /* descending */
    double low_rank_error[LOW_RANK_COUNT];       /* sqrt(sum_{i>k} s_i^2 / sum s_i^2) */
    double spectral_norm;                        /* s1 */
    double stable_rank;                          /* |A|_F^2 / s1^2 */
    /* SPECTRUM_FULL only */
    double condition_number;       /* log10(s1 / s_min) */
    double rank;                   /* number of s > s1 * max(m, n) * eps */
    double effective_rank;         /* number of s > 0.01 s1 */
    double effective_rank_entropy; /* exp(-sum p ln p), p = s / sum s */
    double nuclear_norm;           /* sum s */
    double eigenvalue_2;           /* second largest eigenvalue modulus, square maps */
};

/* The projection matrices of an attention layer, and the products of two that a head applies. */
enum projection { PROJECTION_Q, PROJECTION_K, PROJECTION_V, PROJECTION_O, PROJECTION_COUNT };
enum circuit { CIRCUIT_QK, CIRCUIT_OV, CIRCUIT_COUNT };
extern const char *const projection_name[PROJECTION_COUNT]; /* "wq", "wk", "wv", "wo" */
extern const char *const circuit_name[CIRCUIT_COUNT];       /* "wq_wk", "wv_wo" */

/* One projection's numbers; owned arrays. */
struct projection_result {
    bool present;
    struct spectrum whole;
    double eigenvalue_min, eigenvalue_max; /* smallest and largest modulus; NaN unless square */
    uint32_t heads;                        /* slices: heads, or kv_heads for W_k and W_v */
    struct spectrum *head;                 /* [heads] */
    double *correlation;                   /* [heads][heads] cosine of the flattened slices */
    double correlation_mean;               /* over pairs g < h; NaN with one head */
};

/* The metrics of tier `weights`. */
struct weights_result {
    struct projection_result projection[PROJECTION_COUNT];
    uint32_t heads;
    struct spectrum *circuit[CIRCUIT_COUNT]; /* [heads]; NULL = a factor is missing */
};

/* The largest entries, descending. */
struct result_pairs {
    const struct pair *pairs; /* [count] of the head-mean map; NULL = not computed */
    uint32_t count;
    const struct pair *head_pairs; /* [heads][head_limit]; NULL = not computed */
    const uint32_t *head_count;    /* [heads], at most head_limit */
    uint32_t head_limit;
};

/* How alike heads are. */
struct result_similarity {
    const double *cosine, *js;                 /* [heads][heads], row-major; NULL = not computed */
    const struct redundant_pair *redundant;    /* [redundant_count], most alike first */
    uint32_t redundant_count, redundant_total; /* listed; in all */
};

/* The numbers of one layer from one message. Borrowed. NULL = not computed, the key is left out. */
struct layer_numbers {
    uint32_t heads;
    const double *value[METRIC_COUNT];  /* [heads] */
    const double *vector[VECTOR_COUNT]; /* [heads][vector_info.width], row-major */
    const enum pattern *pattern;        /* [heads] */
    double sink_rate;                   /* written when first_token is */
    uint32_t local_window;              /* of local_mass; written when that is */
    bool has_aggregate[AGGREGATE_COUNT];
    double aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct result_pairs pairs;
    struct result_similarity similarity;
    const struct weights_result *weights;
};

#endif
