/* SPDX-License-Identifier: MIT */
/* Reads what layer_state_pack.c writes, from anybody: whatever is accepted can be merged, packed
 * and summed up.
 *
 * Version 1, which attnd stored before states were sent, told what is newest by the
 * order in which messages had arrived, and its ranks by the order in which they had appeared. A
 * message of such a state is read as one of the newest step, of rank 0, and the ranks by their
 * number; bytes without any rank may be before and after them. */
#include "daemon/state/layer_state_internal.h"
#include "daemon/state/stored.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEADS_MAX 65536 /* as limits.heads */

/* Trainers sent states, before they sent the sums of rows: their tier was `state`. */
static void get_tier(struct layer_state *state, struct stored *in)
{
    const msgpack_object *value = mpk_find(in->map, "tier");
    if (value && mpk_is_str(value, "state")) {
        state->tier = MESSAGE_ROWS;
        return;
    }
    for (int i = 0; value && i < MESSAGE_EVENT; i++) {
        if (mpk_is_str(value, message_type_name((enum message_type)i))) {
            state->tier = (enum message_type)i;
            return;
        }
    }
    stored_note(in, ERR_STORE_FORMAT);
}

/* nil is none. */
static int get_position(const msgpack_object *value, struct position *ret_position)
{
    static const uint64_t most[LAYER_POSITION_NUMBERS] = {COUNT_MAX, COUNT_MAX, UINT32_MAX,
                                                          WORLD_MAX - 1};
    uint64_t numbers[LAYER_POSITION_NUMBERS];
    if (value && value->type == MSGPACK_OBJECT_NIL) {
        *ret_position = (struct position){0};
        return 0;
    }
    if (mpk_items(value) != LAYER_POSITION_NUMBERS) {
        return ERR_STORE_FORMAT;
    }
    for (int i = 0; i < LAYER_POSITION_NUMBERS; i++) {
        if (mpk_get_u64(&value->via.array.ptr[i], most[i], &numbers[i]) != 0) {
            return ERR_STORE_FORMAT;
        }
    }
    *ret_position =
        (struct position){numbers[0], numbers[1], (uint32_t)numbers[2], (uint32_t)numbers[3] + 1};
    return 0;
}

static const msgpack_object *layer_state_unpack_get_array(const msgpack_object *map,
                                                          const char *key)
{
    const msgpack_object *array = mpk_find(map, key);
    return array && array->type == MSGPACK_OBJECT_ARRAY ? array : NULL;
}

static int get_shape(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *shape = mpk_find(map, "shape");
    uint64_t number;
    if (mpk_items(shape) != LAYER_SHAPE_NUMBERS) {
        return ERR_STORE_FORMAT;
    }
    for (int i = 0; i < LAYER_SHAPE_NUMBERS; i++) {
        if (mpk_get_u64(&shape->via.array.ptr[i], UINT32_MAX, &number) != 0) {
            return ERR_STORE_FORMAT;
        }
        state->shape[i] = (uint32_t)number;
    }
    return 0;
}

/* The position of a version 1 that had an arrival number under this key, once epoch and step are
 * known. */
static void get_arrival(const struct layer_state *state, struct stored *in, const char *key,
                        struct position *ret_position)
{
    uint64_t arrival = 0;
    stored_u64(in, key, UINT64_MAX, &arrival);
    if (arrival > 0) {
        *ret_position = (struct position){state->epoch, state->step, 0, 1};
    }
}

static void get_row_sum_error(struct layer_state *state, struct stored *in, uint32_t version)
{
    const msgpack_object *value = mpk_find(in->map, "row_sum_error");
    double *error = &state->row_sum_error;
    if (version == 1) {
        stored_fill(in, "row_sum_error", error, sizeof *error);
        *error = fabs(*error) <= STAT_VALUE_MOST ? *error : NAN;
        return;
    }
    bool sound = value && mpk_get_f64(value, error) == 0 &&
                 (value->type == MSGPACK_OBJECT_NIL || fabs(*error) <= STAT_VALUE_MOST);
    stored_note(in, sound ? 0 : ERR_STORE_FORMAT);
}

static void get_counts(struct layer_state *state, struct stored *in, uint32_t version)
{
    stored_u64(in, "rows", LAYER_STATE_ROWS_MOST, &state->rows);
    state->rows_of = state->rows;
    if (mpk_find(in->map, "rows_of")) { /* a sample, from a client that says so */
        stored_u64(in, "rows_of", LAYER_STATE_ROWS_MOST, &state->rows_of);
        stored_note(in, state->rows_of >= state->rows ? 0 : ERR_STORE_FORMAT);
    }
    stored_u64(in, "invalid_rows", LAYER_STATE_ROWS_MOST, &state->invalid_rows);
    get_row_sum_error(state, in, version);
    stored_u64(in, "messages", LAYER_STATE_ROWS_MOST, &state->messages);
    const uint8_t *bits = NULL;
    uint32_t first = 0;
    size_t bytes = 0;
    stored_bytes(in, "ranks", &bits, &bytes);
    if (version > 1) {
        stored_u32(in, "rank_first", WORLD_MAX, &first);
        bool trimmed = bytes > 0 ? bits[0] && bits[bytes - 1] : first == 0;
        stored_note(in, trimmed ? 0 : ERR_STORE_FORMAT);
    }
    for (; bytes > 0 && !bits[bytes - 1]; bytes--) {
    }
    for (; bytes > 0 && !bits[0]; bits++, bytes--) {
        first += 8;
    }
    stored_note(in, first % 8 != 0 || bytes > (WORLD_MAX - first) / 8 ? ERR_STORE_FORMAT : 0);
    if (!in->code && bytes > 0) {
        in->code = layer_state_ranks_reserve(state, first, (uint32_t)bytes);
    }
    if (!in->code && bytes > 0) {
        memcpy(state->rank_bits, bits, bytes);
    }
}

/* Reasons that this version does not know are not among its counts. */
static void get_tally(struct tally *tally, struct stored *in)
{
    const msgpack_object *map = mpk_find(in->map, "dropped");
    struct stored dropped = {map, map && map->type == MSGPACK_OBJECT_MAP ? 0 : ERR_STORE_FORMAT};
    stored_u64(in, "lost", UINT64_MAX, &tally->lost);
    stored_u64(in, "source", UINT64_MAX, &tally->source);
    for (int i = 0; i < ERR_COUNT; i++) {
        const char *slug = err_slug(ERR_BASE - i);
        if (mpk_find(map, slug)) {
            stored_u64(&dropped, slug, UINT64_MAX, &tally->dropped[i]);
        }
    }
    stored_note(in, dropped.code);
}

/* Where the numbers of a head belong that the document numbers by its own lists; STAT_SLOTS: this
 * version has no such number. */
struct slots {
    uint8_t to[STAT_SLOTS];     /* of a head */
    uint8_t across[STAT_SLOTS]; /* of what goes across heads */
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

static void map_vector(int v, uint32_t at, uint32_t width, struct slots *slots)
{
    for (uint32_t i = 0; i < width && i < vector_info[v].width; i++) {
        slots->to[at + i] = (uint8_t)layer_vector_slot(v, i);
    }
}

static int get_vector_names(struct layer_state *state, const msgpack_object *vectors,
                            struct slots *slots)
{
    uint32_t at = STAT_HISTS, width = 0;
    bool on = false;
    for (uint32_t i = 0; i < vectors->via.array.size; i++, at += width) {
        struct stored vector = {&vectors->via.array.ptr[i], 0};
        const msgpack_object *name = mpk_find(vector.map, "name");
        stored_u32(&vector, "width", STAT_SLOTS - at, &width);
        stored_bool(&vector, "on", &on);
        if (!name || vector.code) {
            return ERR_STORE_FORMAT;
        }
        for (int v = 0; v < VECTOR_COUNT; v++) {
            if (mpk_is_str(name, vector_info[v].name)) {
                state->has_vector[v] = on;
                map_vector(v, at, on ? width : 0, slots);
            }
        }
    }
    return 0;
}

/* Four numbers of each kind of map, and the sink rate after them. */
static int get_aggregate_names(struct layer_state *state, const msgpack_object *names,
                               uint32_t version, struct slots *slots)
{
    uint32_t count = names->via.array.size;
    if (count * MAP_STAT_COUNT >= STAT_HISTS || (version == 1 && count != AGGREGATE_COUNT)) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *name = &names->via.array.ptr[i];
        for (int a = 0; a < AGGREGATE_COUNT; a++) {
            bool on = false;
            if (version == 1 ? (int)i != a : !mpk_is_str(name, aggregate_name[a])) {
                continue;
            }
            if (version == 1 && mpk_get_bool(name, &on) != 0) {
                return ERR_STORE_FORMAT;
            }
            state->has_aggregate[a] = version > 1 || on;
            for (int s = 0; s < MAP_STAT_COUNT && state->has_aggregate[a]; s++) {
                slots->across[layer_aggregate_slot((int)i, s)] =
                    (uint8_t)layer_aggregate_slot(a, s);
            }
        }
    }
    slots->across[layer_aggregate_slot((int)count, 0)] = LAYER_SLOT_SINK_RATE;
    return 0;
}

/* Whether no two numbers go to the same place. */
static bool is_injective(const uint8_t to[STAT_SLOTS])
{
    bool taken[STAT_SLOTS] = {false};
    for (uint32_t i = 0; i < STAT_SLOTS; i++) {
        if (to[i] == STAT_SLOTS) {
            continue;
        }
        if (taken[to[i]]) {
            return false;
        }
        taken[to[i]] = true;
    }
    return true;
}

static int get_names(struct layer_state *state, const msgpack_object *map, uint32_t version,
                     struct slots *slots)
{
    const msgpack_object *metrics = layer_state_unpack_get_array(map, "metrics"),
                         *vectors = layer_state_unpack_get_array(map, "vectors"),
                         *aggregates = layer_state_unpack_get_array(map, "aggregates");
    memset(slots, STAT_SLOTS, sizeof *slots);
    if (!metrics || !vectors || !aggregates) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t i = 0; i < metrics->via.array.size && i < STAT_HISTS; i++) {
        int m = metric_named(&metrics->via.array.ptr[i], (int)i);
        if (m < METRIC_MATRIX_FIRST) {
            slots->to[i] = (uint8_t)m;
            state->on[m] = true;
        }
    }
    int code = get_vector_names(state, vectors, slots);
    if (!code) {
        code = get_aggregate_names(state, aggregates, version, slots);
    }
    return code || (is_injective(slots->to) && is_injective(slots->across)) ? code
                                                                            : ERR_STORE_FORMAT;
}

static int get_set(const struct layer_state *state, const msgpack_object *bin,
                   const struct stat_mask *hists, struct stat_set *set)
{
    if (!bin || bin->type != MSGPACK_OBJECT_BIN ||
        !stat_set_check((const uint8_t *)bin->via.bin.ptr, bin->via.bin.size, state->buckets,
                        hists)) {
        return ERR_STORE_FORMAT;
    }
    return stat_set_assign(set, (const uint8_t *)bin->via.bin.ptr, bin->via.bin.size);
}

/* Whether a set has only slots that are their own. */
static bool is_in_place(const struct stat_set *set, const struct stat_mask *own)
{
    struct stat_reader reader;
    bool all = true;
    stat_reader_init(&reader, set);
    for (uint32_t w = 0; w < STAT_WORDS; w++) {
        all = all && (reader.left.bits[w] & ~own->bits[w]) == 0;
    }
    return all;
}

static struct stat_mask own_slots(const uint8_t to[STAT_SLOTS])
{
    struct stat_mask own = {{0}};
    for (uint32_t slot = 0; slot < STAT_SLOTS; slot++) {
        if (to[slot] == slot) {
            stat_mask_set(&own, slot);
        }
    }
    return own;
}

static int move_set(struct stat_set *set, const uint8_t to[STAT_SLOTS], const struct stat_mask *own,
                    uint32_t buckets)
{
    if (is_in_place(set, own)) {
        return 0;
    }
    struct stat_writer *writer = stat_writer_new(buckets);
    int code = writer ? stat_set_move(set, to, writer) : ERR_MEMORY;
    stat_writer_free(&writer);
    return code;
}

/* nil: of all heads it is the state's. */
static int get_heads_newest(struct layer_state *state, const msgpack_object *map, uint32_t version)
{
    const char *key = version == 1 ? "arrivals" : "heads_newest";
    const msgpack_object *list = mpk_find(map, key);
    if (version > 1 && list && list->type == MSGPACK_OBJECT_NIL) {
        for (uint32_t h = 0; h < state->heads; h++) {
            state->head[h].newest = state->newest;
        }
        return 0;
    }
    if (mpk_items(list) != state->heads) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        const msgpack_object *value = &list->via.array.ptr[h];
        struct position *newest = &state->head[h].newest;
        uint64_t arrival = 0;
        if (version == 1 ? mpk_get_u64(value, UINT64_MAX, &arrival) != 0
                         : get_position(value, newest) != 0) {
            return ERR_STORE_FORMAT;
        }
        if (arrival > 0) {
            *newest = (struct position){state->epoch, state->step, 0, 1};
        }
        if (!position_reaches(&state->newest, newest)) {
            return ERR_STORE_FORMAT;
        }
    }
    return 0;
}

/* `hists`: those of the document's slots whose histograms will be read; NULL: all. */
static int layer_state_unpack_get_heads(struct layer_state *state, const msgpack_object *map,
                                        const struct stat_mask *hists)
{
    const msgpack_object *heads = mpk_find(map, "heads"), *patterns = mpk_find(map, "patterns");
    if (mpk_items(patterns) != state->heads) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        struct head_state *head = &state->head[h];
        int code = get_set(state, &heads->via.array.ptr[h], hists, &head->stats);
        if (code) {
            return code;
        }
        /* Patterns that this version does not know are none. */
        const msgpack_object *name = &patterns->via.array.ptr[h];
        for (uint8_t i = 0; i < PATTERN_COUNT; i++) {
            if (pattern_name[i] && mpk_is_str(name, pattern_name[i])) {
                head->pattern = i;
            }
        }
    }
    return get_set(state, mpk_find(map, "across"), NULL, &state->across);
}

/* States of an older attnd have none. */
static int layer_state_unpack_get_invalid(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *counts = mpk_find(map, "heads_invalid_rows");
    if (!counts) {
        return 0;
    }
    if (mpk_items(counts) != state->heads || state->invalid_rows == 0) {
        return ERR_STORE_FORMAT;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        if (mpk_get_u64(&counts->via.array.ptr[h], UINT64_MAX, &state->head[h].invalid_rows) != 0) {
            return ERR_STORE_FORMAT;
        }
    }
    return 0;
}

/* Whether no number was counted more often than there are rows, or messages, that may have it. */
static bool counts_fit(const struct layer_state *state)
{
    uint64_t rows[METRIC_ROW_COUNT] = {0}, invalid = 0;
    struct stat_reader reader;
    struct stat_record record;
    uint32_t slot;
    for (uint32_t h = 0; h < state->heads; h++) {
        stat_reader_init(&reader, &state->head[h].stats);
        while (stat_read(&reader, &slot, &record)) {
            uint64_t most = state->messages;
            if (slot < METRIC_ROW_COUNT) {
                most = state->rows - rows[slot];
                rows[slot] += record.moments.n;
            }
            if (record.moments.n > most) {
                return false;
            }
        }
        if (state->head[h].invalid_rows > state->invalid_rows - invalid) {
            return false;
        }
        invalid += state->head[h].invalid_rows;
    }
    stat_reader_init(&reader, &state->across);
    while (stat_read(&reader, &slot, &record)) {
        if (record.moments.n > state->messages) {
            return false;
        }
    }
    return true;
}

/* Only of several ranks. States of an older attnd have none. */
static int get_rank_entropy(struct layer_state *state, const msgpack_object *map)
{
    const msgpack_object *list = mpk_find(map, "rank_entropy");
    uint32_t rank;
    if (!list) {
        return 0;
    }
    int code = rank_entropy_unpack(list, state->heads, &state->rank_entropy);
    for (uint32_t i = 0; i < state->rank_entropy.count && !code; i++) {
        bool known = layer_state_ranks_have(state, state->rank_entropy.means[i].rank);
        code = known && !layer_state_ranks_only(state, &rank) ? 0 : ERR_STORE_FORMAT;
    }
    return code;
}

/* Whether the ranks of each head have no more rows than the head. */
static bool rank_counts_fit(const struct layer_state *state)
{
    for (uint32_t h = 0; h < state->heads && state->rank_entropy.count > 0; h++) {
        uint64_t left = layer_state_moments(state, METRIC_ENTROPY, h).n;
        for (uint32_t i = 0; i < state->rank_entropy.count; i++) {
            const struct rank_means *means = &state->rank_entropy.means[i];
            bool has = h >= means->first && h - means->first < means->heads;
            uint64_t rows = has ? means->rows[h - means->first] : 0;
            if (rows > left) {
                return false;
            }
            left -= rows;
        }
    }
    return true;
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

static int layer_state_unpack_fill(struct layer_state *state, const msgpack_object *map,
                                   uint32_t version, const int *metric)
{
    struct slots slots;
    struct stored in = {map, 0};
    if (version == 1) {
        stored_u64(&in, "epoch", COUNT_MAX, &state->epoch);
        stored_u64(&in, "step", COUNT_MAX, &state->step);
        get_arrival(state, &in, "newest", &state->newest);
        get_arrival(state, &in, "weights_arrival", &state->weights_newest);
        stored_fill(&in, "shape", state->shape, sizeof state->shape);
    } else {
        stored_note(&in, get_position(mpk_find(in.map, "newest"), &state->newest));
        stored_note(&in, get_position(mpk_find(in.map, "weights_newest"), &state->weights_newest));
        const struct position *shown =
            position_exists(&state->newest) ? &state->newest : &state->weights_newest;
        state->epoch = shown->epoch;
        state->step = shown->step;
        stored_note(&in, get_shape(state, in.map));
    }
    stored_u64(&in, "time_ns", UINT64_MAX, &state->time_ns);
    stored_bool(&in, "causal", &state->causal);
    get_tier(state, &in);
    stored_u32(&in, "local_window", UINT32_MAX, &state->local_window);
    get_counts(state, &in, version);
    get_tally(&state->tally, &in);
    if (!in.code) {
        in.code = detail_unpack(mpk_find(in.map, "detail"), state->heads, &state->detail);
    }
    if (!in.code) {
        in.code = detail_unpack(mpk_find(in.map, "weights"), state->heads, &state->weights);
    }
    layer_state_find_matrices(state);
    int code = in.code;
    if (!code) {
        code = get_names(state, map, version, &slots);
    }
    if (!code) {
        code = get_heads_newest(state, map, version);
    }
    if (!code) {
        struct stat_mask wanted = metric ? slots_of(*metric, &slots) : (struct stat_mask){{0}};
        code = layer_state_unpack_get_heads(state, map, metric ? &wanted : NULL);
    }
    if (!code) {
        const struct stat_mask own = own_slots(slots.to), own_across = own_slots(slots.across);
        for (uint32_t h = 0; h < state->heads && !code; h++) {
            code = move_set(&state->head[h].stats, slots.to, &own, state->buckets);
        }
        code = code ? code : move_set(&state->across, slots.across, &own_across, state->buckets);
    }
    if (!code) {
        code = layer_state_unpack_get_invalid(state, map);
    }
    if (!code) {
        code = get_rank_entropy(state, map);
    }
    if (!code && !metric && !(counts_fit(state) && rank_counts_fit(state))) {
        code = ERR_STORE_FORMAT;
    }
    return code;
}

static int new_state(const msgpack_object *map, uint32_t *ret_version,
                     struct layer_state **ret_state)
{
    struct stored in = {map, 0};
    uint32_t buckets = 0, heads = mpk_items(mpk_find(map, "heads"));
    stored_u32(&in, "v", LAYER_STATE_VERSION, ret_version);
    stored_u32(&in, "buckets", HIST_KEYS, &buckets);
    if (in.code || *ret_version == 0 || heads == 0 || heads > HEADS_MAX) {
        return ERR_STORE_FORMAT;
    }
    *ret_state = layer_state_new(heads, buckets);
    return *ret_state ? 0 : ERR_MEMORY;
}

/* The caller will read histograms of *metric alone; NULL: of all metrics. */
static int unpack_some(const void *data, size_t size, const int *metric,
                       struct layer_state **ret_state)
{
    struct mpk_doc doc;
    struct layer_state *state = NULL;
    int code = mpk_parse(data, size, &stored_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    uint32_t version = 0;
    code = new_state(doc.root, &version, &state);
    if (!code) {
        code = layer_state_unpack_fill(state, doc.root, version, metric);
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
