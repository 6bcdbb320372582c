/* SPDX-License-Identifier: MIT */
/* The arrays of a layer are one block, made for its heads and metrics. Where heads begin to differ
 * in their counts, the counts get an array of their own. */
#include "daemon/state/capture_layer.h"

#include "daemon/base/block_bytes.h"
#include "daemon/base/grow.h"
#include "proto/err.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Memory */

/* The bytes behind each array of a layer, in one block. */
static size_t capture_block_size(uint32_t heads, uint32_t slots, uint32_t extremes)
{
    return heads * (2 * sizeof(uint64_t) + (slots + 2 * (size_t)extremes) * sizeof(float)) +
           slots * sizeof(uint32_t);
}

uint64_t capture_layer_bytes(const struct capture_layer *layer)
{
    size_t counts = layer->counts ? (size_t)layer->slots * layer->heads * sizeof(uint32_t) : 0;
    return block_bytes(sizeof *layer) + block_bytes(counts) +
           block_bytes(capture_block_size(layer->heads, layer->slots, layer->extremes)) +
           block_bytes(layer->share_room * sizeof *layer->shares);
}

uint64_t capture_layer_most(uint32_t heads)
{
    size_t counts = (size_t)METRIC_MATRIX_FIRST * heads * sizeof(uint32_t);
    return block_bytes(sizeof(struct capture_layer)) + block_bytes(counts) +
           block_bytes(capture_block_size(heads, METRIC_MATRIX_FIRST, METRIC_MATRIX_FIRST));
}

void capture_layer_free(struct capture_layer **layer_p)
{
    struct capture_layer *layer = *layer_p;
    if (layer) {
        free(layer->block);
        free(layer->counts);
        free(layer->shares);
        free(layer);
        *layer_p = NULL;
    }
}

/* The arrays of a layer in its block, by its counts of heads, slots and extremes. */
static void capture_layer_place(struct capture_layer *layer, void *block)
{
    layer->block = block;
    layer->of = block;
    layer->invalid = layer->of + layer->heads;
    layer->mean = (float *)(layer->invalid + layer->heads);
    layer->low = layer->mean + (size_t)layer->slots * layer->heads;
    layer->high = layer->low + (size_t)layer->extremes * layer->heads;
    layer->count = (uint32_t *)(layer->high + (size_t)layer->extremes * layer->heads);
}

void capture_layer_clear(struct capture_layer *layer)
{
    size_t heads = layer->heads, slots = layer->slots, extremes = layer->extremes;
    layer->messages = layer->keys = layer->share_count = 0;
    layer->rows = layer->invalid_rows = 0;
    layer->row_sum_error = NAN;
    memset(layer->of, 0, 2 * heads * sizeof *layer->of);
    memset(layer->count, 0, slots * sizeof *layer->count);
    for (size_t i = 0; i < slots * heads; i++) {
        layer->mean[i] = NAN;
    }
    for (size_t i = 0; i < 2 * extremes * heads; i++) {
        layer->low[i] = NAN; /* and high, behind it */
    }
    if (layer->counts) {
        memset(layer->counts, 0, slots * heads * sizeof *layer->counts);
    }
}

/* The layer as it is, with room for these metrics as well. NULL when out of memory. */
static struct capture_layer *capture_layer_make(const struct capture_layer *old, struct layer_id id,
                                                uint32_t heads, const bool on[METRIC_MATRIX_FIRST],
                                                const bool wants[METRIC_MATRIX_FIRST])
{
    struct capture_layer *layer = calloc(1, sizeof *layer);
    if (!layer) {
        return NULL;
    }
    layer->id = id;
    layer->heads = heads;
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (on[m] || (old && old->slot_of[m])) {
            layer->slot_of[m] = (uint8_t)++layer->slots;
            layer->extreme_of[m] = wants[m] ? (uint8_t)++layer->extremes : 0;
        }
    }
    void *block = malloc(capture_block_size(heads, layer->slots, layer->extremes));
    bool has_counts = old && old->counts;
    layer->counts = has_counts ? malloc((size_t)layer->slots * heads * sizeof(uint32_t) + 1) : NULL;
    if (!block || (has_counts && !layer->counts)) {
        free(block);
        capture_layer_free(&layer);
        return NULL;
    }
    capture_layer_place(layer, block);
    capture_layer_clear(layer);
    return layer;
}

/* `from` becomes part of `to`, which has all its metrics, and gives up its shares. */
static void capture_layer_move(struct capture_layer *to, struct capture_layer *from)
{
    size_t heads = to->heads, row = heads * sizeof(float);
    to->messages = from->messages;
    to->keys = from->keys;
    to->rows = from->rows;
    to->invalid_rows = from->invalid_rows;
    to->row_sum_error = from->row_sum_error;
    memcpy(to->of, from->of, 2 * heads * sizeof *to->of);
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (!from->slot_of[m]) {
            continue;
        }
        size_t into = to->slot_of[m] - 1u, out = from->slot_of[m] - 1u;
        memcpy(to->mean + into * heads, from->mean + out * heads, row);
        to->count[into] = from->count[out];
        if (from->counts) {
            memcpy(to->counts + into * heads, from->counts + out * heads, heads * sizeof(uint32_t));
        }
        if (from->extreme_of[m]) {
            size_t extreme = to->extreme_of[m] - 1u, before = from->extreme_of[m] - 1u;
            memcpy(to->low + extreme * heads, from->low + before * heads, row);
            memcpy(to->high + extreme * heads, from->high + before * heads, row);
        }
    }
    to->shares = from->shares;
    to->share_count = from->share_count;
    to->share_room = from->share_room;
    from->shares = NULL;
    from->share_room = 0;
}

int capture_layer_get(struct capture_layer **place, struct layer_id id, uint32_t heads,
                      const bool on[METRIC_MATRIX_FIRST], const bool wants[METRIC_MATRIX_FIRST])
{
    struct capture_layer *old = *place;
    bool fits = old && old->heads == heads;
    for (int m = 0; m < METRIC_MATRIX_FIRST && fits; m++) {
        fits = !on[m] || old->slot_of[m];
    }
    if (fits) {
        return 0;
    }
    struct capture_layer *same = old && old->heads == heads ? old : NULL;
    struct capture_layer *made = capture_layer_make(same, id, heads, on, wants);
    if (!made) {
        return ERR_MEMORY;
    }
    if (same) {
        capture_layer_move(made, same);
    }
    capture_layer_free(place);
    *place = made;
    return 0;
}

int capture_layer_split(struct capture_layer *layer)
{
    if (layer->counts) {
        return 0;
    }
    layer->counts = malloc((size_t)layer->slots * layer->heads * sizeof *layer->counts + 1);
    if (!layer->counts) {
        return ERR_MEMORY;
    }
    for (uint32_t s = 0; s < layer->slots; s++) {
        for (uint32_t h = 0; h < layer->heads; h++) {
            layer->counts[(size_t)s * layer->heads + h] = layer->count[s];
        }
    }
    return 0;
}

struct capture_share *capture_layer_share(struct capture_layer *layer, uint32_t rank)
{
    uint32_t low = 0, high = layer->share_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        bool before = layer->shares[middle].rank < rank;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    if (low < layer->share_count && layer->shares[low].rank == rank) {
        return &layer->shares[low];
    }
    if (!grow(&layer->shares, layer->share_count, &layer->share_room, sizeof *layer->shares)) {
        return NULL;
    }
    struct capture_share *share = layer->shares + low;
    memmove(share + 1, share, (layer->share_count - low) * sizeof *share);
    *share = (struct capture_share){.rank = rank};
    layer->share_count++;
    return share;
}

/* Messages */

/* A message about a head in a metric: how many values, their mean, the smallest and the
 * largest. */
struct capture_value {
    uint64_t count;
    double mean, low, high;
};

static struct capture_value capture_value_of(const struct measured *measured, int metric,
                                             uint32_t head)
{
    if (metric < METRIC_ROW_COUNT) {
        const struct moments *rows = &measured->head[head].row[metric].moments;
        return (struct capture_value){rows->n, rows->mean, rows->min, rows->max};
    }
    double value = measured->value[metric][head];
    return (struct capture_value){isfinite(value) ? 1U : 0U, value, value, value};
}

bool capture_layer_is_even(const struct message *message, const struct measured *measured)
{
    bool even = message->header.heads == message->header.heads_total;
    for (int m = 0; m < METRIC_MATRIX_FIRST && even; m++) {
        uint64_t count = measured->value[m] ? capture_value_of(measured, m, 0).count : 0;
        for (uint32_t h = 1; h < message->header.heads && measured->value[m] && even; h++) {
            even = capture_value_of(measured, m, h).count == count;
        }
    }
    return even;
}

static uint32_t capture_sum(uint32_t a, uint64_t b)
{
    return b > UINT32_MAX - a ? UINT32_MAX : a + (uint32_t)b;
}

/* A number as it is kept, which is never infinite. */
static float capture_float(double value)
{
    return (float)fmax(-(double)FLT_MAX, fmin(value, (double)FLT_MAX));
}

/* `before` values are behind the mean. */
static void capture_add_value(struct capture_layer *layer, int metric, uint32_t head,
                              uint32_t before, const struct capture_value *value)
{
    float *mean = &layer->mean[(layer->slot_of[metric] - 1u) * (size_t)layer->heads + head];
    if (value->count == 0) {
        return;
    }
    double share = (double)value->count / ((double)before + (double)value->count);
    *mean =
        capture_float(before ? (double)*mean + (value->mean - (double)*mean) * share : value->mean);
    if (layer->extreme_of[metric]) {
        size_t at = (layer->extreme_of[metric] - 1u) * (size_t)layer->heads + head;
        layer->low[at] = fminf(layer->low[at], capture_float(value->low));
        layer->high[at] = fmaxf(layer->high[at], capture_float(value->high));
    }
}

static void capture_add_metric(struct capture_layer *layer, int metric, uint32_t offset,
                               uint32_t heads, const struct measured *measured)
{
    uint32_t slot = layer->slot_of[metric] - 1u;
    uint32_t *counts = layer->counts ? layer->counts + (size_t)slot * layer->heads : NULL;
    uint64_t more = 0;
    for (uint32_t h = 0; h < heads; h++) {
        struct capture_value value = capture_value_of(measured, metric, h);
        uint32_t before = counts ? counts[offset + h] : layer->count[slot];
        more = value.count;
        capture_add_value(layer, metric, offset + h, before, &value);
        if (counts) {
            counts[offset + h] = capture_sum(before, value.count);
        }
    }
    if (!counts) {
        layer->count[slot] = capture_sum(layer->count[slot], more);
    }
}

void capture_layer_add(struct capture_layer *layer, const struct message *message,
                       const struct measured *measured)
{
    const struct header *header = &message->header;
    /* Each head's; without metrics.core nobody knows how many of them are sound. */
    uint64_t of = measured->value[METRIC_ENTROPY]
                      ? (measured->rows + measured->invalid_rows) / measured->heads
                      : 0;
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (measured->value[m]) {
            capture_add_metric(layer, m, header->head_offset, header->heads, measured);
        }
    }
    for (uint32_t h = 0; h < header->heads; h++) {
        layer->of[header->head_offset + h] += of;
        layer->invalid[header->head_offset + h] += measured_invalid_rows(measured, h);
    }
    layer->messages++;
    layer->keys = header->keys;
    layer->rows += measured->rows;
    layer->invalid_rows += measured->invalid_rows;
    if (isfinite(measured->row_sum_error)) {
        layer->row_sum_error = fmax(layer->row_sum_error, measured->row_sum_error);
    }
}

/* Numbers */

double capture_layer_mean(const struct capture_layer *layer, enum metric metric, uint32_t head)
{
    uint32_t slot = layer->slot_of[metric];
    return slot ? (double)layer->mean[(slot - 1) * (size_t)layer->heads + head] : NAN;
}

double capture_layer_low(const struct capture_layer *layer, enum metric metric, uint32_t head)
{
    uint32_t extreme = layer->extreme_of[metric];
    return extreme ? (double)layer->low[(extreme - 1) * (size_t)layer->heads + head] : NAN;
}

double capture_layer_high(const struct capture_layer *layer, enum metric metric, uint32_t head)
{
    uint32_t extreme = layer->extreme_of[metric];
    return extreme ? (double)layer->high[(extreme - 1) * (size_t)layer->heads + head] : NAN;
}

uint32_t capture_layer_count(const struct capture_layer *layer, enum metric metric, uint32_t head)
{
    uint32_t slot = layer->slot_of[metric];
    if (!slot) {
        return 0;
    }
    return layer->counts ? layer->counts[(slot - 1) * (size_t)layer->heads + head]
                         : layer->count[slot - 1];
}

double capture_layer_invalid_share(const struct capture_layer *layer, uint32_t head)
{
    return layer->of[head] ? (double)layer->invalid[head] / (double)layer->of[head] : NAN;
}
