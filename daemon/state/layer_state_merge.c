/* SPDX-License-Identifier: MIT */
/* Merging the states of parts of a window: head by head, so that the sums of one head stay in the
 * cache while the parts stream by. */
#include "daemon/state/layer_state_internal.h"

#include <math.h>
#include <string.h>

#define CACHE_LINE 64
#define AHEAD      3 /* parts: their bytes are asked for so many merges before they are needed */

static void take_detail(struct detail **into, struct detail *from)
{
    detail_release(into);
    *into = detail_reference(from);
}

static void merge_newest(struct layer_state *into, const struct layer_state *from)
{
    if (from->weights_arrival >= into->weights_arrival) {
        into->weights_arrival = from->weights_arrival;
        take_detail(&into->weights, from->weights);
    }
    if (from->map && (!into->map || from->newest >= into->newest)) {
        take_detail(&into->map, from->map);
    }
    if (from->newest < into->newest) {
        return;
    }
    into->newest = from->newest;
    into->epoch = from->epoch;
    into->step = from->step;
    into->time_ns = from->time_ns;
    into->causal = from->causal;
    into->tier = from->tier;
    into->local_window = from->local_window;
    memcpy(into->shape, from->shape, sizeof into->shape);
    if (from->detail) {
        take_detail(&into->detail, from->detail);
    }
}

static void merge_counts(struct layer_state *into, const struct layer_state *from)
{
    into->rows += from->rows;
    into->invalid_rows += from->invalid_rows;
    into->row_sum_error = fmax(into->row_sum_error, from->row_sum_error);
    into->messages += from->messages;
    tally_merge(&into->tally, &from->tally);
    for (int m = 0; m < METRIC_COUNT; m++) {
        into->on[m] = into->on[m] || from->on[m];
    }
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        into->has_aggregate[a] = into->has_aggregate[a] || from->has_aggregate[a];
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        into->has_vector[v] = into->has_vector[v] || from->has_vector[v];
    }
}

static int merge_ranks(struct layer_state *into, const struct layer_state *from)
{
    int code = layer_state_reserve_ranks(into, from->rank_bytes);
    for (uint32_t i = 0; i < from->rank_bytes && !code; i++) {
        into->rank_bits[i] |= from->rank_bits[i];
    }
    return code;
}

/* Statistics */

/* Asks for the bytes of a head's numbers. */
static void layer_state_merge_prefetch(const struct layer_state *state, uint32_t h)
{
    if (h >= state->heads) {
        return;
    }
    if (h >= state->heads) {
        return;
    }
    const struct stat_set *set = &state->head[h].stats;
    for (uint32_t at = 0; at < set->size; at += CACHE_LINE) {
        __builtin_prefetch(set->bytes + at);
    }
}

static int layer_state_merge_take(struct layer_state *into, struct stat_sums *sums,
                                  struct stat_set *set)
{
    uint64_t before = stat_set_bytes(set);
    int code = stat_sums_take(sums, set);
    into->stats_bytes += stat_set_bytes(set) - before;
    return code;
}

static int layer_state_merge_merge_head(struct layer_state *into,
                                        const struct layer_state *const *from, uint32_t count,
                                        uint32_t h, struct stat_sums *sums)
{
    struct head_state *head = &into->head[h];
    int code = stat_sums_add(sums, &head->stats, true);
    for (uint32_t i = 0; i < count && !code; i++) {
        if (i + AHEAD < count) {
            layer_state_merge_prefetch(from[i + AHEAD], h);
        }
        if (h >= from[i]->heads) {
            continue;
        }
        const struct head_state *part = &from[i]->head[h];
        bool newer = part->last_arrival >= head->last_arrival;
        code = stat_sums_add(sums, &part->stats, newer);
        if (newer) {
            head->last_arrival = part->last_arrival;
            head->pattern = part->pattern;
        }
    }
    return code ? code : layer_state_merge_take(into, sums, &head->stats);
}

static int merge_heads(struct layer_state *into, const struct layer_state *const *from,
                       uint32_t count)
{
    uint8_t leader[STAT_SLOTS];
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        leader[slot] = (uint8_t)layer_state_leader(slot);
    }
    struct stat_sums *sums = stat_sums_new(into->buckets, leader);
    int code = sums ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < into->heads && !code; h++) {
        code = layer_state_merge_merge_head(into, from, count, h, sums);
    }
    stat_sums_free(&sums);
    return code;
}

static int merge_across(struct layer_state *into, const struct layer_state *const *from,
                        uint32_t count)
{
    uint8_t leader[STAT_SLOTS];
    uint64_t newest = into->newest;
    memset(leader, STAT_SLOTS, sizeof leader);
    struct stat_sums *sums = stat_sums_new(into->buckets, leader);
    int code = sums ? stat_sums_add(sums, &into->across, true) : ERR_MEMORY;
    for (uint32_t i = 0; i < count && !code; i++) {
        code = stat_sums_add(sums, &from[i]->across, from[i]->newest >= newest);
        newest = from[i]->newest > newest ? from[i]->newest : newest;
    }
    if (!code) {
        code = layer_state_merge_take(into, sums, &into->across);
    }
    stat_sums_free(&sums);
    return code;
}

int layer_state_merge_all(struct layer_state *into, const struct layer_state *const *from,
                          uint32_t count)
{
    int code = 0;
    for (uint32_t i = 0; i < count && !code; i++) {
        code = merge_ranks(into, from[i]);
    }
    if (!code) {
        code = merge_heads(into, from, count);
    }
    if (!code) {
        code = merge_across(into, from, count);
    }
    for (uint32_t i = 0; i < count && !code; i++) {
        merge_counts(into, from[i]);
        merge_newest(into, from[i]);
    }
    return code;
}

int layer_state_merge(struct layer_state *into, const struct layer_state *from)
{
    return layer_state_merge_all(into, &from, 1);
}
