/* SPDX-License-Identifier: MIT */
/* metrics/internal: the functions shared by the files that make /metrics. */
#ifndef DAEMON_HTTP_METRICS_INTERNAL_H
#define DAEMON_HTTP_METRICS_INTERNAL_H

#include "daemon/http/metrics/metrics.h"
#include "daemon/http/metrics/text.h"
#include "daemon/base/hash.h"
#include "proto/header.h"
#include "proto/metric.h"

struct metrics {
    const struct config *config;
    struct stats *stats;
    struct metrics_layer *layers; /* hash by key, in the order of their first result */
};

/* Each writes whole families. */
void metrics_put_pipeline(struct metrics_text *text, struct metrics *metrics,
                          const struct metrics_view *view);
void metrics_put_process(struct metrics_text *text);
void metrics_put_fleet(struct metrics_text *text, const struct metrics_view *view);
void metrics_put_jobs(struct metrics_text *text, const struct metrics_view *view);
/* Writes the layers that are `shown`. */
void metrics_put_attention(struct metrics_text *text, const struct metrics *metrics);

/* metrics_layer: the numbers in /metrics of one layer of one run, taken from results as they come.
 *
 * Numbers of heads are those of the newest `live`, whatever the windows are: a window may be an
 * hour long. Drift is of the newest `summary` of the primary window: nothing else has it. In a
 * message with a slice of the heads, and for spectra, for which heads take turns, a head keeps its
 * number until it gets a new one. HTTP thread. */

enum attention_metric {
#define ATTENTION(metric, name, unit, parts, help) ATTENTION_##metric,
#include "daemon/http/metrics/attention.def"
#undef ATTENTION
    ATTENTION_COUNT
};

enum attention_part { PART_MEAN, PART_MIN, PART_MAX, PART_COUNT };

struct attention_info {
    enum metric metric;
    const char *name, *unit, *help;
    unsigned parts; /* bits of attention_part */
};
extern const struct attention_info attention_info[ATTENTION_COUNT];

#define LAYER_KEY_MAX (2 * RUN_BYTES + TOPIC_MAX)

struct metrics_layer {
    char key[LAYER_KEY_MAX]; /* <run>/<job>/<stack>/<layer>/<site>/ */
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1];
    char module[MODULE_MAX + 1]; /* "" = not known */
    char *labels;                /* job, stack, layer and site, escaped; owned */
    size_t labels_size;
    uint64_t put_ns;  /* when the newest result came */
    bool shown;       /* on the page that is being made */
    uint32_t heads;   /* of the model */
    double *of_heads; /* [ATTENTION_COUNT][heads]; owned, NULL before there are any */
    double *shift;    /* [heads] largest drift of any metric; owned, NULL = no drift yet */
    double pooled[ATTENTION_COUNT][PART_COUNT];
    double sink_rate, row_sum_error; /* of the newest message */
    double time_s;                   /* of the newest message, by its publisher's clock */
    double messages, rows, invalid;  /* so far */
    double drift_shift, drift_js, entropy_shift;
    UT_hash_handle hh;
};

#endif
