/* SPDX-License-Identifier: MIT */
/* Captures in checkpoints.
 *
 *   captures: {v: 1, judged: [epoch, step] or nil, world, ranks: [known, bye, announced, messages,
 *              layers of the newest judged one, of each rank]}
 *   of a layer: [{epoch, step, time_ns, cut, heads, metrics: bin, a byte each, keys, messages,
 * rows, invalid_rows, row_sum_error, count, counts, mean, low, high, of, invalid, shares}]
 *
 * Arrays are binaries as memory has them, as elsewhere in checkpoints (stored.h). */
#include "daemon/state/capture_internal.h"
#include "daemon/state/stored.h"
#include "proto/err.h"

#include <math.h>
#include <string.h>

#define HEADS_MAX    65536 /* as limits.heads */
#define RANK_NUMBERS 5

/* The run */

int captures_pack(const struct captures *captures, struct mpk_writer *writer)
{
    mpk_put_map(writer, 4);
    mpk_pair_u64(writer, "v", 1);
    mpk_put_str(writer, "judged");
    if (captures->any) {
        mpk_put_array(writer, 2);
        mpk_put_u64(writer, captures->judged.epoch);
        mpk_put_u64(writer, captures->judged.step);
    } else {
        mpk_put_nil(writer);
    }
    mpk_pair_u64(writer, "world", captures->world);
    mpk_pair_array(writer, "ranks", RANK_NUMBERS * captures->rank_count);
    for (uint32_t i = 0; i < captures->rank_count; i++) {
        const struct capture_rank *rank = &captures->ranks[i];
        mpk_put_u64(writer, rank->known);
        mpk_put_u64(writer, rank->bye);
        mpk_put_u64(writer, rank->announced);
        mpk_put_u64(writer, rank->in_judged.messages);
        mpk_put_u64(writer, rank->in_judged.layers);
    }
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

static int captures_read_rank(struct captures *captures, uint32_t index, const msgpack_object *item)
{
    static const uint64_t most[RANK_NUMBERS] = {1, 1, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    uint64_t number[RANK_NUMBERS];
    for (int i = 0; i < RANK_NUMBERS; i++) {
        if (mpk_get_u64(&item[i], most[i], &number[i]) != 0) {
            return ERR_STORE_FORMAT;
        }
    }
    struct capture_rank *rank = number[0] ? captures_rank(captures, index) : NULL;
    if (number[0] && !rank) {
        return ERR_MEMORY;
    }
    if (rank) {
        rank->bye = number[1];
        rank->announced = (uint32_t)number[2];
        rank->in_judged = (struct capture_sent){(uint32_t)number[3], (uint32_t)number[4]};
    }
    return 0;
}

static int captures_read(struct captures *captures, const msgpack_object *root)
{
    struct stored in = {root, 0};
    uint32_t version = 0;
    stored_u32(&in, "v", 1, &version);
    stored_u32(&in, "world", UINT32_MAX, &captures->world);
    const msgpack_object *judged = mpk_find(root, "judged"), *ranks = mpk_find(root, "ranks");
    if (in.code || version != 1 || !judged || !ranks || mpk_items(ranks) % RANK_NUMBERS != 0) {
        return ERR_STORE_FORMAT;
    }
    captures->any = judged->type != MSGPACK_OBJECT_NIL;
    if (captures->any &&
        (mpk_items(judged) != 2 ||
         mpk_get_u64(&judged->via.array.ptr[0], UINT64_MAX, &captures->judged.epoch) != 0 ||
         mpk_get_u64(&judged->via.array.ptr[1], UINT64_MAX, &captures->judged.step) != 0)) {
        return ERR_STORE_FORMAT;
    }
    int code = 0;
    for (uint32_t i = 0; i < mpk_items(ranks) && !code; i += RANK_NUMBERS) {
        code = captures_read_rank(captures, i / RANK_NUMBERS, &ranks->via.array.ptr[i]);
    }
    return code;
}

int captures_unpack(struct captures *captures, const void *data, size_t size)
{
    struct mpk_doc doc;
    int code = mpk_parse(data, size, &stored_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = captures_read(captures, doc.root);
    mpk_doc_clear(&doc);
    return code;
}

/* A layer */

static void capture_pack_one(struct mpk_writer *writer, const struct capture *capture,
                             const struct capture_layer *layer)
{
    uint8_t metrics[METRIC_MATRIX_FIRST];
    uint64_t values = (uint64_t)layer->slots * layer->heads;
    uint64_t extremes = (uint64_t)layer->extremes * layer->heads;
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        metrics[m] = layer->slot_of[m] > 0;
    }
    mpk_put_map(writer, 19);
    mpk_pair_u64(writer, "epoch", capture->key.epoch);
    mpk_pair_u64(writer, "step", capture->key.step);
    mpk_pair_u64(writer, "time_ns", capture->time_ns);
    mpk_pair_bool(writer, "cut", capture->cut);
    mpk_pair_u64(writer, "heads", layer->heads);
    mpk_pair_bin(writer, "metrics", metrics, sizeof metrics);
    mpk_pair_u64(writer, "keys", layer->keys);
    mpk_pair_u64(writer, "messages", layer->messages);
    mpk_pair_u64(writer, "rows", layer->rows);
    mpk_pair_u64(writer, "invalid_rows", layer->invalid_rows);
    stored_put(writer, "row_sum_error", &layer->row_sum_error, 1, sizeof layer->row_sum_error);
    stored_put(writer, "count", layer->count, layer->slots, sizeof *layer->count);
    stored_put(writer, "counts", layer->counts, values, sizeof *layer->counts);
    stored_put(writer, "mean", layer->mean, values, sizeof *layer->mean);
    stored_put(writer, "low", layer->low, extremes, sizeof *layer->low);
    stored_put(writer, "high", layer->high, extremes, sizeof *layer->high);
    stored_put(writer, "of", layer->of, layer->heads, sizeof *layer->of);
    stored_put(writer, "invalid", layer->invalid, layer->heads, sizeof *layer->invalid);
    stored_put(writer, "shares", layer->shares, layer->share_count, sizeof *layer->shares);
}

int captures_pack_layer(const struct captures *captures, uint32_t stream_index,
                        struct mpk_writer *writer)
{
    struct mpk_open list = mpk_open(writer, NULL);
    for (uint32_t i = captures->count - captures->open; i < captures->count; i++) {
        const struct capture_layer *layer = capture_find_layer(captures->of[i], stream_index);
        if (layer) {
            capture_pack_one(writer, captures->of[i], layer);
        }
    }
    mpk_close_array(writer, &list);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* Whether each number is finite or NaN, and NaN where nothing was counted. */
static bool capture_is_sound(const struct capture_layer *layer)
{
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        for (uint32_t h = 0; h < layer->heads && layer->slot_of[m]; h++) {
            double mean = capture_layer_mean(layer, (enum metric)m, h);
            double low = capture_layer_low(layer, (enum metric)m, h);
            double high = capture_layer_high(layer, (enum metric)m, h);
            if (isinf(mean) || isinf(low) || isinf(high) ||
                isnan(mean) != (capture_layer_count(layer, (enum metric)m, h) == 0)) {
                return false;
            }
        }
    }
    for (uint32_t h = 0; h < layer->heads; h++) {
        if (layer->invalid[h] > layer->of[h]) {
            return false;
        }
    }
    return true;
}

/* The ranks that sent it, ascending. */
static int capture_read_shares(struct captures *captures, struct capture *capture,
                               struct capture_layer *layer, struct stored *in)
{
    const uint8_t *bytes = NULL;
    size_t size = 0;
    struct capture_share share;
    uint64_t messages = 0;
    stored_bytes(in, "shares", &bytes, &size);
    int code = in->code || size % sizeof share != 0 ? ERR_STORE_FORMAT : 0;
    for (size_t at = 0; at < size && !code; at += sizeof share) {
        uint32_t after = layer->share_count ? layer->shares[layer->share_count - 1].rank + 1 : 0;
        memcpy(&share, bytes + at, sizeof share);
        messages += share.messages;
        /* All ranks are known, so that the list is no longer than theirs. */
        code = share.rank < after || share.messages == 0 || share.rank >= captures->rank_count
                   ? ERR_STORE_FORMAT
                   : captures_count(captures, capture, layer, share.rank, share.messages);
    }
    return code ? code : messages == layer->messages ? 0 : ERR_STORE_FORMAT;
}

static int capture_read_layer(struct captures *captures, struct capture *capture,
                              struct capture_layer *layer, struct stored *in)
{
    size_t values = (size_t)layer->slots * layer->heads;
    size_t extremes = (size_t)layer->extremes * layer->heads;
    const uint8_t *counts = NULL;
    size_t size = 0;
    uint32_t messages = 0;
    stored_bytes(in, "counts", &counts, &size);
    if (!in->code && size > 0) {
        stored_note(in, size == values * sizeof *layer->counts ? captures_split(captures, layer)
                                                               : ERR_STORE_FORMAT);
        stored_fill(in, "counts", layer->counts, values * sizeof *layer->counts);
    }
    stored_u32(in, "keys", UINT32_MAX, &layer->keys);
    stored_u32(in, "messages", UINT32_MAX, &messages);
    stored_u64(in, "rows", UINT64_MAX, &layer->rows);
    stored_u64(in, "invalid_rows", UINT64_MAX, &layer->invalid_rows);
    stored_fill(in, "row_sum_error", &layer->row_sum_error, sizeof layer->row_sum_error);
    stored_fill(in, "count", layer->count, layer->slots * sizeof *layer->count);
    stored_fill(in, "mean", layer->mean, values * sizeof *layer->mean);
    stored_fill(in, "low", layer->low, extremes * sizeof *layer->low);
    stored_fill(in, "high", layer->high, extremes * sizeof *layer->high);
    stored_fill(in, "of", layer->of, layer->heads * sizeof *layer->of);
    stored_fill(in, "invalid", layer->invalid, layer->heads * sizeof *layer->invalid);
    if (in->code || messages == 0 || !capture_is_sound(layer)) {
        return in->code ? in->code : ERR_STORE_FORMAT;
    }
    layer->messages = messages;
    return capture_read_shares(captures, capture, layer, in);
}

static int captures_read_one(struct captures *captures, struct layer_id id, uint32_t stream_index,
                             const msgpack_object *map)
{
    struct stored in = {map, 0};
    struct capture_key key = {0, 0};
    uint64_t time_ns = 0;
    uint32_t heads = 0;
    bool cut = false, on[METRIC_MATRIX_FIRST];
    uint8_t metrics[METRIC_MATRIX_FIRST];
    const uint8_t *mean = NULL;
    size_t size = 0, slots = 0;
    stored_u64(&in, "epoch", UINT64_MAX, &key.epoch);
    stored_u64(&in, "step", UINT64_MAX, &key.step);
    stored_u64(&in, "time_ns", UINT64_MAX, &time_ns);
    stored_bool(&in, "cut", &cut);
    stored_u32(&in, "heads", HEADS_MAX, &heads);
    stored_fill(&in, "metrics", metrics, sizeof metrics);
    stored_bytes(&in, "mean", &mean, &size);
    if (in.code || heads == 0) {
        return ERR_STORE_FORMAT;
    }
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        on[m] = metrics[m];
        slots += on[m];
    }
    /* Memory is allocated for no more than there is. */
    if (size != slots * heads * sizeof(float)) {
        return ERR_STORE_FORMAT;
    }
    if (captures_is_past(captures, &key)) {
        return 0;
    }
    struct capture *capture = captures_get(captures, &key);
    if (!capture) {
        return ERR_MEMORY;
    }
    if (capture_find_layer(capture, stream_index)) {
        return ERR_STORE_FORMAT; /* twice */
    }
    struct capture_layer *layer = captures_layer(captures, capture, id, stream_index, heads, on);
    int code = layer ? capture_read_layer(captures, capture, layer, &in) : ERR_MEMORY;
    if (code && layer) {
        layer->messages = 0;
    }
    capture->cut = capture->cut || cut;
    capture->time_ns = time_ns > capture->time_ns ? time_ns : capture->time_ns;
    return code;
}

int captures_unpack_layer(struct captures *captures, struct layer_id id, uint32_t stream_index,
                          const void *data, size_t size)
{
    struct mpk_doc doc;
    int code = mpk_parse(data, size, &stored_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = doc.root->type == MSGPACK_OBJECT_ARRAY ? 0 : ERR_STORE_FORMAT;
    for (uint32_t i = 0; i < mpk_items(doc.root) && !code; i++) {
        code = captures_read_one(captures, id, stream_index, &doc.root->via.array.ptr[i]);
    }
    mpk_doc_clear(&doc);
    return code;
}
