/* SPDX-License-Identifier: MIT */
/* metrics: the page that Prometheus scrapes. HTTP thread; the counters are read from where all
 * threads count.
 *
 * Numbers of layers are taken from results as they are published, so that a scrape only formats.
 * The loop thread's answer to `monitor` lists the jobs: the layers of the run that it names of a
 * job are shown while that run is active, and all other layers are forgotten. At most
 * http.metrics_layers are kept, first come, first served; scraping makes room. */
#ifndef DAEMON_HTTP_METRICS_METRICS_H
#define DAEMON_HTTP_METRICS_METRICS_H

#include "config/config.h"
#include "daemon/base/feed.h"
#include "proto/mpk.h"
#include "daemon/base/stats.h"

struct metrics;

/* NULL when out of memory. */
struct metrics *metrics_new(const struct config *config, struct stats *stats);
void metrics_free(struct metrics **metrics);

/* One published map. */
void metrics_put(struct metrics *metrics, const struct published *published, uint64_t now_ns);

/* The inputs of a scrape. */
struct metrics_view {
    const msgpack_object *monitor; /* the answer of that method, */
    uint64_t asked_ns;             /* which was asked then, or later */
    const char *jobs;              /* only these (access_jobs_match) */
    uint32_t event_clients, connections;
    bool openmetrics; /* 1.0, else text 0.0.4 */
};
/* The page, to be freed with free(); NULL when out of memory. */
char *metrics_render(struct metrics *metrics, const struct metrics_view *view);

#endif
