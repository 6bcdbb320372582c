/* SPDX-License-Identifier: MIT */
#include "daemon/base/block_bytes.h"
#include "daemon/state/layer_state_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define AHEAD      3 /* merges by which the bytes of a part are asked for ahead */

struct layer_state *layer_state_new(uint32_t heads, uint32_t buckets)
{
    struct layer_state *state = calloc(1, sizeof *state);
    if (!state) {
        return NULL;
    }
    state->heads = heads;
    state->buckets = buckets;
    state->row_sum_error = NAN;
    state->head = calloc(heads, sizeof *state->head);
    if (!state->head) {
        layer_state_free(&state);
        return NULL;
    }
    for (uint32_t h = 0; h < heads; h++) {
        state->head[h].pattern = PATTERN_NONE;
    }
    return state;
}

void layer_state_free(struct layer_state **state_p)
{
    struct layer_state *state = *state_p;
    if (!state) {
        return;
    }
    for (uint32_t h = 0; state->head && h < state->heads; h++) {
        stat_set_clear(&state->head[h].stats);
    }
    free(state->head);
    stat_set_clear(&state->across);
    detail_release(&state->detail);
    detail_release(&state->weights);
    detail_release(&state->map);
    free(state->rank_bits);
    rank_entropy_clear(&state->rank_entropy);
    free(state);
    *state_p = NULL;
}

/* Memory */

/* Without statistics. */
static uint64_t empty_bytes(uint32_t heads)
{
    return block_bytes(sizeof(struct layer_state)) + block_bytes(heads * sizeof(struct head_state));
}

/* The memory of a head after the first message; and of the numbers across heads, with the newest
 * details. */
#define HEAD_TYPICAL   3072
#define ACROSS_TYPICAL 2048

uint64_t layer_state_new_bytes(uint32_t heads)
{
    return empty_bytes(heads) + (uint64_t)heads * HEAD_TYPICAL + ACROSS_TYPICAL;
}

uint64_t layer_state_bytes(const struct layer_state *state)
{
    uint64_t bytes = empty_bytes(state->heads) + block_bytes(state->rank_bytes) +
                     rank_entropy_bytes(&state->rank_entropy) + stat_set_bytes(&state->across) +
                     (state->detail ? state->detail->bytes : 0) +
                     (state->map ? state->map->bytes : 0) +
                     (state->weights ? state->weights->bytes : 0);
    for (uint32_t h = 0; h < state->heads; h++) {
        bytes += stat_set_bytes(&state->head[h].stats);
    }
    return bytes;
}

/* One message */

static void set_newest(struct layer_state *state, const struct message *message)
{
    const struct header *header = &message->header;
    const uint32_t shape[4] = {header->batch, header->heads, header->queries, header->keys};
    state->epoch = header->epoch;
    state->step = header->step;
    state->time_ns = header->time_ns;
    state->causal = header->causal;
    state->tier = header->type;
    memcpy(state->shape, shape, sizeof shape);
}

static int add_map(struct layer_state *state, const struct message *message,
                   const struct measured *measured)
{
    struct detail *map = detail_map_new(measured->map, message);
    if (!map) {
        return ERR_MEMORY;
    }
    detail_release(&state->map);
    state->map = map;
    return 0;
}

double layer_state_matrix_number(const struct layer_state *state, int metric, uint32_t head)
{
    const struct weights_result *weights = state->weights ? state->weights->weights : NULL;
    /* Nobody says which of the layer's heads a slice has. */
    return weights && weights->heads == state->heads
               ? weights_number(weights, (enum metric)metric, head)
               : NAN;
}

void layer_state_find_matrices(struct layer_state *state)
{
    for (int m = METRIC_MATRIX_FIRST; m < METRIC_COUNT; m++) {
        state->on[m] = false;
        for (uint32_t h = 0; h < state->heads && !state->on[m]; h++) {
            state->on[m] = isfinite(layer_state_matrix_number(state, m, h));
        }
    }
}

static int add_newest_weights(struct layer_state *state, const struct message *message,
                              const struct measured *measured)
{
    struct detail *detail = detail_new(measured);
    if (!detail) {
        return ERR_MEMORY;
    }
    detail_release(&state->weights);
    state->weights = detail;
    state->weights_newest = position_of(&message->header);
    layer_state_find_matrices(state);
    if (!position_exists(&state->newest)) {
        set_newest(state, message);
    }
    return 0;
}

/* Numbers */

uint32_t layer_state_leader(uint32_t slot)
{
    if (slot >= STAT_HISTS) {
        uint32_t leader = STAT_HISTS;
        for (int v = 0; v < VECTOR_COUNT; v++) {
            if (slot >= layer_vector_slot(v, 0)) {
                leader = layer_vector_slot(v, 0);
            }
        }
        return leader;
    }
    if (slot >= METRIC_MATRIX_FIRST || metric_info[slot].group != METRIC_GROUP_SPECTRUM) {
        return STAT_SLOTS;
    }
    return slot < METRIC_QK_SPECTRAL_NORM ? METRIC_SPECTRAL_NORM : METRIC_QK_SPECTRAL_NORM;
}

/* The numbers of a message for one head; `mask` has every slot in use, so that numbers which are
 * off now are not taken for the newest. */
struct head_input {
    struct stat_input slot[STAT_SLOTS];
    struct stat_mask mask;
};

/* Head h of the message is head `to` of the model. */
static int layer_state_add_head(struct layer_state *state, const struct measured *measured,
                                uint32_t h, uint32_t to, const struct position *position,
                                struct stat_writer *writer)
{
    struct head_state *head = &state->head[to];
    bool newest = position_reaches(position, &head->newest);
    struct head_input input;
    input.mask = (struct stat_mask){{0}};
    for (uint32_t m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (!state->on[m]) {
            continue;
        }
        const double *values = measured->value[m];
        input.slot[m] = (struct stat_input){
            .value = values ? values[h] : NAN,
            .rows = values && m < METRIC_ROW_COUNT ? &measured->head[h].row[m] : NULL,
            .newest = newest,
        };
        uint32_t leader = layer_state_leader(m);
        if (leader != STAT_SLOTS) {
            input.slot[m].newest =
                newest && measured->value[leader] && !isnan(measured->value[leader][h]);
        }
        stat_mask_set(&input.mask, m);
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        uint32_t width = vector_info[v].width;
        const double *values = measured->vector[v] ? &measured->vector[v][(size_t)h * width] : NULL;
        for (uint32_t i = 0; values && i < width; i++) {
            uint32_t slot = layer_vector_slot(v, i);
            input.slot[slot] =
                (struct stat_input){.value = values[i], .newest = newest && !isnan(values[0])};
            stat_mask_set(&input.mask, slot);
        }
    }
    int code = stat_set_add(&head->stats, input.slot, input.mask, writer);
    head->invalid_rows += code ? 0 : measured_invalid_rows(measured, h);
    if (!code && newest) {
        head->newest = *position;
        head->pattern = (uint8_t)(measured->pattern ? measured->pattern[h] : PATTERN_NONE);
    }
    return code;
}

static int layer_state_add_rows(struct layer_state *state, const struct message *message,
                                const struct measured *measured)
{
    const struct header *header = &message->header;
    const struct position position = position_of(header);
    bool newest = position_reaches(&position, &state->newest);
    /* The numbers that exist at all. */
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        state->on[m] = state->on[m] || measured->value[m];
    }
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        state->has_aggregate[a] = state->has_aggregate[a] || measured->has_aggregate[a];
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        state->has_vector[v] = state->has_vector[v] || measured->vector[v];
    }
    struct stat_writer *writer = stat_writer_new(state->buckets);
    int code = writer ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < header->heads && !code; h++) {
        code = layer_state_add_head(state, measured, h, header->head_offset + h, &position, writer);
    }
    if (!code) {
        struct head_input input;
        input.mask = (struct stat_mask){{(1ull << LAYER_SLOTS_ACROSS) - 1, 0}};
        for (int a = 0; a < AGGREGATE_COUNT; a++) {
            for (int s = 0; s < MAP_STAT_COUNT; s++) {
                input.slot[layer_aggregate_slot(a, s)] = (struct stat_input){
                    .value = measured->has_aggregate[a] ? measured->aggregate[a][s] : NAN,
                    .newest = newest};
            }
        }
        input.slot[LAYER_SLOT_SINK_RATE] =
            (struct stat_input){.value = measured->sink_rate, .newest = newest};
        code = stat_set_add(&state->across, input.slot, input.mask, writer);
    }
    stat_writer_free(&writer);
    if (!code && measured->map && (newest || !state->map)) {
        code = add_map(state, message, measured);
    }
    if (code || !newest) {
        return code;
    }
    if (measured->pairs || measured->head_similarity) {
        struct detail *detail = detail_new(measured);
        if (!detail) {
            return ERR_MEMORY;
        }
        detail_release(&state->detail);
        state->detail = detail;
    }
    state->newest = position_of(&message->header);
    state->local_window = measured->local_window;
    set_newest(state, message);
    return 0;
}

/* Any message may claim to have come from very many rows: the sum stays readable. */
static void add_rows_of(struct layer_state *state, uint64_t rows)
{
    uint64_t room = LAYER_STATE_ROWS_MOST - state->rows_of;
    state->rows_of += rows < room ? rows : room;
}

int layer_state_add(struct layer_state *state, const struct message *message,
                    const struct measured *measured)
{
    const struct position position = position_of(&message->header);
    int code = layer_state_ranks_add(state, message, measured);
    if (!code && message->header.type != MESSAGE_WEIGHTS) {
        code = layer_state_add_rows(state, message, measured);
    } else if (!code && position_reaches(&position, &state->weights_newest)) { /* not pooled */
        code = add_newest_weights(state, message, measured);
    }
    if (!code) {
        state->messages++;
        state->rows += measured->rows;
        add_rows_of(state, header_rows_of(&message->header, measured->rows));
        state->invalid_rows += measured->invalid_rows;
        if (measured->row_sum_error <= STAT_VALUE_MOST) {
            state->row_sum_error = fmax(state->row_sum_error, measured->row_sum_error);
        }
    }
    return code;
}

/* Merging: head by head, so that the sums of one head stay in the cache while the parts stream by
 */

static void take_detail(struct detail **into, struct detail *from)
{
    detail_release(into);
    *into = detail_reference(from);
}

static void merge_newest(struct layer_state *into, const struct layer_state *from)
{
    bool newer = position_reaches(&from->newest, &into->newest);
    if (position_reaches(&from->weights_newest, &into->weights_newest)) {
        into->weights_newest = from->weights_newest;
        take_detail(&into->weights, from->weights);
        layer_state_find_matrices(into);
    }
    if (from->map && (!into->map || newer)) {
        take_detail(&into->map, from->map);
    }
    if (!newer) {
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
    add_rows_of(into, from->rows_of);
    into->invalid_rows += from->invalid_rows;
    into->row_sum_error = fmax(into->row_sum_error, from->row_sum_error);
    into->messages += from->messages;
    tally_merge(&into->tally, &from->tally);
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        into->on[m] = into->on[m] || from->on[m];
    }
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        into->has_aggregate[a] = into->has_aggregate[a] || from->has_aggregate[a];
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        into->has_vector[v] = into->has_vector[v] || from->has_vector[v];
    }
}

/* Asks for the bytes of a head's numbers. */
static void layer_state_merge_prefetch(const struct layer_state *state, uint32_t h)
{
    if (h >= state->heads) {
        return;
    }
    const struct stat_set *set = &state->head[h].stats;
    for (uint32_t at = 0; at < set->size; at += CACHE_LINE) {
        __builtin_prefetch(set->bytes + at);
    }
}

static void find_leaders(uint8_t leader[STAT_SLOTS])
{
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        leader[slot] = (uint8_t)layer_state_leader(slot);
    }
}

static int merge_across(struct layer_state *into, const struct layer_state *const *from,
                        uint32_t count)
{
    uint8_t leader[STAT_SLOTS];
    struct position newest = into->newest;
    memset(leader, STAT_SLOTS, sizeof leader);
    struct stat_sums *sums = stat_sums_new(into->buckets, leader);
    int code = sums ? stat_sums_add(sums, &into->across, true) : ERR_MEMORY;
    for (uint32_t i = 0; i < count && !code; i++) {
        bool newer = position_reaches(&from[i]->newest, &newest);
        code = stat_sums_add(sums, &from[i]->across, newer);
        newest = newer ? from[i]->newest : newest;
    }
    if (!code) {
        code = stat_sums_take(sums, &into->across);
    }
    stat_sums_free(&sums);
    return code;
}

int layer_state_merge_all(struct layer_state *into, const struct layer_state *const *from,
                          uint32_t count)
{
    int code = layer_state_ranks_merge(into, from, count);
    if (!code) {
        uint8_t leader[STAT_SLOTS];
        find_leaders(leader);
        struct stat_sums *sums = stat_sums_new(into->buckets, leader);
        code = sums ? 0 : ERR_MEMORY;
        for (uint32_t h = 0; h < into->heads && !code; h++) {
            struct head_state *head = &into->head[h];
            code = stat_sums_add(sums, &head->stats, true);
            for (uint32_t i = 0; i < count && !code; i++) {
                if (i + AHEAD < count) {
                    layer_state_merge_prefetch(from[i + AHEAD], h);
                }
                if (h >= from[i]->heads) {
                    continue;
                }
                const struct head_state *part = &from[i]->head[h];
                bool newer = position_reaches(&part->newest, &head->newest);
                code = stat_sums_add(sums, &part->stats, newer);
                head->invalid_rows += part->invalid_rows;
                if (newer) {
                    head->newest = part->newest;
                    head->pattern = part->pattern;
                }
            }
            code = code ? code : stat_sums_take(sums, &head->stats);
        }
        stat_sums_free(&sums);
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
    uint8_t leader[STAT_SLOTS];
    struct stat_writer *writer = stat_writer_new(into->buckets);
    int code = writer ? layer_state_ranks_merge(into, &from, 1) : ERR_MEMORY;
    find_leaders(leader);
    for (uint32_t h = 0; h < into->heads && h < from->heads && !code; h++) {
        struct head_state *head = &into->head[h];
        const struct head_state *part = &from->head[h];
        bool newer = position_reaches(&part->newest, &head->newest);
        code = stat_set_merge(&head->stats, &part->stats, newer, leader, writer);
        head->invalid_rows += part->invalid_rows;
        if (newer) {
            head->newest = part->newest;
            head->pattern = part->pattern;
        }
    }
    memset(leader, STAT_SLOTS, sizeof leader); /* what goes across heads is of all that have any */
    if (!code) {
        bool newer = position_reaches(&from->newest, &into->newest);
        code = stat_set_merge(&into->across, &from->across, newer, leader, writer);
    }
    if (!code) {
        merge_counts(into, from);
        merge_newest(into, from);
    }
    stat_writer_free(&writer);
    return code;
}

/* One number of one head */

int layer_state_dist(const struct layer_state *state, int metric, uint32_t head,
                     struct dist *ret_dist)
{
    struct dist copy = {0};
    int code;
    if (metric < METRIC_MATRIX_FIRST) {
        struct stat_record stat = stat_find(&state->head[head].stats, (uint32_t)metric);
        code = stat_dist(&stat, &copy);
    } else {
        code = dist_add(&copy, layer_state_matrix_number(state, metric, head));
    }
    if (!code) {
        *ret_dist = copy;
    }
    return code;
}

static struct moments layer_state_matrix_moments(const struct layer_state *state, int metric,
                                                 uint32_t head)
{
    struct moments moments = {0};
    double number = layer_state_matrix_number(state, metric, head);
    if (isfinite(number)) {
        moments_add(&moments, number);
    }
    return moments;
}

struct moments layer_state_moments(const struct layer_state *state, int metric, uint32_t head)
{
    return metric < METRIC_MATRIX_FIRST
               ? stat_find(&state->head[head].stats, (uint32_t)metric).moments
               : layer_state_matrix_moments(state, metric, head);
}

void layer_state_all_moments(const struct layer_state *state, uint32_t head,
                             struct moments ret_moments[METRIC_COUNT])
{
    struct stat_reader reader;
    struct stat_record stat;
    uint32_t slot;
    memset(ret_moments, 0, METRIC_MATRIX_FIRST * sizeof *ret_moments);
    stat_reader_init(&reader, &state->head[head].stats);
    while (stat_read(&reader, &slot, &stat) && slot < METRIC_MATRIX_FIRST) {
        ret_moments[slot] = stat.moments;
    }
    for (int m = METRIC_MATRIX_FIRST; m < METRIC_COUNT; m++) {
        ret_moments[m] = layer_state_matrix_moments(state, m, head);
    }
}
