/* SPDX-License-Identifier: MIT */
/* drift_pack: a drift as a MessagePack map, for checkpoints.
 *
 *     heads, windows  integers
 *     pinned          bool
 *     last            integer; nil when nothing was learned yet
 *     metrics         name to a map: each field of a cell to a list over the heads; of row metrics
 *                     `hists` as well, a binary (packed_hists.h)
 *
 * `level` is the trend while level_count is 0. Earlier versions had a level from the first window
 * on and no trend: a block that they began is begun over. Metrics go by name, and those of a newer
 * attnd are skipped. The input is not trusted: a list has a value for each head, and every number
 * must be possible for a drift. */
#include "daemon/state/drift_internal.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

enum field_type { FIELD_COUNT, FIELD_REAL, FIELD_SUM, FIELD_UNIT };

/* COUNT u32; REAL f64, finite; SUM f32, finite, at least 0; UNIT f64, NaN = none. */
static const struct {
    const char *name;
    size_t offset;
    enum field_type type;
} fields[] = {
    {"count", offsetof(struct drift_cell, count), FIELD_COUNT},
    {"mean", offsetof(struct drift_cell, mean), FIELD_REAL},
    {"m2", offsetof(struct drift_cell, m2), FIELD_REAL},
    {"level_count", offsetof(struct drift_cell, level_count), FIELD_COUNT},
    {"level", offsetof(struct drift_cell, level), FIELD_REAL},
    {"up", offsetof(struct drift_cell, sum[DRIFT_UP]), FIELD_SUM},
    {"up_since", offsetof(struct drift_cell, since[DRIFT_UP]), FIELD_UNIT},
    {"down", offsetof(struct drift_cell, sum[DRIFT_DOWN]), FIELD_SUM},
    {"down_since", offsetof(struct drift_cell, since[DRIFT_DOWN]), FIELD_UNIT},
    {"change", offsetof(struct drift_cell, change), FIELD_UNIT},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

/* Writing */

static void drift_pack_put_metric(struct mpk_writer *writer, const struct drift *drift, int metric)
{
    mpk_pair_map(writer, metric_info[metric].name, FIELDS + (metric < METRIC_ROW_COUNT));
    for (unsigned f = 0; f < FIELDS; f++) {
        mpk_pair_array(writer, fields[f].name, drift->heads);
        for (uint32_t h = 0; h < drift->heads; h++) {
            const struct drift_cell *cell = &drift->cell[metric][h];
            const void *value = (const char *)cell + fields[f].offset;
            if (fields[f].type == FIELD_COUNT) {
                mpk_put_u64(writer, *(const uint32_t *)value);
            } else if (fields[f].type == FIELD_SUM) {
                mpk_put_f64(writer, (double)*(const float *)value);
            } else {
                mpk_put_f64(writer, *(const double *)value);
            }
        }
    }
    if (metric < METRIC_ROW_COUNT) {
        mpk_pair_bin(writer, "hists", drift->hists[metric].bytes, drift->hists[metric].size);
    }
}

int drift_pack(const struct drift *drift, struct mpk_writer *writer)
{
    mpk_put_map(writer, 5);
    mpk_pair_u64(writer, "heads", drift->heads);
    mpk_pair_u64(writer, "windows", drift->windows);
    mpk_pair_bool(writer, "pinned", drift->pinned);
    mpk_pair_u64_or_nil(writer, "last", drift->begun, drift->last);
    struct mpk_open metrics = mpk_open(writer, "metrics");
    for (int m = 0; m < METRIC_COUNT; m++) {
        if (drift->cell[m]) {
            drift_pack_put_metric(writer, drift, m);
        }
    }
    mpk_close_map(writer, &metrics);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* Reading: each returns whether the value was as it should be. */

static bool get_count(const msgpack_object *value, uint32_t *ret_count)
{
    uint64_t number;
    if (!value || mpk_get_u64(value, UINT32_MAX, &number) != 0) {
        return false;
    }
    *ret_count = (uint32_t)number;
    return true;
}

static bool get_field(const msgpack_object *value, struct drift_cell *cell, unsigned field)
{
    void *to = (char *)cell + fields[field].offset;
    double number;
    if (fields[field].type == FIELD_COUNT) {
        return get_count(value, to);
    }
    if (mpk_get_f64(value, &number) != 0) {
        return false;
    }
    if (fields[field].type == FIELD_SUM) {
        *(float *)to = (float)number;
        return number >= 0 && isfinite(*(float *)to);
    }
    *(double *)to = number;
    return isfinite(number) || (fields[field].type == FIELD_UNIT && isnan(number));
}

static bool get_list(const msgpack_object *list, struct drift *drift, struct drift_cell *cell,
                     unsigned field)
{
    if (mpk_items(list) != drift->heads) {
        return false;
    }
    for (uint32_t h = 0; h < drift->heads; h++) {
        if (!get_field(&list->via.array.ptr[h], &cell[h], field)) {
            return false;
        }
    }
    return true;
}

/* Sums that other code divides by, and takes the root of. */
static bool drift_pack_is_sound(const struct drift *drift, const struct drift_cell *cell)
{
    bool has_level = cell->level_count > 0;
    return cell->m2 >= 0 && (cell->count > 0 || !has_level) &&
           (has_level || !drift_cell_ready(drift, cell));
}

/* Takes the histogram of each head, but none of a block that begins over. */
static int get_hists(const msgpack_object *value, struct drift *drift, int metric)
{
    if (!value || value->type != MSGPACK_OBJECT_BIN) {
        return ERR_STORE_FORMAT;
    }
    const uint8_t *bytes = (const uint8_t *)value->via.bin.ptr;
    struct packed_cursor cursor = {bytes, bytes + value->via.bin.size};
    struct packed_hists *hists = &drift->hists[metric];
    int code = 0;
    for (uint32_t h = 0; h < drift->heads && !code; h++) {
        const uint8_t *from = cursor.at;
        if (packed_hists_next(&cursor, NULL) != 0) {
            return ERR_STORE_FORMAT;
        }
        code = drift->cell[metric][h].count > 0
                   ? packed_hists_copy(hists, from, (size_t)(cursor.at - from))
                   : packed_hists_add(hists, &(struct hist){0});
    }
    packed_hists_trim(hists);
    return !code && cursor.at != cursor.end ? ERR_STORE_FORMAT : code;
}

static int get_metric(const msgpack_object *map, struct drift *drift, int metric)
{
    /* A list before any memory: then it is no larger than what was read. */
    const msgpack_object *first = mpk_find(map, fields[0].name);
    if (drift->cell[metric] || !first || first->type != MSGPACK_OBJECT_ARRAY ||
        first->via.array.size != drift->heads) {
        return ERR_STORE_FORMAT;
    }
    struct drift_cell *cell = calloc(drift->heads, sizeof *cell);
    if (!cell) {
        return ERR_MEMORY;
    }
    drift->cell[metric] = cell;
    for (unsigned f = 0; f < FIELDS; f++) {
        if (!get_list(mpk_find(map, fields[f].name), drift, cell, f)) {
            return ERR_STORE_FORMAT;
        }
    }
    for (uint32_t h = 0; h < drift->heads; h++) {
        if (!drift_pack_is_sound(drift, &cell[h])) {
            return ERR_STORE_FORMAT;
        }
        if (cell[h].level_count > 0 && !drift_cell_ready(drift, &cell[h])) {
            cell[h] = drift_cell_empty();
        }
    }
    return metric < METRIC_ROW_COUNT ? get_hists(mpk_find(map, "hists"), drift, metric) : 0;
}

/* As many as limits.heads allows at most. */
#define HEADS_MAX 65536

static int drift_pack_get_drift(const msgpack_object *map, struct drift *drift)
{
    const msgpack_object *pinned = mpk_find(map, "pinned"), *last = mpk_find(map, "last"),
                         *metrics = mpk_find(map, "metrics");
    if (!get_count(mpk_find(map, "heads"), &drift->heads) || drift->heads > HEADS_MAX ||
        !get_count(mpk_find(map, "windows"), &drift->windows) || drift->windows == 0 || !pinned ||
        mpk_get_bool(pinned, &drift->pinned) != 0 || !last || !metrics ||
        metrics->type != MSGPACK_OBJECT_MAP) {
        return ERR_STORE_FORMAT;
    }
    drift->begun = last->type != MSGPACK_OBJECT_NIL;
    if (drift->begun && mpk_get_u64(last, UINT64_MAX, &drift->last) != 0) {
        return ERR_STORE_FORMAT;
    }
    int code = 0;
    for (uint32_t i = 0; !code && i < metrics->via.map.size; i++) {
        /* METRIC_COUNT for a name that is not known. */
        const msgpack_object *name = &metrics->via.map.ptr[i].key;
        int metric = 0;
        while (metric < METRIC_COUNT && !mpk_is_str(name, metric_info[metric].name)) {
            metric++;
        }
        if (metric < METRIC_COUNT) {
            code = get_metric(&metrics->via.map.ptr[i].val, drift, metric);
        }
    }
    return code;
}

int drift_unpack(const struct drift_rule *rule, const void *data, size_t size,
                 struct drift **ret_drift)
{
    struct mpk_doc doc;
    struct drift *drift = drift_new(rule, 0);
    if (!drift) {
        return ERR_MEMORY;
    }
    int code = mpk_parse(data, size, &mpk_result_limits, &doc);
    if (code) {
        drift_free(&drift);
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    code = drift_pack_get_drift(doc.root, drift);
    mpk_doc_clear(&doc);
    if (code) {
        drift_free(&drift);
    } else {
        *ret_drift = drift;
    }
    return code;
}
