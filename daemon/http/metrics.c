/* SPDX-License-Identifier: MIT */
#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct metrics {
    const struct config *config;
    struct stats *stats;
};

struct metrics *metrics_new(const struct config *config, struct stats *stats)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics)
        *metrics = (struct metrics){.config = config, .stats = stats};
    return metrics;
}

void metrics_free(struct metrics **metrics)
{
    free(*metrics);
    *metrics = NULL;
}

void metrics_put(struct metrics *metrics, const struct published *published, uint64_t now_ns)
{
    (void)metrics, (void)published, (void)now_ns;
}

char *metrics_render(struct metrics *metrics, const struct metrics_view *view)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    fprintf(out, "# HELP attnd_build_info Version of attnd.\n# TYPE attnd_build_info gauge\n");
    fprintf(out, "attnd_build_info{version=\"%s\"} 1\n", ATTND_VERSION);
    for (int i = 0; i < COUNT_COUNT; i++)
        fprintf(out, "# TYPE attnd_%s_total counter\nattnd_%s_total %" PRIu64 "\n", counter_name[i],
                counter_name[i], stats_get(metrics->stats, (enum counter)i));
    fprintf(out, "# TYPE attnd_http_event_clients gauge\nattnd_http_event_clients %" PRIu32 "\n",
            view->event_clients);
    return fclose(out) == 0 ? text : NULL;
}
