/* SPDX-License-Identifier: MIT */
/* A state as one MessagePack map: counts and names as such, numbers of heads as binaries. */
#include "layer_state_part.h"
#include "stored.h"

#include <stdlib.h>
#include <string.h>

#define PACK_VERSION 1
#define HEADS_MAX    65536 /* as limits.heads */

/* Writing */

static void put_number(struct mpk_writer *writer, const char *key, uint64_t number)
{
    mpk_put_str(writer, key);
    mpk_put_u64(writer, number);
}

static void put_newest(const struct layer_state *state, struct mpk_writer *writer)
{
    put_number(writer, "newest", state->newest);
    put_number(writer, "epoch", state->epoch);
    put_number(writer, "step", state->step);
    put_number(writer, "time_ns", state->time_ns);
    stored_put(writer, "shape", state->shape, 4, sizeof state->shape[0]);
    mpk_put_str(writer, "causal");
    mpk_put_bool(writer, state->causal);
    mpk_put_str(writer, "tier");
    mpk_put_str(writer, message_type_name(state->tier));
    put_number(writer, "local_window", state->local_window);
}

static void put_counts(const struct layer_state *state, struct mpk_writer *writer)
{
    put_number(writer, "rows", state->rows);
    put_number(writer, "invalid_rows", state->invalid_rows);
    stored_put(writer, "row_sum_error", &state->row_sum_error, 1, sizeof state->row_sum_error);
    put_number(writer, "messages", state->messages);
    stored_put(writer, "ranks", state->rank_bits, state->rank_bytes, 1);
}

static void put_tally(const struct tally *tally, struct mpk_writer *writer)
{
    uint32_t kinds = 0;
    for (int i = 0; i < ERR_COUNT; i++)
        kinds += tally->dropped[i] > 0;
    put_number(writer, "lost", tally->lost);
    put_number(writer, "source", tally->source);
    mpk_put_str(writer, "dropped");
    mpk_put_map(writer, kinds);
    for (int i = 0; i < ERR_COUNT; i++)
        if (tally->dropped[i])
            put_number(writer, err_slug(ERR_BASE - i), tally->dropped[i]);
}

static void put_detail(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "detail");
    detail_pack(state->detail, state->heads, writer);
    mpk_put_str(writer, "weights");
    detail_pack(state->weights, state->heads, writer);
    put_number(writer, "weights_arrival", state->weights_arrival);
}

/* One head or more, side by side: moments, the number of buckets, the buckets. */
static void put_dists(const struct dist *dist, uint32_t count, struct mpk_writer *writer)
{
    mpk_put_array(writer, count);
    for (uint32_t h = 0; h < count; h++) {
        mpk_put_array(writer, 3);
        mpk_put_bin(writer, &dist[h].moments, sizeof dist[h].moments);
        mpk_put_u64(writer, dist[h].hist.halvings);
        mpk_put_bin(writer, dist[h].hist.buckets, dist[h].hist.used * sizeof(struct bucket));
    }
}

static void put_metrics(const struct layer_state *state, struct mpk_writer *writer)
{
    uint32_t count = 0;
    for (int m = 0; m < METRIC_COUNT; m++)
        count += state->on[m];
    mpk_put_str(writer, "metrics");
    mpk_put_map(writer, count);
    for (int m = 0; m < METRIC_COUNT; m++) {
        if (!state->on[m])
            continue;
        mpk_put_str(writer, metric_info[m].name);
        mpk_put_map(writer, 2);
        stored_put(writer, "last", state->last + (size_t)m * state->heads, state->heads,
                   sizeof *state->last);
        mpk_put_str(writer, "dist");
        put_dists(state->stat[m], state->stat[m] ? state->heads : 0, writer);
    }
}

static void put_vectors(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "vectors");
    mpk_put_map(writer, VECTOR_COUNT);
    for (int v = 0; v < VECTOR_COUNT; v++) {
        mpk_put_str(writer, vector_info[v].name);
        mpk_put_map(writer, 2);
        mpk_put_str(writer, "on");
        mpk_put_bool(writer, state->has_vector[v]);
        stored_put(writer, "moments", state->vector[v],
                   (uint64_t)state->heads * vector_info[v].width, sizeof(struct moments));
    }
    stored_put(writer, "vector_last", state->vector_last, (uint64_t)state->heads * VECTORS_WIDTH,
               sizeof *state->vector_last);
}

static void put_aggregates(const struct layer_state *state, struct mpk_writer *writer)
{
    stored_put(writer, "has_aggregate", state->has_aggregate, AGGREGATE_COUNT, 1);
    stored_put(writer, "aggregate_last", state->aggregate_last,
               (uint64_t)AGGREGATE_COUNT * MAP_STAT_COUNT, sizeof(double));
    mpk_put_str(writer, "aggregate");
    put_dists(&state->aggregate[0][0], AGGREGATE_COUNT * MAP_STAT_COUNT, writer);
    stored_put(writer, "sink_rate_last", &state->sink_rate_last, 1, sizeof state->sink_rate_last);
    mpk_put_str(writer, "sink_rate");
    put_dists(&state->sink_rate, 1, writer);
}

int layer_state_pack(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_map(writer, 32);
    put_number(writer, "v", PACK_VERSION);
    put_number(writer, "heads", state->heads);
    put_number(writer, "buckets", state->buckets);
    put_newest(state, writer);
    put_counts(state, writer);
    put_tally(&state->tally, writer);
    put_detail(state, writer);
    stored_put(writer, "last_arrival", state->last_arrival, state->heads,
               sizeof *state->last_arrival);
    stored_put(writer, "pattern", state->pattern, state->heads, sizeof *state->pattern);
    put_metrics(state, writer);
    put_vectors(state, writer);
    put_aggregates(state, writer);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* Reading */

static int get_tier(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *value = mpk_find(map, "tier");
    for (int i = 0; value && i < MESSAGE_EVENT; i++) {
        if (mpk_is_str(value, message_type_name((enum message_type)i))) {
            state->tier = (enum message_type)i;
            return 0;
        }
    }
    return ERR_STORE_FORMAT;
}

static int get_newest(struct layer_state *state, const msgpack_object *map)
{
    int code = stored_u64(map, "newest", UINT64_MAX, &state->newest);
    if (!code)
        code = stored_u64(map, "epoch", UINT64_MAX, &state->epoch);
    if (!code)
        code = stored_u64(map, "step", UINT64_MAX, &state->step);
    if (!code)
        code = stored_u64(map, "time_ns", UINT64_MAX, &state->time_ns);
    if (!code)
        code = stored_fill(map, "shape", state->shape, sizeof state->shape);
    if (!code)
        code = stored_bool(map, "causal", &state->causal);
    if (!code)
        code = get_tier(state, map);
    if (!code)
        code = stored_u32(map, "local_window", UINT32_MAX, &state->local_window);
    return code;
}

static int get_ranks(struct layer_state *state, const msgpack_object *map)
{
    const uint8_t *bits;
    size_t bytes;
    int code = stored_bytes(map, "ranks", &bits, &bytes);
    if (!code && bytes > UINT32_MAX / 8)
        code = ERR_STORE_FORMAT;
    if (!code && bytes > 0)
        code = layer_state_reserve_ranks(state, (uint32_t)bytes);
    if (!code && bytes > 0)
        memcpy(state->rank_bits, bits, bytes);
    return code;
}

static int get_counts(struct layer_state *state, const msgpack_object *map)
{
    int code = stored_u64(map, "rows", UINT64_MAX, &state->rows);
    if (!code)
        code = stored_u64(map, "invalid_rows", UINT64_MAX, &state->invalid_rows);
    if (!code)
        code =
            stored_fill(map, "row_sum_error", &state->row_sum_error, sizeof state->row_sum_error);
    if (!code)
        code = stored_u64(map, "messages", UINT64_MAX, &state->messages);
    return code ? code : get_ranks(state, map);
}

/* Reasons that this version does not know are not among its counts. */
static int get_tally(struct tally *tally, const msgpack_object *map)
{
    const msgpack_object *dropped = mpk_find(map, "dropped");
    int code = dropped && dropped->type == MSGPACK_OBJECT_MAP ? 0 : ERR_STORE_FORMAT;
    if (!code)
        code = stored_u64(map, "lost", UINT64_MAX, &tally->lost);
    if (!code)
        code = stored_u64(map, "source", UINT64_MAX, &tally->source);
    for (int i = 0; i < ERR_COUNT && !code; i++) {
        const char *slug = err_slug(ERR_BASE - i);
        if (mpk_find(dropped, slug))
            code = stored_u64(dropped, slug, UINT64_MAX, &tally->dropped[i]);
    }
    return code;
}

static int get_detail(struct layer_state *state, const msgpack_object *map)
{
    int code = detail_unpack(mpk_find(map, "detail"), state->heads, &state->detail);
    if (!code)
        code = detail_unpack(mpk_find(map, "weights"), state->heads, &state->weights);
    if (!code)
        code = stored_u64(map, "weights_arrival", UINT64_MAX, &state->weights_arrival);
    return code;
}

/* Keys ascend and no count is zero; there are buckets when there are values. */
static bool is_sound(const struct dist *dist)
{
    const struct hist *h = &dist->hist;
    for (uint32_t i = 0; i < h->used; i++)
        if (h->buckets[i].count == 0 || h->buckets[i].key < -HIST_KEY_MAX ||
            h->buckets[i].key > HIST_KEY_MAX ||
            (i > 0 && h->buckets[i].key <= h->buckets[i - 1].key))
            return false;
    return (h->used > 0) == (dist->moments.n > 0);
}

static int get_dist(struct dist *dist, const msgpack_object *pair)
{
    if (pair->type != MSGPACK_OBJECT_ARRAY || pair->via.array.size != 3)
        return ERR_STORE_FORMAT;
    const msgpack_object *moments = &pair->via.array.ptr[0], *buckets = &pair->via.array.ptr[2];
    uint64_t halvings;
    size_t size = sizeof(struct bucket);
    if (moments->type != MSGPACK_OBJECT_BIN || buckets->type != MSGPACK_OBJECT_BIN ||
        moments->via.bin.size != sizeof dist->moments || buckets->via.bin.size % size != 0 ||
        buckets->via.bin.size / size > HIST_KEYS ||
        mpk_get_u64(&pair->via.array.ptr[1], HIST_HALVINGS_MAX, &halvings) != 0)
        return ERR_STORE_FORMAT;
    memcpy(&dist->moments, moments->via.bin.ptr, sizeof dist->moments);
    uint32_t used = (uint32_t)(buckets->via.bin.size / size);
    if (used > 0) {
        dist->hist.buckets = malloc(used * size);
        if (!dist->hist.buckets)
            return ERR_MEMORY;
        memcpy(dist->hist.buckets, buckets->via.bin.ptr, used * size);
    }
    dist->hist.used = dist->hist.capacity = used;
    dist->hist.halvings = (uint32_t)halvings;
    return is_sound(dist) ? 0 : ERR_STORE_FORMAT;
}

static int get_dists(struct dist *dist, uint32_t count, const msgpack_object *array)
{
    if (!array || array->type != MSGPACK_OBJECT_ARRAY || array->via.array.size != count)
        return ERR_STORE_FORMAT;
    int code = 0;
    for (uint32_t i = 0; i < count && !code; i++)
        code = get_dist(&dist[i], &array->via.array.ptr[i]);
    return code;
}

static int get_metric(struct layer_state *state, int m, const msgpack_object *map)
{
    state->on[m] = true;
    const msgpack_object *dists = mpk_find(map, "dist");
    int code = stored_fill(map, "last", state->last + (size_t)m * state->heads,
                           state->heads * sizeof *state->last);
    if (code || !dists || dists->type != MSGPACK_OBJECT_ARRAY)
        return ERR_STORE_FORMAT;
    if (dists->via.array.size == 0)
        return 0;
    code = layer_state_reserve_stat(state, m);
    return code ? code : get_dists(state->stat[m], state->heads, dists);
}

static int get_metrics(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *metrics = mpk_find(map, "metrics");
    int code = metrics && metrics->type == MSGPACK_OBJECT_MAP ? 0 : ERR_STORE_FORMAT;
    for (int m = 0; m < METRIC_COUNT && !code; m++) {
        const msgpack_object *metric = mpk_find(metrics, metric_info[m].name);
        if (metric)
            code = get_metric(state, m, metric);
    }
    return code;
}

static int get_vector(struct layer_state *state, int v, const msgpack_object *map)
{
    const uint8_t *moments;
    size_t size;
    int code = stored_bool(map, "on", &state->has_vector[v]);
    if (!code)
        code = stored_bytes(map, "moments", &moments, &size);
    if (code || !moments)
        return code;
    if (size != (uint64_t)state->heads * vector_info[v].width * sizeof(struct moments))
        return ERR_STORE_FORMAT;
    code = layer_state_reserve_vector(state, v);
    if (!code)
        memcpy(state->vector[v], moments, size);
    return code;
}

static int get_vectors(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *vectors = mpk_find(map, "vectors");
    int code = 0;
    for (int v = 0; v < VECTOR_COUNT && !code; v++) {
        const msgpack_object *vector = mpk_find(vectors, vector_info[v].name);
        if (vector)
            code = get_vector(state, v, vector);
    }
    if (!code && state->vector_last)
        code = stored_fill(map, "vector_last", state->vector_last,
                           (size_t)state->heads * VECTORS_WIDTH * sizeof *state->vector_last);
    return code;
}

static int get_aggregates(struct layer_state *state, const msgpack_object *map)
{
    uint8_t has[AGGREGATE_COUNT];
    int code = stored_fill(map, "has_aggregate", has, sizeof has);
    if (!code)
        code =
            stored_fill(map, "aggregate_last", state->aggregate_last, sizeof state->aggregate_last);
    if (!code)
        code = get_dists(&state->aggregate[0][0], AGGREGATE_COUNT * MAP_STAT_COUNT,
                         mpk_find(map, "aggregate"));
    if (!code)
        code = stored_fill(map, "sink_rate_last", &state->sink_rate_last,
                           sizeof state->sink_rate_last);
    if (!code)
        code = get_dists(&state->sink_rate, 1, mpk_find(map, "sink_rate"));
    for (int a = 0; a < AGGREGATE_COUNT && !code; a++)
        state->has_aggregate[a] = has[a] != 0;
    return code;
}

static int get_heads(struct layer_state *state, const msgpack_object *map)
{
    int code = stored_fill(map, "last_arrival", state->last_arrival,
                           state->heads * sizeof *state->last_arrival);
    if (!code)
        code = stored_fill(map, "pattern", state->pattern, state->heads * sizeof *state->pattern);
    for (uint32_t h = 0; h < state->heads && !code; h++)
        code = (unsigned)state->pattern[h] < PATTERN_COUNT ? 0 : ERR_STORE_FORMAT;
    return code;
}

static int fill(struct layer_state *state, const msgpack_object *map)
{
    int code = get_newest(state, map);
    if (!code)
        code = get_counts(state, map);
    if (!code)
        code = get_tally(&state->tally, map);
    if (!code)
        code = get_detail(state, map);
    if (!code)
        code = get_heads(state, map);
    if (!code)
        code = get_metrics(state, map);
    if (!code)
        code = get_vectors(state, map);
    if (!code)
        code = get_aggregates(state, map);
    return code;
}

/* So many heads that there are bytes for them. */
static int get_size(const msgpack_object *map, size_t size, uint32_t *ret_heads)
{
    uint64_t version;
    int code = stored_u64(map, "v", PACK_VERSION, &version);
    if (!code)
        code = stored_u32(map, "heads", HEADS_MAX, ret_heads);
    if (!code && (version != PACK_VERSION || *ret_heads == 0 || *ret_heads > size / 8))
        code = ERR_STORE_FORMAT;
    return code;
}

int layer_state_unpack(const void *data, size_t size, struct layer_state **ret_state)
{
    struct mpk_doc doc;
    struct layer_state *state = NULL;
    uint32_t heads = 0, buckets = 0;
    int code = mpk_parse(data, size, &stored_limits, &doc);
    if (code)
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    code = get_size(doc.root, size, &heads);
    if (!code)
        code = stored_u32(doc.root, "buckets", UINT32_MAX, &buckets);
    if (!code) {
        state = layer_state_new(heads, buckets);
        code = state ? fill(state, doc.root) : ERR_MEMORY;
    }
    mpk_doc_clear(&doc);
    if (code)
        layer_state_free(&state);
    else
        *ret_state = state;
    return code;
}
