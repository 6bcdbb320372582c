/* SPDX-License-Identifier: MIT */
#include "daemon/http/metrics/layer.h"

#include "daemon/http/metrics/cursor.h"
#include "daemon/http/metrics/text.h"

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

static bool make_labels(struct metrics_layer *layer, const char *at)
{
    static const char *const names[] = {"stack", "layer", "site"};
    char labels[2 * LAYER_KEY_MAX + 64], part[JOB_NAME_MAX + 1];
    size_t used = metrics_label(labels, sizeof labels, "job", layer->job);
    for (int i = 0; i < 3; i++) {
        metrics_layer_next_part(&at, part, sizeof part);
        labels[used++] = ',';
        used += metrics_label(labels + used, sizeof labels - used, names[i], part);
    }
    layer->labels = malloc(used + 1);
    layer->labels_size = used;
    if (layer->labels) {
        memcpy(layer->labels, labels, used + 1);
    }
    return layer->labels;
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
    if (!make_labels(layer, at)) {
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

/* The value stands here; it is passed over. */
static const uint8_t *pass(struct cursor *cursor)
{
    const uint8_t *at = cursor->at;
    cursor_skip(cursor);
    return at;
}

static void metrics_layer_read_text(struct cursor *cursor, char *text, size_t size)
{
    uint32_t length;
    const char *at = cursor_text(cursor, &length);
    snprintf(text, size, "%.*s", (int)length, at);
}

/* Heads of the message: nil for tier weights. */
static uint32_t metrics_layer_read_shape(struct cursor *cursor)
{
    if (cursor->at < cursor->end && *cursor->at == 0xc0) {
        cursor_skip(cursor);
        return 0;
    }
    uint32_t heads = 0, count = cursor_list(cursor);
    for (uint32_t i = 0; i < count && !cursor->failed; i++) {
        uint64_t size = cursor_count(cursor);
        heads = i == 1 ? (uint32_t)size : heads;
    }
    return heads;
}

static bool is_window(struct cursor *cursor, const struct layer_window *window)
{
    uint32_t length, unit_length = 0;
    uint64_t units = 0, every = 0;
    const char *unit = "";
    for (uint32_t pairs = cursor_map(cursor); pairs > 0 && !cursor->failed; pairs--) {
        const char *key = cursor_text(cursor, &length);
        if (cursor_is(key, length, "unit")) {
            unit = cursor_text(cursor, &unit_length);
        } else if (cursor_is(key, length, "length")) {
            units = cursor_count(cursor);
        } else if (cursor_is(key, length, "every")) {
            every = cursor_count(cursor);
        } else {
            cursor_skip(cursor);
        }
    }
    return cursor_is(unit, unit_length, window->unit) && units == window->length &&
           every == window->every;
}

/* `sink_rate` is a number in live and a map of statistics in summaries. */
static double read_scalar(struct cursor *cursor)
{
    uint8_t lead = cursor->at < cursor->end ? *cursor->at : 0;
    if (lead < 0x80 || lead == 0xcb || lead == 0xc0 || lead == 0xca) {
        return cursor_number(cursor);
    }
    cursor_skip(cursor);
    return NAN;
}

static void metrics_layer_read_key(struct cursor *cursor, const char *key, uint32_t length,
                                   const struct layer_window *window, struct layer_result *result)
{
    if (cursor_is(key, length, "run")) {
        metrics_layer_read_text(cursor, result->run, sizeof result->run);
    } else if (cursor_is(key, length, "module")) {
        metrics_layer_read_text(cursor, result->module, sizeof result->module);
    } else if (cursor_is(key, length, "time_ns")) {
        result->time_s = (double)cursor_count(cursor) / 1e9;
    } else if (cursor_is(key, length, "shape")) {
        result->batch_heads = metrics_layer_read_shape(cursor);
    } else if (cursor_is(key, length, "rows")) {
        result->rows = cursor_count(cursor);
    } else if (cursor_is(key, length, "invalid_rows")) {
        result->invalid = cursor_count(cursor);
    } else if (cursor_is(key, length, "row_sum_error")) {
        result->row_sum_error = cursor_number(cursor);
    } else if (cursor_is(key, length, "sink_rate")) {
        result->sink_rate = read_scalar(cursor);
    } else if (cursor_is(key, length, "heads")) {
        result->heads = pass(cursor);
    } else if (cursor_is(key, length, "spectrum")) {
        result->spectrum = pass(cursor);
    } else if (cursor_is(key, length, "drift")) {
        result->drift = pass(cursor);
    } else if (cursor_is(key, length, "window")) {
        result->primary = is_window(cursor, window);
    } else {
        cursor_skip(cursor);
    }
}

bool layer_read(const struct published *published, const struct layer_window *window,
                struct layer_result *ret_result)
{
    struct cursor cursor = cursor_of(published->map, published->size);
    struct layer_result result = {
        .time_s = NAN, .row_sum_error = NAN, .sink_rate = NAN, .end = cursor.end};
    for (uint32_t pairs = cursor_map(&cursor); pairs > 0 && !cursor.failed; pairs--) {
        uint32_t length;
        const char *key = cursor_text(&cursor, &length);
        metrics_layer_read_key(&cursor, key, length, window, &result);
    }
    if (cursor.failed || !*result.run) {
        return false;
    }
    *ret_result = result;
    return true;
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

static void pool(struct metrics_layer *layer, int metric)
{
    const double *numbers = layer->of_heads + (size_t)metric * layer->heads;
    double sum = 0, least = INFINITY, largest = -INFINITY;
    uint32_t count = 0;
    for (uint32_t h = 0; h < layer->heads; h++) {
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

static void metrics_layer_put_list(struct metrics_layer *layer, struct cursor *cursor, int metric,
                                   bool keep)
{
    uint32_t count = cursor_list(cursor);
    if (cursor->failed || !fit_heads(layer, count)) {
        cursor->failed = true;
        return;
    }
    double *numbers = layer->of_heads + (size_t)metric * count;
    for (uint32_t h = 0; h < count && !cursor->failed; h++) {
        double number = cursor_number(cursor);
        if (!keep || !isnan(number)) {
            numbers[h] = number;
        }
    }
    pool(layer, metric);
}

static int metrics_layer_find_metric(const char *key, uint32_t length)
{
    int i = 0;
    while (i < ATTENTION_COUNT &&
           !cursor_is(key, length, metric_info[attention_info[i].metric].name)) {
        i++;
    }
    return i;
}

/* A group of metrics: each a list over the heads. */
static void put_group(struct metrics_layer *layer, const uint8_t *at, const uint8_t *end, bool keep)
{
    if (!at) {
        return;
    }
    struct cursor cursor = cursor_of(at, (size_t)(end - at));
    for (uint32_t pairs = cursor_map(&cursor); pairs > 0 && !cursor.failed; pairs--) {
        uint32_t length;
        const char *key = cursor_text(&cursor, &length);
        int metric = metrics_layer_find_metric(key, length);
        if (metric < ATTENTION_COUNT) {
            metrics_layer_put_list(layer, &cursor, metric, keep);
        } else {
            cursor_skip(&cursor);
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
        put_group(layer, result->heads, result->end, false);
        return;
    }
    layer->sink_rate = isnan(result->sink_rate) ? layer->sink_rate : result->sink_rate;
    layer->row_sum_error = result->row_sum_error;
    bool slice = layer->of_heads && result->batch_heads < layer->heads;
    put_group(layer, result->heads, result->end, slice);
    put_group(layer, result->spectrum, result->end, true);
}

/* Drift */

static double metrics_layer_larger(double a, double b)
{
    return isnan(a) || b > a ? b : a;
}

/* [heads] of NaN; NULL before the first live, which says how many there are. */
static double *clear_shift(struct metrics_layer *layer)
{
    if (!layer->shift && layer->heads > 0) {
        layer->shift = malloc(layer->heads * sizeof *layer->shift);
    }
    for (uint32_t h = 0; layer->shift && h < layer->heads; h++) {
        layer->shift[h] = NAN;
    }
    return layer->shift;
}

/* One list of a metric's drift; returns the largest absolute value. `shift`: by head, or NULL. */
static double put_drift_list(struct cursor *cursor, uint32_t heads, double *shift)
{
    double largest = NAN;
    uint32_t count = cursor_list(cursor);
    for (uint32_t h = 0; h < count && !cursor->failed; h++) {
        double number = fabs(cursor_number(cursor));
        largest = metrics_layer_larger(largest, number);
        if (shift && h < heads) {
            shift[h] = metrics_layer_larger(shift[h], number);
        }
    }
    return largest;
}

static void metrics_layer_put_metric_drift(struct metrics_layer *layer, struct cursor *cursor,
                                           bool is_entropy, double *shift)
{
    for (uint32_t pairs = cursor_map(cursor); pairs > 0 && !cursor->failed; pairs--) {
        uint32_t length;
        const char *key = cursor_text(cursor, &length);
        if (cursor_is(key, length, "shift")) {
            double largest = put_drift_list(cursor, layer->heads, shift);
            layer->drift_shift = metrics_layer_larger(layer->drift_shift, largest);
            layer->entropy_shift = is_entropy ? largest : layer->entropy_shift;
        } else if (cursor_is(key, length, "js")) {
            layer->drift_js =
                metrics_layer_larger(layer->drift_js, put_drift_list(cursor, 0, NULL));
        } else {
            cursor_skip(cursor);
        }
    }
}

void layer_put_summary(struct metrics_layer *layer, const struct layer_result *result)
{
    layer->drift_shift = layer->drift_js = layer->entropy_shift = NAN;
    double *shift = clear_shift(layer);
    if (!result->drift) {
        return;
    }
    struct cursor cursor = cursor_of(result->drift, (size_t)(result->end - result->drift));
    for (uint32_t pairs = cursor_map(&cursor); pairs > 0 && !cursor.failed; pairs--) {
        uint32_t length;
        const char *key = cursor_text(&cursor, &length);
        bool is_entropy = cursor_is(key, length, metric_info[METRIC_ENTROPY_NORMALIZED].name);
        metrics_layer_put_metric_drift(layer, &cursor, is_entropy, shift);
    }
}
