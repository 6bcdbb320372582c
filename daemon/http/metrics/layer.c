/* SPDX-License-Identifier: MIT */
#include "daemon/http/metrics/layer.h"

#include "daemon/http/metrics/text.h"
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

/* Making */

bool layer_key(const char *topic, const char *run, char ret_key[LAYER_KEY_MAX])
{
    const char *job = strchr(topic, '/');
    return job && snprintf(ret_key, LAYER_KEY_MAX, "%s%s", run, job) < LAYER_KEY_MAX;
}

/* The part of a key from *at to the next slash. */
static void metrics_layer_next_part(const char **at, char *to, size_t size)
{
    size_t length = strcspn(*at, "/");
    snprintf(to, size, "%.*s", (int)length, *at);
    *at += length + ((*at)[length] == '/');
}

struct metrics_layer *layer_new(const char *key)
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

void layer_free(struct metrics_layer **layer_p)
{
    struct metrics_layer *layer = *layer_p;
    free(layer->labels);
    free(layer->of_heads);
    free(layer->shift);
    free(layer);
    *layer_p = NULL;
}

/* Reading */

/* Heads of the message; 0 for tier weights, whose shape is nil. */
static uint32_t metrics_layer_read_heads(const msgpack_object *shape)
{
    uint64_t heads = 0;
    return mpk_items(shape) > 1 && mpk_get_u64(&shape->via.array.ptr[1], HEADS_MAX, &heads) == 0
               ? (uint32_t)heads
               : 0;
}

bool layer_read(const msgpack_object *map, struct layer_result *ret_result)
{
    *ret_result = (struct layer_result){
        .primary = mpk_find_u64(map, "track") == 0,
        .batch_heads = metrics_layer_read_heads(mpk_find(map, "shape")),
        .time_s = (double)mpk_find_u64(map, "time_ns") / 1e9,
        .row_sum_error = mpk_number(mpk_find(map, "row_sum_error")),
        .sink_rate = mpk_number(mpk_find(map, "sink_rate")),
        .rows = mpk_find_u64(map, "rows"),
        .invalid = mpk_find_u64(map, "invalid_rows"),
        .heads = mpk_find(map, "heads"),
        .spectrum = mpk_find(map, "spectrum"),
        .drift = mpk_find(map, "drift"),
    };
    mpk_find_text(map, "run", ret_result->run, sizeof ret_result->run);
    mpk_find_text(map, "module", ret_result->module, sizeof ret_result->module);
    return *ret_result->run;
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

void layer_put_live(struct metrics_layer *layer, const struct layer_result *result)
{
    layer->messages++;
    layer->rows += result->rows;
    layer->invalid += result->invalid;
    layer->time_s = result->time_s;
    strcpy(layer->module, result->module);
    if (result->batch_heads == 0) { /* matrices: nothing of rows */
        put_group(layer, result->heads, false);
        return;
    }
    layer->sink_rate = isnan(result->sink_rate) ? layer->sink_rate : result->sink_rate;
    layer->row_sum_error = result->row_sum_error;
    bool slice = layer->of_heads && result->batch_heads < layer->heads;
    put_group(layer, result->heads, slice);
    put_group(layer, result->spectrum, true);
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

void layer_put_summary(struct metrics_layer *layer, const struct layer_result *result)
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
    const msgpack_object *drift = result->drift;
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
