/* SPDX-License-Identifier: MIT */
/* A state as one MessagePack map: counts and names as such, numbers of heads as binaries. */
#include "daemon/state/layer_state_internal.h"
#include "daemon/state/stored.h"

#include <stdlib.h>
#include <string.h>

#define PACK_VERSION 1
#define KEYS         28
#define HEADS_MAX    65536 /* as limits.heads */

/* Writing */

static void layer_state_pack_put_newest(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_pair_u64(writer, "newest", state->newest);
    mpk_pair_u64(writer, "epoch", state->epoch);
    mpk_pair_u64(writer, "step", state->step);
    mpk_pair_u64(writer, "time_ns", state->time_ns);
    stored_put(writer, "shape", state->shape, 4, sizeof state->shape[0]);
    mpk_pair_bool(writer, "causal", state->causal);
    mpk_pair_str(writer, "tier", message_type_name(state->tier));
    mpk_pair_u64(writer, "local_window", state->local_window);
}

static void layer_state_pack_put_counts(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_pair_u64(writer, "rows", state->rows);
    mpk_pair_u64(writer, "invalid_rows", state->invalid_rows);
    stored_put(writer, "row_sum_error", &state->row_sum_error, 1, sizeof state->row_sum_error);
    mpk_pair_u64(writer, "messages", state->messages);
    stored_put(writer, "ranks", state->rank_bits, state->rank_bytes, 1);
}

static void layer_state_pack_put_tally(const struct tally *tally, struct mpk_writer *writer)
{
    uint32_t kinds = 0;
    for (int i = 0; i < ERR_COUNT; i++) {
        kinds += tally->dropped[i] > 0;
    }
    mpk_pair_u64(writer, "lost", tally->lost);
    mpk_pair_u64(writer, "source", tally->source);
    mpk_put_str(writer, "dropped");
    mpk_put_map(writer, kinds);
    for (int i = 0; i < ERR_COUNT; i++) {
        if (tally->dropped[i]) {
            mpk_pair_u64(writer, err_slug(ERR_BASE - i), tally->dropped[i]);
        }
    }
}

static void put_detail(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "detail");
    detail_pack(state->detail, state->heads, writer);
    mpk_put_str(writer, "weights");
    detail_pack(state->weights, state->heads, writer);
    mpk_pair_u64(writer, "weights_arrival", state->weights_arrival);
}

/* The slots of the sets by name, so that another version finds its own. */

static void put_names(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "metrics");
    mpk_put_array(writer, METRIC_MATRIX_FIRST);
    for (int m = 0; m < METRIC_MATRIX_FIRST; m++) {
        if (state->on[m]) {
            mpk_put_str(writer, metric_info[m].name);
        } else {
            mpk_put_nil(writer);
        }
    }
    mpk_put_str(writer, "vectors");
    mpk_put_array(writer, VECTOR_COUNT);
    for (int v = 0; v < VECTOR_COUNT; v++) {
        mpk_put_map(writer, 3);
        mpk_pair_str(writer, "name", vector_info[v].name);
        mpk_pair_u64(writer, "width", vector_info[v].width);
        mpk_pair_bool(writer, "on", state->has_vector[v]);
    }
    mpk_put_str(writer, "aggregates");
    mpk_put_array(writer, AGGREGATE_COUNT);
    for (int a = 0; a < AGGREGATE_COUNT; a++) {
        mpk_put_bool(writer, state->has_aggregate[a]);
    }
}

static void put_set(const struct stat_set *set, struct mpk_writer *writer)
{
    mpk_put_bin(writer, set->bytes, set->size);
}

static void layer_state_pack_put_heads(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "heads");
    mpk_put_array(writer, state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        put_set(&state->head[h].stats, writer);
    }
    mpk_put_str(writer, "arrivals");
    mpk_put_array(writer, state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        mpk_put_u64(writer, state->head[h].last_arrival);
    }
    mpk_put_str(writer, "patterns");
    mpk_put_array(writer, state->heads);
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

/* By head; only where there are any. */
static void layer_state_pack_put_invalid(const struct layer_state *state, struct mpk_writer *writer)
{
    mpk_put_str(writer, "heads_invalid_rows");
    mpk_put_array(writer, state->heads);
    for (uint32_t h = 0; h < state->heads; h++) {
        mpk_put_u64(writer, state->head[h].invalid_rows);
    }
}

int layer_state_pack_judged(const struct layer_state *state, const double *trouble,
                            struct mpk_writer *writer)
{
    bool invalid = state->invalid_rows > 0;
    mpk_put_map(writer, KEYS + (uint32_t)invalid + (trouble != NULL));
    mpk_pair_u64(writer, "v", PACK_VERSION);
    mpk_pair_u64(writer, "buckets", state->buckets);
    layer_state_pack_put_newest(state, writer);
    layer_state_pack_put_counts(state, writer);
    layer_state_pack_put_tally(&state->tally, writer);
    put_detail(state, writer);
    put_names(state, writer);
    layer_state_pack_put_heads(state, writer);
    if (invalid) {
        layer_state_pack_put_invalid(state, writer);
    }
    if (trouble) {
        stored_put(writer, "trouble", trouble, state->heads, sizeof *trouble);
    }
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

int layer_state_pack(const struct layer_state *state, struct mpk_writer *writer)
{
    return layer_state_pack_judged(state, NULL, writer);
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
    if (!code) {
        code = stored_u64(map, "epoch", UINT64_MAX, &state->epoch);
    }
    if (!code) {
        code = stored_u64(map, "step", UINT64_MAX, &state->step);
    }
    if (!code) {
        code = stored_u64(map, "time_ns", UINT64_MAX, &state->time_ns);
    }
    if (!code) {
        code = stored_fill(map, "shape", state->shape, sizeof state->shape);
    }
    if (!code) {
        code = stored_bool(map, "causal", &state->causal);
    }
    if (!code) {
        code = get_tier(state, map);
    }
    if (!code) {
        code = stored_u32(map, "local_window", UINT32_MAX, &state->local_window);
    }
    return code;
}

static int get_ranks(struct layer_state *state, const msgpack_object *map)
{
    const uint8_t *bits;
    size_t bytes;
    int code = stored_bytes(map, "ranks", &bits, &bytes);
    if (!code && bytes > UINT32_MAX / 8) {
        code = ERR_STORE_FORMAT;
    }
    if (!code && bytes > 0) {
        code = layer_state_reserve_ranks(state, (uint32_t)bytes);
    }
    if (!code && bytes > 0) {
        memcpy(state->rank_bits, bits, bytes);
    }
    return code;
}

static int get_counts(struct layer_state *state, const msgpack_object *map)
{
    int code = stored_u64(map, "rows", UINT64_MAX, &state->rows);
    if (!code) {
        code = stored_u64(map, "invalid_rows", UINT64_MAX, &state->invalid_rows);
    }
    if (!code) {
        code =
            stored_fill(map, "row_sum_error", &state->row_sum_error, sizeof state->row_sum_error);
    }
    if (!code) {
        code = stored_u64(map, "messages", UINT64_MAX, &state->messages);
    }
    return code ? code : get_ranks(state, map);
}

/* Reasons that this version does not know are not among its counts. */
static int get_tally(struct tally *tally, const msgpack_object *map)
{
    const msgpack_object *dropped = mpk_find(map, "dropped");
    int code = dropped && dropped->type == MSGPACK_OBJECT_MAP ? 0 : ERR_STORE_FORMAT;
    if (!code) {
        code = stored_u64(map, "lost", UINT64_MAX, &tally->lost);
    }
    if (!code) {
        code = stored_u64(map, "source", UINT64_MAX, &tally->source);
    }
    for (int i = 0; i < ERR_COUNT && !code; i++) {
        const char *slug = err_slug(ERR_BASE - i);
        if (mpk_find(dropped, slug)) {
            code = stored_u64(dropped, slug, UINT64_MAX, &tally->dropped[i]);
        }
    }
    return code;
}

static int get_detail(struct layer_state *state, const msgpack_object *map)
{
    int code = detail_unpack(mpk_find(map, "detail"), state->heads, &state->detail);
    if (!code) {
        code = detail_unpack(mpk_find(map, "weights"), state->heads, &state->weights);
    }
    if (!code) {
        code = stored_u64(map, "weights_arrival", UINT64_MAX, &state->weights_arrival);
    }
    layer_state_find_matrices(state);
    return code;
}

static const msgpack_object *layer_state_pack_get_array(const msgpack_object *map, const char *key)
{
    const msgpack_object *array = mpk_find(map, key);
    return array && array->type == MSGPACK_OBJECT_ARRAY ? array : NULL;
}

/* Where the numbers of a head belong that the document numbers by its own lists; STAT_SLOTS: this
 * version has no such number. */
struct slots {
    uint8_t to[STAT_SLOTS];
};

/* METRIC_MATRIX_FIRST when there is none. A state of this version has each at its own place. */
static int metric_named(const msgpack_object *name, int likely)
{
    if (likely < METRIC_MATRIX_FIRST && mpk_is_str(name, metric_info[likely].name)) {
        return likely;
    }
    int m = 0;
    while (m < METRIC_MATRIX_FIRST && !mpk_is_str(name, metric_info[m].name)) {
        m++;
    }
    return m;
}

static void get_metric_names(struct layer_state *state, const msgpack_object *names,
                             struct slots *slots)
{
    for (uint32_t i = 0; i < names->via.array.size && i < STAT_HISTS; i++) {
        int m = metric_named(&names->via.array.ptr[i], (int)i);
        if (m < METRIC_MATRIX_FIRST) {
            slots->to[i] = (uint8_t)m;
            state->on[m] = true;
        }
    }
}

static void map_vector(int v, uint32_t at, uint32_t width, struct slots *slots)
{
    for (uint32_t i = 0; i < width && i < vector_info[v].width; i++) {
        slots->to[at + i] = (uint8_t)layer_vector_slot(v, i);
    }
}

static int get_vector_names(struct layer_state *state, const msgpack_object *vectors,
                            struct slots *slots)
{
    uint32_t at = STAT_HISTS, width;
    bool on;
    for (uint32_t i = 0; i < vectors->via.array.size; i++, at += width) {
        const msgpack_object *vector = &vectors->via.array.ptr[i], *name = mpk_find(vector, "name");
        if (!name || stored_u32(vector, "width", STAT_SLOTS - at, &width) != 0 ||
            stored_bool(vector, "on", &on) != 0) {
            return ERR_STORE_FORMAT;
        }
        for (int v = 0; v < VECTOR_COUNT; v++) {
            if (mpk_is_str(name, vector_info[v].name)) {
                map_vector(v, at, width, slots);
                state->has_vector[v] = on;
            }
        }
    }
    return 0;
}

/* Whether no two numbers go to the same place. */
static bool is_injective(const struct slots *slots)
{
    bool taken[STAT_SLOTS] = {false};
    for (uint32_t i = 0; i < STAT_SLOTS; i++) {
        if (slots->to[i] == STAT_SLOTS) {
            continue;
        }
        if (taken[slots->to[i]]) {
            return false;
        }
        taken[slots->to[i]] = true;
    }
    return true;
}

static int get_names(struct layer_state *state, const msgpack_object *map, struct slots *slots)
{
    const msgpack_object *metrics = layer_state_pack_get_array(map, "metrics"),
                         *vectors = layer_state_pack_get_array(map, "vectors"),
                         *aggregates = layer_state_pack_get_array(map, "aggregates");
    memset(slots->to, STAT_SLOTS, sizeof slots->to);
    if (!metrics || !vectors || !aggregates || aggregates->via.array.size != AGGREGATE_COUNT) {
        return ERR_STORE_FORMAT;
    }
    get_metric_names(state, metrics, slots);
    int code = get_vector_names(state, vectors, slots);
    for (int a = 0; a < AGGREGATE_COUNT && !code; a++) {
        if (mpk_get_bool(&aggregates->via.array.ptr[a], &state->has_aggregate[a]) != 0) {
            code = ERR_STORE_FORMAT;
        }
    }
    return code || is_injective(slots) ? code : ERR_STORE_FORMAT;
}

static int get_set(struct layer_state *state, const msgpack_object *bin,
                   const struct stat_mask *hists, struct stat_set *set)
{
    if (!bin || bin->type != MSGPACK_OBJECT_BIN ||
        !stat_set_check((const uint8_t *)bin->via.bin.ptr, bin->via.bin.size, state->buckets,
                        hists)) {
        return ERR_STORE_FORMAT;
    }
    int code = stat_set_assign(set, (const uint8_t *)bin->via.bin.ptr, bin->via.bin.size);
    state->stats_bytes += stat_set_bytes(set);
    return code;
}

static bool is_in_place(const struct stat_set *set, const struct slots *slots)
{
    struct stat_reader reader;
    struct stat_record record;
    uint32_t slot;
    stat_reader_init(&reader, set);
    while (stat_read(&reader, &slot, &record)) {
        if (slots->to[slot] != slot) {
            return false;
        }
    }
    return true;
}

static int move_sets(struct layer_state *state, const struct slots *slots)
{
    struct stat_writer *writer = stat_writer_new(state->buckets);
    int code = writer ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < state->heads && !code; h++) {
        if (!is_in_place(&state->head[h].stats, slots)) {
            code = stat_set_move(&state->head[h].stats, slots->to, writer);
        }
    }
    stat_writer_free(&writer);
    return code;
}

/* Patterns that this version does not know are none. */
static void get_pattern(const msgpack_object *name, struct head_state *head)
{
    for (uint8_t i = 0; i < PATTERN_COUNT; i++) {
        if (pattern_name[i] && mpk_is_str(name, pattern_name[i])) {
            head->pattern = i;
        }
    }
}

/* `hists`: those of the document's slots whose histograms will be read; NULL: all. */
static int layer_state_pack_get_heads(struct layer_state *state, const msgpack_object *map,
                                      const struct stat_mask *hists)
{
    const msgpack_object *heads = layer_state_pack_get_array(map, "heads"),
                         *arrivals = layer_state_pack_get_array(map, "arrivals"),
                         *patterns = layer_state_pack_get_array(map, "patterns");
    if (!arrivals || arrivals->via.array.size != state->heads || !patterns ||
        patterns->via.array.size != state->heads) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        struct head_state *head = &state->head[h];
        int code = get_set(state, &heads->via.array.ptr[h], hists, &head->stats);
        if (code) {
            return code;
        }
        if (mpk_get_u64(&arrivals->via.array.ptr[h], UINT64_MAX, &head->last_arrival) != 0) {
            return ERR_STORE_FORMAT;
        }
        get_pattern(&patterns->via.array.ptr[h], head);
    }
    return get_set(state, mpk_find(map, "across"), NULL, &state->across);
}

/* States of an older attnd have none. */
static int layer_state_pack_get_invalid(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *counts = mpk_find(map, "heads_invalid_rows");
    if (!counts) {
        return 0;
    }
    if (counts->type != MSGPACK_OBJECT_ARRAY || counts->via.array.size != state->heads ||
        state->invalid_rows == 0) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        if (mpk_get_u64(&counts->via.array.ptr[h], UINT64_MAX, &state->head[h].invalid_rows) != 0) {
            return ERR_STORE_FORMAT;
        }
    }
    return 0;
}

/* Where the document has a metric. */
static struct stat_mask slots_of(int metric, const struct slots *slots)
{
    struct stat_mask mask = {{0}};
    for (uint32_t i = 0; i < STAT_HISTS; i++) {
        if (slots->to[i] == metric) {
            stat_mask_set(&mask, i);
        }
    }
    return mask;
}

static int layer_state_pack_fill(struct layer_state *state, const msgpack_object *map,
                                 const int *metric)
{
    struct slots slots;
    int code = get_newest(state, map);
    if (!code) {
        code = get_counts(state, map);
    }
    if (!code) {
        code = get_tally(&state->tally, map);
    }
    if (!code) {
        code = get_detail(state, map);
    }
    if (!code) {
        code = get_names(state, map, &slots);
    }
    if (!code) {
        struct stat_mask wanted = metric ? slots_of(*metric, &slots) : (struct stat_mask){{0}};
        code = layer_state_pack_get_heads(state, map, metric ? &wanted : NULL);
    }
    if (!code) {
        code = move_sets(state, &slots);
    }
    if (!code) {
        code = layer_state_pack_get_invalid(state, map);
    }
    if (!code && mpk_find(map, "trouble")) {
        code = stored_copy(map, "trouble", state->heads, sizeof *state->trouble,
                           (void **)&state->trouble);
    }
    return code;
}

static int new_state(const msgpack_object *map, struct layer_state **ret_state)
{
    const msgpack_object *heads = layer_state_pack_get_array(map, "heads");
    uint64_t version;
    uint32_t buckets;
    if (stored_u64(map, "v", PACK_VERSION, &version) != 0 || version != PACK_VERSION || !heads ||
        heads->via.array.size == 0 || heads->via.array.size > HEADS_MAX ||
        stored_u32(map, "buckets", HIST_KEYS, &buckets) != 0) {
        return ERR_STORE_FORMAT;
    }
    *ret_state = layer_state_new(heads->via.array.size, buckets);
    return *ret_state ? 0 : ERR_MEMORY;
}

/* `metric`: the only one whose histograms will be read; NULL: all. */
static int unpack_some(const void *data, size_t size, const int *metric,
                       struct layer_state **ret_state)
{
    struct mpk_doc doc;
    struct layer_state *state = NULL;
    int code = mpk_parse(data, size, &stored_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = new_state(doc.root, &state);
    if (!code) {
        code = layer_state_pack_fill(state, doc.root, metric);
    }
    mpk_doc_clear(&doc);
    if (code) {
        layer_state_free(&state);
    } else {
        *ret_state = state;
    }
    return code;
}

int layer_state_unpack(const void *data, size_t size, struct layer_state **ret_state)
{
    return unpack_some(data, size, NULL, ret_state);
}

int layer_state_unpack_metric(const void *data, size_t size, int metric,
                              struct layer_state **ret_state)
{
    return unpack_some(data, size, &metric, ret_state);
}
