/* SPDX-License-Identifier: MIT */
#include "daemon/http/metrics/internal.h"

#include "config/access.h"
#include "proto/result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEAN (1u << PART_MEAN)
#define MIN  (1u << PART_MIN)
#define MAX  (1u << PART_MAX)
const struct attention_info attention_info[ATTENTION_COUNT] = {
#define ATTENTION(metric, name, unit, parts, help)                                                 \
    [ATTENTION_##metric] = {METRIC_##metric, name, unit, help, parts},
#include "daemon/http/metrics/attention.def"
#undef ATTENTION
};
#undef MEAN
#undef MIN
#undef MAX

/* Heads of one layer that are believed; limits.heads may be as large. */
#define HEADS_MAX 1048576

/* Layers */

/* The part of a key from *at to the next slash. */
static void metrics_layer_next_part(const char **at, char *to, size_t size)
{
    size_t length = strcspn(*at, "/");
    snprintf(to, size, "%.*s", (int)length, *at);
    *at += length + ((*at)[length] == '/');
}

static void layer_free(struct metrics_layer **layer_p)
{
    struct metrics_layer *layer = *layer_p;
    free(layer->labels);
    free(layer->of_heads);
    free(layer->shift);
    free(layer);
    *layer_p = NULL;
}

/* NULL when out of memory. */
static struct metrics_layer *layer_new(const char *key)
{
    struct metrics_layer *layer = calloc(1, sizeof *layer);
    const char *at = key;
    if (!layer) {
        return NULL;
    }
    snprintf(layer->key, sizeof layer->key, "%s", key);
    metrics_layer_next_part(&at, layer->run, sizeof layer->run);
    metrics_layer_next_part(&at, layer->job, sizeof layer->job);
    for (int i = 0; i < (int)ATTENTION_COUNT * PART_COUNT; i++) {
        layer->pooled[i / PART_COUNT][i % PART_COUNT] = NAN;
    }
    layer->sink_rate = layer->row_sum_error = layer->time_s = NAN;
    layer->drift_shift = layer->drift_js = layer->entropy_shift = NAN;
    static const char *const names[] = {"stack", "layer", "site"};
    char labels[2 * LAYER_KEY_MAX + 64] = "", part[JOB_NAME_MAX + 1];
    size_t used = metrics_label(labels, sizeof labels, "job", layer->job);
    for (int i = 0; i < 3; i++) {
        metrics_layer_next_part(&at, part, sizeof part);
        used = metrics_label(labels, sizeof labels, names[i], part);
    }
    layer->labels = malloc(used + 1);
    layer->labels_size = used;
    if (layer->labels) {
        memcpy(layer->labels, labels, used + 1);
    } else {
        layer_free(&layer);
    }
    return layer;
}

/* Live */

/* All heads are unknown again when their number is not what it was. Returns false when out of
 * memory. */
static bool fit_heads(struct metrics_layer *layer, uint32_t heads)
{
    if (layer->of_heads && layer->heads == heads) {
        return true;
    }
    size_t count = (size_t)ATTENTION_COUNT * heads;
    double *of_heads = heads > 0 && heads <= HEADS_MAX ? malloc(count * sizeof *of_heads) : NULL;
    if (!of_heads) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        of_heads[i] = NAN;
    }
    free(layer->of_heads);
    free(layer->shift);
    layer->shift = NULL;
    layer->of_heads = of_heads;
    layer->heads = heads;
    return true;
}

static void metrics_layer_put_list(struct metrics_layer *layer, const msgpack_object *list,
                                   int metric, bool keep)
{
    if (list->type != MSGPACK_OBJECT_ARRAY || !fit_heads(layer, list->via.array.size)) {
        return;
    }
    double *numbers = layer->of_heads + (size_t)metric * layer->heads;
    double sum = 0, least = INFINITY, largest = -INFINITY;
    uint32_t count = 0;
    for (uint32_t h = 0; h < layer->heads; h++) {
        double number = mpk_number(&list->via.array.ptr[h]);
        if (!keep || !isnan(number)) {
            numbers[h] = number;
        }
        if (isnan(numbers[h])) {
            continue;
        }
        count++;
        sum += numbers[h];
        least = numbers[h] < least ? numbers[h] : least;
        largest = numbers[h] > largest ? numbers[h] : largest;
    }
    layer->pooled[metric][PART_MEAN] = count > 0 ? sum / count : NAN;
    layer->pooled[metric][PART_MIN] = count > 0 ? least : NAN;
    layer->pooled[metric][PART_MAX] = count > 0 ? largest : NAN;
}

/* A group of metrics: each a list over the heads. */
static void put_group(struct metrics_layer *layer, const msgpack_object *group, bool keep)
{
    for (int m = 0; m < ATTENTION_COUNT; m++) {
        const msgpack_object *list = mpk_find(group, metric_info[attention_info[m].metric].name);
        if (list) {
            metrics_layer_put_list(layer, list, m, keep);
        }
    }
}

static void layer_put_live(struct metrics_layer *layer, const msgpack_object *map)
{
    const msgpack_object *shape = mpk_find(map, "shape");
    double sink_rate = mpk_number(mpk_find(map, "sink_rate"));
    uint64_t heads = 0; /* of the message; 0 for tier weights, whose shape is nil */
    if (mpk_items(shape) > 1) {
        (void)mpk_get_u64(&shape->via.array.ptr[1], HEADS_MAX, &heads);
    }
    layer->messages++;
    layer->rows += (double)mpk_find_u64(map, "rows");
    layer->invalid += (double)mpk_find_u64(map, "invalid_rows");
    layer->time_s = (double)mpk_find_u64(map, "time_ns") / 1e9;
    mpk_find_text(map, "module", layer->module, sizeof layer->module);
    if (heads == 0) { /* matrices: nothing of rows */
        put_group(layer, mpk_find(map, "heads"), false);
        return;
    }
    layer->sink_rate = isnan(sink_rate) ? layer->sink_rate : sink_rate;
    layer->row_sum_error = mpk_number(mpk_find(map, "row_sum_error"));
    put_group(layer, mpk_find(map, "heads"), layer->of_heads && heads < layer->heads);
    put_group(layer, mpk_find(map, "spectrum"), true);
}

/* Drift */

static double metrics_layer_larger(double a, double b)
{
    return isnan(a) || b > a ? b : a;
}

/* One list of a metric's drift; returns the largest absolute value. `shift`: by head, or NULL. */
static double put_drift_list(const msgpack_object *list, uint32_t heads, double *shift)
{
    double largest = NAN;
    uint32_t count = mpk_items(list);
    for (uint32_t h = 0; h < count; h++) {
        double number = fabs(mpk_number(&list->via.array.ptr[h]));
        largest = metrics_layer_larger(largest, number);
        if (shift && h < heads) {
            shift[h] = metrics_layer_larger(shift[h], number);
        }
    }
    return largest;
}

static void layer_put_summary(struct metrics_layer *layer, const msgpack_object *drift)
{
    layer->drift_shift = layer->drift_js = layer->entropy_shift = NAN;
    /* [heads] of NaN; NULL before the first live, which says how many there are. */
    if (!layer->shift && layer->heads > 0) {
        layer->shift = malloc(layer->heads * sizeof *layer->shift);
    }
    for (uint32_t h = 0; layer->shift && h < layer->heads; h++) {
        layer->shift[h] = NAN;
    }
    double *of_heads = layer->shift;
    for (uint32_t m = 0; m < mpk_pairs(drift); m++) {
        const msgpack_object *of_metric = &drift->via.map.ptr[m].val;
        double shift = put_drift_list(mpk_find(of_metric, "shift"), layer->heads, of_heads);
        double js = put_drift_list(mpk_find(of_metric, "js"), 0, NULL);
        layer->drift_shift = metrics_layer_larger(layer->drift_shift, shift);
        layer->drift_js = metrics_layer_larger(layer->drift_js, js);
        if (mpk_is_str(&drift->via.map.ptr[m].key, metric_info[METRIC_ENTROPY_NORMALIZED].name)) {
            layer->entropy_shift = shift;
        }
    }
}

/* All of them */

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

/* By "live/<job>/..." and the run. NULL when there is no room. */
static struct metrics_layer *metrics_find(struct metrics *metrics, const char *topic,
                                          const char *run)
{
    char key[LAYER_KEY_MAX];
    struct metrics_layer *layer = NULL;
    snprintf(key, sizeof key, "%s%s", run, strchr(topic, '/'));
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

void metrics_put(struct metrics *metrics, const struct published *published, uint64_t now_ns)
{
    struct mpk_doc doc;
    char run[2 * RUN_BYTES + 1];
    bool live = strncmp(published->topic, "live/", 5) == 0;
    if ((!live && strncmp(published->topic, "summary/", 8) != 0) ||
        mpk_parse(published->map, published->size, &mpk_result_limits, &doc) != 0) {
        return;
    }
    mpk_find_text(doc.root, "run", run, sizeof run);
    /* A summary counts when its window is that of the config. */
    bool counts = *run && (live || mpk_find_u64(doc.root, "track") == 0);
    struct metrics_layer *layer = counts ? metrics_find(metrics, published->topic, run) : NULL;
    if (layer) {
        layer->put_ns = now_ns;
    }
    if (layer && live) {
        layer_put_live(layer, doc.root);
    } else if (layer) {
        layer_put_summary(layer, mpk_find(doc.root, "drift"));
    }
    mpk_doc_clear(&doc);
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
    struct metrics_text text = {.openmetrics = view->openmetrics};
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
    if (access_jobs_match(view->jobs, NULL)) { /* they count all jobs together */
        metrics_put_pipeline(&text, metrics, view);
        metrics_put_process(&text);
        metrics_put_fleet(&text, view);
    }
    metrics_put_jobs(&text, view);
    metrics_put_attention(&text, metrics);
    return metrics_text_end(&text);
}
