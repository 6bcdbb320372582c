/* SPDX-License-Identifier: MIT */
/* metrics/internal: the functions shared by the files that make /metrics. */
#ifndef DAEMON_HTTP_METRICS_INTERNAL_H
#define DAEMON_HTTP_METRICS_INTERNAL_H

#include "daemon/http/metrics/metrics.h"
#include "daemon/http/metrics/layer.h"
#include "daemon/http/metrics/text.h"

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

#endif
