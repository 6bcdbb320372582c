/* SPDX-License-Identifier: MIT */
/* trouble_pack: packs what trouble knows of a layer.
 *
 *   {v: 1, heads, newest: the map `trouble` or nil, rules: [{name, hash, cells: bin}]}
 *
 * `cells` has for each head, one after the other: u8 count, u8 mode, u8 flags; what was compared,
 * `count` times f64; unless the mode is 0 u64 epoch, u64 step, u32 windows of `since`; of rules
 * about layers and the run u32 held; of those that are rates u8 how many earlier values, and so
 * many f64, oldest first. Little-endian. */
#include "daemon/alerts/trouble_internal.h"

#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

enum { OWN_FIRING = 1, OWN_ARMED = 2, OWN_FLAGS = 3 };

static bool has_own(const struct rule *rule)
{
    return rule->each != RULE_EACH_HEAD;
}

/* Bytes of a head at most. */
static size_t trouble_cell_bytes(const struct rule *rule)
{
    size_t past = rule_is_rate(rule->condition) ? 1 + 8 * (size_t)rule->within : 0;
    return 3 + 8 * TROUBLE_SLOPE_WINDOWS + 20 + 4 + past;
}

static uint8_t *put_u32(uint32_t number, uint8_t *at)
{
    for (int i = 0; i < 4; i++) {
        *at++ = (uint8_t)(number >> 8 * i);
    }
    return at;
}

static uint8_t *put_own(const struct rule *rule, const struct alert_cells *own, uint32_t head,
                        uint8_t *at)
{
    const struct alert_cell *cell = &own->cell[head];
    at = put_u32(cell->held, at);
    if (!own->past) {
        return at;
    }
    const double *past = own->past + (size_t)head * rule->within;
    uint32_t oldest = (cell->past_next + rule->within - cell->past_count) % rule->within;
    *at++ = cell->past_count;
    for (uint32_t i = 0; i < cell->past_count; i++, at += 8) {
        alert_put_f64(past[(oldest + i) % rule->within], at);
    }
    return at;
}

static uint8_t *put_head(const struct rule *rule, const struct trouble_rule *cells, uint32_t head,
                         uint8_t *at)
{
    const struct trouble_cell *cell = &cells->cell[head];
    const struct alert_cell *own = has_own(rule) ? &cells->own.cell[head] : NULL;
    *at++ = cell->count;
    *at++ = cell->mode;
    *at++ = (uint8_t)(own ? (own->firing ? OWN_FIRING : 0) | (own->armed ? OWN_ARMED : 0) : 0);
    for (int i = 0; i < cell->count; i++, at += 8) {
        alert_put_f64(cell->past[i], at);
    }
    if (cell->mode != TROUBLE_MODE_NONE) {
        alert_put_u64(cell->since_epoch, at);
        alert_put_u64(cell->since_step, at + 8);
        at = put_u32(cell->windows, at + 16);
    }
    return own ? put_own(rule, &cells->own, head, at) : at;
}

static void trouble_put_rule(const struct rule *rule, const struct trouble_rule *cells,
                             struct mpk_writer *writer)
{
    uint8_t *bytes = malloc(cells->count * trouble_cell_bytes(rule)), *at = bytes;
    if (!bytes) {
        writer->failed = true;
        return;
    }
    for (uint32_t h = 0; h < cells->count; h++) {
        at = put_head(rule, cells, h, at);
    }
    mpk_put_map(writer, 3);
    mpk_pair_str(writer, "name", rule->name);
    mpk_pair_u64(writer, "hash", rule_hash(rule));
    mpk_put_str(writer, "cells");
    mpk_put_bin(writer, bytes, (size_t)(at - bytes));
    free(bytes);
}

/* Whether the cells are whole: after a lack of memory a rule may have one kind without the other.
 */
static bool is_whole(const struct rule *rule, const struct trouble_rule *cells)
{
    return cells->count > 0 && (!has_own(rule) || cells->own.count == cells->count);
}

int trouble_pack(const struct alerts *alerts, struct layer_id id, struct mpk_writer *writer)
{
    const struct trouble_layer *layer = trouble_find(alerts, id);
    uint32_t heads = 0, rules = 0;
    if (!layer) {
        mpk_put_nil(writer);
        return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
    }
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        bool whole = is_whole(alerts->rules[i], &layer->rules[i]);
        rules += whole;
        heads = whole ? layer->rules[i].count : heads;
    }
    mpk_put_map(writer, 4);
    mpk_pair_u64(writer, "v", 1);
    mpk_pair_u64(writer, "heads", heads);
    mpk_put_str(writer, "newest");
    if (layer->newest) {
        trouble_encode(layer->newest, writer);
    } else {
        mpk_put_nil(writer);
    }
    mpk_put_str(writer, "rules");
    mpk_put_array(writer, rules);
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        if (is_whole(alerts->rules[i], &layer->rules[i])) {
            trouble_put_rule(alerts->rules[i], &layer->rules[i], writer);
        }
    }
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* Unpacking */

struct trouble_cursor {
    const uint8_t *at, *end;
};

/* The next bytes; NULL when there are not so many. */
static const uint8_t *take(struct trouble_cursor *cursor, size_t bytes)
{
    const uint8_t *at = cursor->at;
    if ((size_t)(cursor->end - at) < bytes) {
        return NULL;
    }
    cursor->at += bytes;
    return at;
}

static uint32_t get_u32(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static bool get_own(const struct rule *rule, struct alert_cells *own, uint32_t head,
                    struct trouble_cursor *cursor)
{
    struct alert_cell *cell = &own->cell[head];
    const uint8_t *held = take(cursor, 4), *count = own->past ? take(cursor, 1) : NULL;
    if (!held || (own->past && (!count || *count > rule->within))) {
        return false;
    }
    cell->held = get_u32(held);
    if (!own->past) {
        return true;
    }
    const uint8_t *values = take(cursor, 8 * (size_t)*count);
    for (uint32_t i = 0; values && i < *count; i++) {
        own->past[(size_t)head * rule->within + i] = alert_get_f64(values + 8 * (size_t)i);
    }
    cell->past_count = *count;
    cell->past_next = (uint8_t)(*count % rule->within);
    return values != NULL;
}

static bool get_head(const struct rule *rule, struct trouble_rule *cells, uint32_t head,
                     struct trouble_cursor *cursor)
{
    struct trouble_cell *cell = &cells->cell[head];
    struct alert_cell *own = has_own(rule) ? &cells->own.cell[head] : NULL;
    const uint8_t *first = take(cursor, 3);
    if (!first || first[0] > TROUBLE_SLOPE_WINDOWS || first[1] >= TROUBLE_MODE_COUNT ||
        first[2] > (own ? OWN_FLAGS : 0)) {
        return false;
    }
    const uint8_t *past = take(cursor, 8 * (size_t)first[0]);
    const uint8_t *since = first[1] != TROUBLE_MODE_NONE ? take(cursor, 20) : NULL;
    if (!past || (first[1] != TROUBLE_MODE_NONE && !since)) {
        return false;
    }
    cell->count = first[0];
    cell->mode = first[1];
    for (int i = 0; i < cell->count; i++) {
        cell->past[i] = alert_get_f64(past + 8 * (size_t)i);
    }
    if (since) {
        cell->since_epoch = alert_get_u64(since);
        cell->since_step = alert_get_u64(since + 8);
        cell->windows = get_u32(since + 16);
    }
    if (!own) {
        return true;
    }
    own->firing = first[2] & OWN_FIRING;
    own->armed = first[2] & OWN_ARMED;
    own->value = cell->count > 0 ? cell->past[0] : 0;
    return get_own(rule, &cells->own, head, cursor);
}

/* The binary bounds the memory that is allocated for it. */
static int trouble_get_rule(struct alerts *alerts, struct trouble_layer *layer, uint32_t heads,
                            const msgpack_object *map)
{
    const msgpack_object *name = mpk_find(map, "name"), *hash = mpk_find(map, "hash"),
                         *cells = mpk_find(map, "cells");
    uint64_t number;
    if (!name || !hash || mpk_get_u64(hash, UINT64_MAX, &number) != 0 || !cells ||
        cells->type != MSGPACK_OBJECT_BIN || heads == 0 || cells->via.bin.size / 3 < heads) {
        return ERR_STORE_FORMAT;
    }
    uint32_t index = alert_find_rule(alerts, name, number);
    if (index == alerts->rule_count || !trouble_counts(alerts->rules[index])) {
        return 0;
    }
    const struct rule *rule = alerts->rules[index];
    const uint8_t *bytes = (const uint8_t *)cells->via.bin.ptr;
    struct trouble_cursor cursor = {bytes, bytes + cells->via.bin.size};
    int code = trouble_reserve(&layer->rules[index], rule, heads);
    for (uint32_t h = 0; h < heads && !code; h++) {
        code = get_head(rule, &layer->rules[index], h, &cursor) ? 0 : ERR_STORE_FORMAT;
    }
    return code || cursor.at == cursor.end ? code : ERR_STORE_FORMAT;
}

static int trouble_get_layer(struct alerts *alerts, struct trouble_layer *layer,
                             const msgpack_object *map)
{
    const msgpack_object *version = mpk_find(map, "v"), *heads = mpk_find(map, "heads"),
                         *newest = mpk_find(map, "newest"), *rules = mpk_find(map, "rules");
    struct result_trouble *trouble = NULL;
    uint64_t number, count;
    if (!version || mpk_get_u64(version, 1, &number) != 0 || number != 1 || !heads ||
        mpk_get_u64(heads, HEADS_TOTAL_MAX, &count) != 0 || !newest || !rules ||
        rules->type != MSGPACK_OBJECT_ARRAY) {
        return ERR_STORE_FORMAT;
    }
    int code = newest->type == MSGPACK_OBJECT_NIL ? 0 : trouble_decode(newest, &trouble);
    if (!code) {
        trouble_set_newest(layer, trouble);
    }
    for (uint32_t i = 0; i < rules->via.array.size && !code; i++) {
        code = trouble_get_rule(alerts, layer, (uint32_t)count, &rules->via.array.ptr[i]);
    }
    return code;
}

int trouble_unpack(struct alerts *alerts, struct layer_id id, const void *data, size_t size)
{
    struct mpk_doc doc;
    int code = mpk_parse(data, size, &mpk_result_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STORE_FORMAT;
    }
    struct trouble_layer *layer =
        doc.root->type == MSGPACK_OBJECT_NIL ? NULL : trouble_get(alerts, id);
    code = layer || doc.root->type == MSGPACK_OBJECT_NIL ? 0 : ERR_MEMORY;
    if (layer) {
        trouble_forget(alerts, layer);
        code = trouble_get_layer(alerts, layer, doc.root);
    }
    if (layer && code) {
        trouble_forget(alerts, layer);
        trouble_set_newest(layer, NULL);
    }
    mpk_doc_clear(&doc);
    return code;
}
