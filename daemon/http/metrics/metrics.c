/* SPDX-License-Identifier: MIT */
#include "daemon/http/metrics/internal.h"

#include "config/access.h"
#include "proto/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metrics *metrics_new(const struct config *config, struct stats *stats)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics) {
        *metrics = (struct metrics){.config = config, .stats = stats};
    }
    return metrics;
}

static void metrics_forget(struct metrics *metrics, struct metrics_layer *layer)
{
    HASH_DEL(metrics->layers, layer);
    layer_free(&layer);
}

void metrics_free(struct metrics **metrics_p)
{
    struct metrics *metrics = *metrics_p;
    if (!metrics) {
        return;
    }
    while (metrics->layers) {
        metrics_forget(metrics, metrics->layers);
    }
    free(metrics);
    *metrics_p = NULL;
}

/* Results */

/* NULL when there is no room. */
static struct metrics_layer *metrics_find(struct metrics *metrics, const char *topic,
                                          const char *run)
{
    char key[LAYER_KEY_MAX];
    struct metrics_layer *layer = NULL;
    if (!layer_key(topic, run, key)) {
        return NULL;
    }
    HASH_FIND_STR(metrics->layers, key, layer);
    if (layer || HASH_COUNT(metrics->layers) >= metrics->config->http_metrics_layers) {
        return layer;
    }
    layer = layer_new(key);
    if (layer) {
        HASH_ADD_STR(metrics->layers, key, layer);
        if (!layer->hh.tbl) {
            layer_free(&layer);
        }
    }
    return layer;
}

static void metrics_put_map(struct metrics *metrics, const char *topic, const msgpack_object *map,
                            uint64_t now_ns)
{
    struct layer_result result;
    bool live = strncmp(topic, "live/", 5) == 0;
    if (!layer_read(map, &result) || (!live && !result.primary)) {
        return;
    }
    struct metrics_layer *layer = metrics_find(metrics, topic, result.run);
    if (!layer) {
        return;
    }
    layer->put_ns = now_ns;
    if (live) {
        layer_put_live(layer, &result);
    } else {
        layer_put_summary(layer, &result);
    }
}

void metrics_put(struct metrics *metrics, const struct published *published, uint64_t now_ns)
{
    struct mpk_doc doc;
    bool of_layer =
        strncmp(published->topic, "live/", 5) == 0 || strncmp(published->topic, "summary/", 8) == 0;
    if (of_layer && mpk_parse(published->map, published->size, &mpk_result_limits, &doc) == 0) {
        metrics_put_map(metrics, published->topic, doc.root, now_ns);
        mpk_doc_clear(&doc);
    }
}

/* Scraping */

/* Jobs by name, while a page is made. */
struct known_job {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1];
    bool active;
    UT_hash_handle hh;
};

/* Without memory jobs are missing, and their layers are not shown this time. */
static struct known_job *metrics_read_jobs(const msgpack_object *jobs)
{
    struct known_job *known = NULL;
    uint32_t count = mpk_items(jobs);
    for (uint32_t i = 0; i < count; i++) {
        struct known_job *job = calloc(1, sizeof *job);
        char state[16];
        if (!job) {
            break;
        }
        mpk_find_text(&jobs->via.array.ptr[i], "job", job->job, sizeof job->job);
        mpk_find_text(&jobs->via.array.ptr[i], "run", job->run, sizeof job->run);
        mpk_find_text(&jobs->via.array.ptr[i], "state", state, sizeof state);
        job->active = strcmp(state, "active") == 0;
        HASH_ADD_STR(known, job, job);
        if (!job->hh.tbl) {
            free(job);
        }
    }
    return known;
}

char *metrics_render(struct metrics *metrics, const struct metrics_view *view)
{
    struct metrics_text text;
    /* Layers that came after the question was asked may be of a job that the answer does not know
     * yet. */
    struct known_job *known = metrics_read_jobs(mpk_find(view->monitor, "jobs"));
    struct metrics_layer *layer, *next;
    HASH_ITER(hh, metrics->layers, layer, next)
    {
        struct known_job *job = NULL;
        HASH_FIND_STR(known, layer->job, job);
        bool newest = job && strcmp(job->run, layer->run) == 0;
        layer->shown = newest && job->active && access_jobs_match(view->jobs, layer->job);
        if (!newest && layer->put_ns < view->asked_ns) {
            metrics_forget(metrics, layer);
        }
    }
    while (known) {
        struct known_job *job = known;
        HASH_DEL(known, job);
        free(job);
    }
    metrics_text_begin(&text, view->openmetrics);
    if (access_jobs_match(view->jobs, NULL)) { /* they count all jobs together */
        metrics_put_pipeline(&text, metrics, view);
        metrics_put_process(&text);
        metrics_put_fleet(&text, view);
    }
    metrics_put_jobs(&text, view);
    metrics_put_attention(&text, metrics);
    return metrics_text_end(&text);
}
