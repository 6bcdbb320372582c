/* SPDX-License-Identifier: MIT */
/* A state as one MessagePack map: counts and names as such, numbers of heads as binaries.
 * proto/PROTOCOL.md, section 6, is the contract. */
#include "daemon/state/layer_state_internal.h"
#include "daemon/state/stored.h"

#include <stdlib.h>
#include <string.h>

static void put_position(const struct position *position, struct mpk_writer *writer)
{
    if (!position_exists(position)) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_array(writer, LAYER_POSITION_NUMBERS);
    mpk_put_u64(writer, position->epoch);
    mpk_put_u64(writer, position->step);
    mpk_put_u64(writer, position->microbatch);
    mpk_put_u64(writer, position->rank - 1);
}

/* The slots of the sets by name, so that another version finds its own. */

static uint32_t count_to_last(const bool *on, uint32_t count)
{
    while (count > 0 && !on[count - 1]) {
        count--;
    }
    return count;
}

static void put_set(const struct stat_set *set, struct mpk_writer *writer)
{
    mpk_put_bin(writer, set->bytes, set->size);
}

/* By head, where they differ. */
static void put_heads_newest(const struct layer_state *state, struct mpk_writer *writer)
{
    bool differ = false;
    for (uint32_t h = 0; h < state->heads && !differ; h++) {
        differ = !position_reaches(&state->head[h].newest, &state->newest) ||
                 !position_reaches(&state->newest, &state->head[h].newest);
    }
    mpk_put_str(writer, "heads_newest");
    if (!differ) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_array(writer, state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        put_position(&state->head[h].newest, writer);
    }
}

static void layer_state_pack_put_heads(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_pair_array(writer, "heads", state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        put_set(&state->head[h].stats, writer);
    }
    put_heads_newest(state, writer);
    mpk_pair_array(writer, "patterns", state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        if (pattern_name[state->head[h].pattern]) {
            mpk_put_str(writer, pattern_name[state->head[h].pattern]);
        } else {
            mpk_put_nil(writer);
        }
    }
    mpk_put_str(writer, "across");
    put_set(&state->across, writer);
}

int layer_state_pack(const struct layer_state *state, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    mpk_pair_u64(writer, "v", LAYER_STATE_VERSION);
    mpk_pair_u64(writer, "buckets", state->buckets);
    mpk_put_str(writer, "newest");
    put_position(&state->newest, writer);
    mpk_pair_u64(writer, "time_ns", state->time_ns);
    mpk_pair_array(writer, "shape", LAYER_SHAPE_NUMBERS);
    for (int i = 0; i < LAYER_SHAPE_NUMBERS; i++) {
        mpk_put_u64(writer, state->shape[i]);
    }
    mpk_pair_bool(writer, "causal", state->causal);
    mpk_pair_str(writer, "tier", message_type_name(state->tier));
    mpk_pair_u64(writer, "local_window", state->local_window);
    mpk_pair_u64(writer, "rows", state->rows);
    mpk_pair_u64(writer, "invalid_rows", state->invalid_rows);
    mpk_pair_f64(writer, "row_sum_error", state->row_sum_error);
    mpk_pair_u64(writer, "messages", state->messages);
    mpk_pair_u64(writer, "rank_first", state->rank_first);
    stored_put(writer, "ranks", state->rank_bits, state->rank_bytes, 1);
    mpk_pair_u64(writer, "lost", state->tally.lost);
    mpk_pair_u64(writer, "source", state->tally.source);
    struct mpk_open dropped = mpk_open(writer, "dropped");
    for (int i = 0; i < ERR_COUNT; i++) {
        if (state->tally.dropped[i]) {
            mpk_pair_u64(writer, err_slug(ERR_BASE - i), state->tally.dropped[i]);
        }
    }
    mpk_close_map(writer, &dropped);
    mpk_put_str(writer, "detail");
    detail_pack(state->detail, state->heads, writer);
    mpk_put_str(writer, "weights");
    detail_pack(state->weights, state->heads, writer);
    mpk_put_str(writer, "weights_newest");
    put_position(&state->weights_newest, writer);
    mpk_pair_array(writer, "metrics", count_to_last(state->on, METRIC_MATRIX_FIRST));
    for (uint32_t m = 0; m < count_to_last(state->on, METRIC_MATRIX_FIRST); m++) {
        mpk_put_str(writer, state->on[m] ? metric_info[m].name : NULL);
    }
    mpk_pair_array(writer, "vectors", count_to_last(state->has_vector, VECTOR_COUNT));
    for (uint32_t v = 0; v < count_to_last(state->has_vector, VECTOR_COUNT); v++) {
        mpk_put_map(writer, 3);
        mpk_pair_str(writer, "name", vector_info[v].name);
        mpk_pair_u64(writer, "width", vector_info[v].width);
        mpk_pair_bool(writer, "on", state->has_vector[v]);
    }
    mpk_pair_array(writer, "aggregates", AGGREGATE_COUNT);
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        mpk_put_str(writer, state->has_aggregate[a] ? aggregate_name[a] : NULL);
    }
    layer_state_pack_put_heads(state, writer);
    if (state->invalid_rows > 0) {
        /* By head; only where there are any. */
        mpk_pair_array(writer, "heads_invalid_rows", state->heads);
        for (uint32_t h = 0; h < state->heads; h++) {
            mpk_put_u64(writer, state->head[h].invalid_rows);
        }
    }
    if (state->rows_of > state->rows) {
        mpk_pair_u64(writer, "rows_of", state->rows_of);
    }
    if (state->rank_entropy.count > 0) {
        mpk_put_str(writer, "rank_entropy");
        rank_entropy_pack(&state->rank_entropy, writer);
    }
    mpk_close_map(writer, &map);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}
