/* SPDX-License-Identifier: MIT */
/* alerts_pack: packs the state of alerts for checkpoints.
 *
 *   {v: 3, run: bin16, epoch, step, time_ns, judged: [epoch, step] or nil,
 *    rules: [{name, judged, hash, places: [{place, count, armed: bin, well: bin, cells: [...],
 *                                           past: bin}]}],
 *    captures, windows, heads: [the model's focus, [[layer, bin: what each head keeps, f32,
 * window]...]], causal, begun, windows_to: [last, epoch, step, after] or nil, origin: [layer, head
 * + 1, share, everywhere], loss: bin, as memory has it, empty without any}
 *
 * `place` is 0 for the run, else the packed layer and 1; `armed` a bit per cell;
 * `well` a step per cell, or one where all have the same; `cells` of those
 * that hold or fire or were told [index, held, flags, passed, failed, value, worst + 1]; `past` of
 * rates, per cell, a byte with the number of values and room for `within` of them, oldest first,
 * little-endian. So a run that is well costs a bit per head and rule that was clear, and 20 bytes
 * per head. */
#include "daemon/alerts/internal.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are kept as memory has them");
_Static_assert(sizeof(struct alert_past) == 20, "five floats without a hole");
enum { PAST_BYTES = sizeof(struct alert_past) };
enum { FLAG_FIRING = 1, FLAG_TOLD = 2, FLAG_AT_END = 4, FLAG_DOUBTFUL = 8, FLAGS = 15 };

/* Packing */

static bool is_busy(const struct alert_cell *cell)
{
    return cell->held || cell->firing || cell->told;
}

static bool is_worth_keeping(const struct alert_cells *cells)
{
    bool worth = false;
    for (uint32_t i = 0; i < cells->count && !worth; i++) {
        worth = is_busy(&cells->cell[i]) || cells->cell[i].armed || cells->cell[i].past_count ||
                cells->cell[i].well != ALERT_FROM_START;
    }
    return worth;
}

/* A binary under a key; without memory the writer fails. */
static void put_bin(struct mpk_writer *writer, const char *key, const uint8_t *bytes, size_t size)
{
    mpk_put_str(writer, key);
    if (bytes) {
        mpk_put_bin(writer, bytes, size);
    } else {
        writer->failed = true;
    }
}

static size_t armed_bytes(uint32_t count)
{
    return ((size_t)count + 7) / 8;
}

static size_t past_bytes(const struct rule *rule)
{
    return 1 + rule->within * sizeof(uint64_t);
}

static void fill_past(const struct rule *rule, const struct alert_cells *cells, uint32_t index,
                      uint8_t *bytes)
{
    const struct alert_cell *cell = &cells->cell[index];
    const double *past = cells->past + (size_t)index * rule->within;
    uint32_t oldest = (cell->past_next + rule->within - cell->past_count) % rule->within;
    bytes[0] = cell->past_count;
    for (uint32_t i = 0; i < cell->past_count; i++) {
        memcpy(bytes + 1 + 8 * i, &past[(oldest + i) % rule->within], sizeof *past);
    }
}

static void alerts_pack_put_past(const struct rule *rule, const struct alert_cells *cells,
                                 struct mpk_writer *writer)
{
    size_t each = past_bytes(rule), size = cells->past ? each * cells->count : 0;
    uint8_t *bytes = calloc(size + 1, 1);
    for (uint32_t i = 0; bytes && size && i < cells->count; i++) {
        fill_past(rule, cells, i, bytes + i * each);
    }
    put_bin(writer, "past", bytes, size);
    free(bytes);
}

static void put_well(const struct alert_cells *cells, struct mpk_writer *writer)
{
    size_t count = 1, step = sizeof cells->cell->well;
    for (uint32_t i = 1; i < cells->count; i++) {
        count = cells->cell[i].well != cells->cell[0].well ? cells->count : count;
    }
    uint8_t *bytes = malloc(count * step);
    for (uint32_t i = 0; bytes && i < count; i++) {
        memcpy(bytes + i * step, &cells->cell[i].well, step);
    }
    put_bin(writer, "well", bytes, count * step);
    free(bytes);
}

static void alerts_pack_put_place(const struct rule *rule, const struct alert_cells *cells,
                                  uint64_t place, struct mpk_writer *writer)
{
    mpk_put_map(writer, 6);
    mpk_pair_u64(writer, "place", place);
    mpk_pair_u64(writer, "count", cells->count);
    size_t size = armed_bytes(cells->count);
    uint8_t *bits = calloc(size, 1);
    for (uint32_t i = 0; bits && i < cells->count; i++) {
        if (cells->cell[i].armed) {
            bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << i % 8);
        }
    }
    put_bin(writer, "armed", bits, size);
    free(bits);
    put_well(cells, writer);
    struct mpk_open busy = mpk_open(writer, "cells");
    for (uint32_t i = 0; i < cells->count; i++) {
        if (is_busy(&cells->cell[i])) {
            const struct alert_cell *cell = &cells->cell[i];
            mpk_put_array(writer, 7);
            mpk_put_u64(writer, i);
            mpk_put_u64(writer, cell->held);
            mpk_put_u64(writer, (cell->firing ? FLAG_FIRING : 0u) | (cell->told ? FLAG_TOLD : 0u) |
                                    (cell->at_end ? FLAG_AT_END : 0u) |
                                    (cell->doubtful ? FLAG_DOUBTFUL : 0u));
            mpk_put_u64(writer, cell->passed);
            mpk_put_u64(writer, cell->failed);
            mpk_put_f64(writer, cell->value);
            mpk_put_u64(writer, (uint64_t)(cell->worst + 1));
        }
    }
    mpk_close_array(writer, &busy);
    alerts_pack_put_past(rule, cells, writer);
}

int alerts_pack(const struct alerts *alerts, struct mpk_writer *writer)
{
    mpk_put_map(writer, 15);
    mpk_pair_u64(writer, "v", 3);
    put_bin(writer, "run", alerts->run, RUN_BYTES);
    mpk_pair_u64(writer, "epoch", alerts->newest.epoch);
    mpk_pair_u64(writer, "step", alerts->newest.step);
    mpk_pair_u64(writer, "time_ns", alerts->newest.time_ns);
    mpk_pair_u64(writer, "captures", alerts->captures);
    mpk_pair_u64(writer, "windows", alerts->windows);
    mpk_put_str(writer, "judged");
    if (alerts->judged.any) {
        mpk_put_array(writer, 2);
        mpk_put_u64(writer, alerts->judged.epoch);
        mpk_put_u64(writer, alerts->judged.step);
    } else {
        mpk_put_nil(writer);
    }
    mpk_pair_array(writer, "rules", alerts->rule_count);
    for (uint32_t i = 0; i < alerts->rule_count; i++) {
        const struct rule *rule = alerts->rules[i];
        const struct alert_cells *whole = &alerts->whole->cells[i];
        mpk_put_map(writer, 4);
        mpk_pair_str(writer, "name", rule->name);
        mpk_pair_bool(writer, "judged", alerts_has_judged(alerts, i));
        mpk_pair_u64(writer, "hash", rule_hash(rule));
        struct mpk_open places = mpk_open(writer, "places");
        if (is_worth_keeping(whole)) {
            alerts_pack_put_place(rule, whole, 0, writer);
        }
        for (const struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
            if (is_worth_keeping(&layer->cells[i])) {
                alerts_pack_put_place(rule, &layer->cells[i], (uint64_t)layer->key + 1, writer);
            }
        }
        mpk_close_array(writer, &places);
    }
    /* The numbers that quantity.c keeps. */
    const struct alert_origin *origin = &alerts->origin;
    mpk_pair_array(writer, "heads", 2);
    mpk_put_f64(writer, alerts->focus);
    struct mpk_open layers = mpk_open(writer, NULL);
    for (const struct alert_layer *layer = alerts->layers; layer; layer = layer->hh.next) {
        const struct alert_numbers *numbers = layer->numbers;
        if (!numbers) {
            continue;
        }
        mpk_put_array(writer, 3);
        mpk_put_u64(writer, layer->key);
        size_t size = (size_t)numbers->heads * PAST_BYTES;
        uint8_t *bytes = malloc(size + 1);
        for (uint32_t h = 0; bytes && h < numbers->heads; h++) {
            memcpy(bytes + (size_t)h * PAST_BYTES, &numbers->head[h].past, PAST_BYTES);
        }
        if (bytes) {
            mpk_put_bin(writer, bytes, size);
        }
        writer->failed = writer->failed || !bytes;
        free(bytes);
        mpk_put_u64(writer, layer->measured);
    }
    mpk_close_array(writer, &layers);
    mpk_pair_u64(writer, "causal", alerts->masks.hides > 0);
    mpk_pair_u64(writer, "begun", alerts->begun);
    mpk_put_str(writer, "windows_to");
    if (alerts->windows_to.any) {
        mpk_put_array(writer, 4);
        mpk_put_u64(writer, alerts->windows_to.last);
        mpk_put_u64(writer, alerts->windows_to.epoch);
        mpk_put_u64(writer, alerts->windows_to.step);
        mpk_put_u64(writer, alerts->windows_to.after);
    } else {
        mpk_put_nil(writer);
    }
    mpk_pair_array(writer, "origin", 4);
    mpk_put_u64(writer, header_layer_key(origin->layer));
    mpk_put_u64(writer, (uint64_t)(origin->head + 1));
    mpk_put_f64(writer, origin->share);
    mpk_put_u64(writer, origin->everywhere);
    put_bin(writer, "loss", (const uint8_t *)&alerts->loss,
            alerts->loss.series == LOSS_NONE ? 0 : sizeof alerts->loss);
    return mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
}

/* Unpacking: each returns 0, ERR_MEMORY or ERR_STORE_FORMAT */

static int get_number(const msgpack_object *map, const char *key, uint64_t max,
                      uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && mpk_get_u64(value, max, ret_number) == 0 ? 0 : ERR_STORE_FORMAT;
}

/* A binary of exactly this size; NULL when it is none. */
static const uint8_t *get_bin(const msgpack_object *map, const char *key, size_t size)
{
    const msgpack_object *value = mpk_find(map, key);
    if (!value || value->type != MSGPACK_OBJECT_BIN || value->via.bin.size != size) {
        return NULL;
    }
    return (const uint8_t *)value->via.bin.ptr;
}

static const msgpack_object_array *alerts_pack_get_array(const msgpack_object *map, const char *key)
{
    const msgpack_object *value = mpk_find(map, key);
    return value && value->type == MSGPACK_OBJECT_ARRAY ? &value->via.array : NULL;
}

static int get_cell(struct alert_cells *cells, const msgpack_object *object)
{
    uint64_t index, held, flags, passed, failed, worst;
    double value;
    if (mpk_items(object) != 7) {
        return ERR_STORE_FORMAT;
    }
    const msgpack_object *item = object->via.array.ptr;
    if (mpk_get_u64(&item[0], cells->count - 1, &index) != 0 ||
        mpk_get_u64(&item[1], UINT32_MAX, &held) != 0 ||
        mpk_get_u64(&item[2], FLAGS, &flags) != 0 ||
        mpk_get_u64(&item[3], UINT64_MAX, &passed) != 0 ||
        mpk_get_u64(&item[4], UINT64_MAX, &failed) != 0 || mpk_get_f64(&item[5], &value) != 0 ||
        isnan(value) || mpk_get_u64(&item[6], INT32_MAX, &worst) != 0) {
        return ERR_STORE_FORMAT;
    }
    struct alert_cell *cell = &cells->cell[index];
    cell->held = (uint32_t)held;
    cell->firing = flags & FLAG_FIRING;
    cell->told = flags & FLAG_TOLD;
    cell->at_end = flags & FLAG_AT_END;
    cell->doubtful = flags & FLAG_DOUBTFUL;
    cell->passed = passed;
    cell->failed = failed;
    cell->value = value;
    cell->worst = (int32_t)worst - 1;
    return 0;
}

static int get_past(const struct rule *rule, struct alert_cells *cells, uint32_t index,
                    const uint8_t *bytes)
{
    struct alert_cell *cell = &cells->cell[index];
    double *past = cells->past + (size_t)index * rule->within;
    if (bytes[0] > rule->within) {
        return ERR_STORE_FORMAT;
    }
    cell->past_count = bytes[0];
    cell->past_next = (uint8_t)(bytes[0] % rule->within);
    for (uint32_t i = 0; i < bytes[0]; i++) {
        memcpy(&past[i], bytes + 1 + 8 * i, sizeof *past);
    }
    return 0;
}

/* The state of one place, as it was packed. */
struct packed_place {
    uint64_t place, count;
    const uint8_t *armed, *well, *past;
    bool well_alike;
    const msgpack_object_array *cells;
};

static int fill_cells(const struct rule *rule, struct alert_cells *cells,
                      const struct packed_place *packed)
{
    int code = 0;
    for (uint32_t i = 0; i < cells->count && !code; i++) {
        size_t at = packed->well_alike ? 0 : i * sizeof cells->cell[i].well;
        cells->cell[i].armed = packed->armed[i / 8] >> i % 8 & 1;
        memcpy(&cells->cell[i].well, packed->well + at, sizeof cells->cell[i].well);
        if (cells->past) {
            code = get_past(rule, cells, i, packed->past + i * past_bytes(rule));
        }
    }
    for (uint32_t i = 0; !code && i < packed->cells->size; i++) {
        code = get_cell(cells, &packed->cells->ptr[i]);
    }
    return code;
}

static int get_place(struct alerts *alerts, uint32_t index, const msgpack_object *map)
{
    const struct rule *rule = alerts->rules[index];
    struct packed_place packed;
    /* The size that a place claims agrees with its binaries, which bounds the memory allocated for
     * it. */
    if (get_number(map, "place", (uint64_t)UINT32_MAX + 1, &packed.place) != 0 ||
        get_number(map, "count", UINT32_MAX, &packed.count) != 0 || packed.count == 0 ||
        (rule->each == RULE_EACH_RUN) != (packed.place == 0) ||
        (rule->each != RULE_EACH_HEAD && packed.count != 1)) {
        return ERR_STORE_FORMAT;
    }
    size_t past = rule_is_rate(rule) ? packed.count * past_bytes(rule) : 0;
    packed.armed = get_bin(map, "armed", armed_bytes((uint32_t)packed.count));
    packed.well = get_bin(map, "well", packed.count * sizeof(uint64_t));
    packed.well_alike = !packed.well;
    packed.well = packed.well ? packed.well : get_bin(map, "well", sizeof(uint64_t));
    packed.past = get_bin(map, "past", past);
    packed.cells = alerts_pack_get_array(map, "cells");
    bool is_whole = packed.armed && packed.well && packed.past && packed.cells;
    int code = is_whole ? 0 : ERR_STORE_FORMAT;
    if (code) {
        return code;
    }
    struct alert_layer *layer = alerts->whole;
    if (packed.place) {
        layer = alert_layer_get(alerts, header_layer_of((uint32_t)(packed.place - 1)));
    }
    if (!layer || alert_cells_get(&layer->cells[index], rule, (uint32_t)packed.count) != 0) {
        return ERR_MEMORY;
    }
    return fill_cells(rule, &layer->cells[index], &packed);
}

static int get_rule(struct alerts *alerts, const msgpack_object *map)
{
    const msgpack_object *name = mpk_find(map, "name");
    const msgpack_object_array *places = alerts_pack_get_array(map, "places");
    uint64_t hash;
    int code = get_number(map, "hash", UINT64_MAX, &hash);
    if (code || !name || !places) {
        return ERR_STORE_FORMAT;
    }
    /* The rule in force with this name and meaning; rule_count when there is none. */
    uint32_t index = 0;
    while (index < alerts->rule_count && !(mpk_is_str(name, alerts->rules[index]->name) &&
                                           rule_hash(alerts->rules[index]) == hash)) {
        index++;
    }
    const msgpack_object *judged = mpk_find(map, "judged");
    if (index < alerts->rule_count && judged && judged->type == MSGPACK_OBJECT_BOOLEAN) {
        alerts->whole->cells[index].judged = judged->via.boolean ? alerts->rules[index]->times : 0;
        alerts->whole->cells[index].newest = alerts_clock(alerts, alerts->rules[index]);
    }
    for (uint32_t i = 0; i < places->size && index < alerts->rule_count && !code; i++) {
        code = get_place(alerts, index, &places->ptr[i]);
    }
    return code;
}

static int get_focus(struct alerts *alerts, const msgpack_object *object)
{
    const msgpack_object *item = object->via.array.ptr;
    uint64_t key, measured;
    if (mpk_items(object) != 3 || mpk_get_u64(&item[0], UINT32_MAX, &key) != 0 ||
        item[1].type != MSGPACK_OBJECT_BIN || item[1].via.bin.size % PAST_BYTES != 0 ||
        mpk_get_u64(&item[2], alerts->captures, &measured) != 0) {
        return ERR_STORE_FORMAT;
    }
    const uint8_t *bytes = (const uint8_t *)item[1].via.bin.ptr;
    uint32_t heads = item[1].via.bin.size / PAST_BYTES;
    struct alert_layer *layer = alert_layer_get(alerts, header_layer_of((uint32_t)key));
    if (!layer || alert_numbers_reserve(layer, heads) != 0) {
        return ERR_MEMORY;
    }
    layer->measured = (uint32_t)measured;
    for (uint32_t h = 0; h < heads; h++) {
        memcpy(&layer->numbers->head[h].past, bytes + (size_t)h * PAST_BYTES, PAST_BYTES);
    }
    return 0;
}

static int get_judged(struct alerts *alerts, const msgpack_object *map)
{
    const msgpack_object *judged = mpk_find(map, "judged");
    struct alert_judged *to = &alerts->judged;
    to->any = judged && judged->type != MSGPACK_OBJECT_NIL;
    if (to->any && (mpk_items(judged) != 2 ||
                    mpk_get_u64(&judged->via.array.ptr[0], UINT64_MAX, &to->epoch) != 0 ||
                    mpk_get_u64(&judged->via.array.ptr[1], UINT64_MAX, &to->step) != 0)) {
        return ERR_STORE_FORMAT;
    }
    return 0;
}

static int get_windows_to(struct alerts *alerts, const msgpack_object *map)
{
    const msgpack_object *to = mpk_find(map, "windows_to");
    alerts->windows_to.any = to && to->type != MSGPACK_OBJECT_NIL;
    if (alerts->windows_to.any &&
        (mpk_items(to) != 4 ||
         mpk_get_u64(&to->via.array.ptr[0], UINT64_MAX, &alerts->windows_to.last) != 0 ||
         mpk_get_u64(&to->via.array.ptr[1], UINT64_MAX, &alerts->windows_to.epoch) != 0 ||
         mpk_get_u64(&to->via.array.ptr[2], UINT64_MAX, &alerts->windows_to.step) != 0 ||
         mpk_get_u64(&to->via.array.ptr[3], UINT64_MAX, &alerts->windows_to.after) != 0)) {
        return ERR_STORE_FORMAT;
    }
    return get_number(map, "begun", UINT64_MAX, &alerts->begun);
}

static int get_all(struct alerts *alerts, const msgpack_object *map)
{
    const msgpack_object_array *rules = alerts_pack_get_array(map, "rules");
    const uint8_t *run = get_bin(map, "run", RUN_BYTES);
    struct result_common *newest = &alerts->newest;
    uint64_t version, captures, windows;
    if (get_number(map, "v", 3, &version) != 0 || version != 3 || !rules || !run ||
        get_number(map, "captures", UINT32_MAX, &captures) != 0 ||
        get_number(map, "windows", UINT32_MAX, &windows) != 0 ||
        get_number(map, "epoch", UINT64_MAX, &newest->epoch) != 0 ||
        get_number(map, "step", UINT64_MAX, &newest->step) != 0 ||
        get_number(map, "time_ns", UINT64_MAX, &newest->time_ns) != 0) {
        return ERR_STORE_FORMAT;
    }
    memcpy(alerts->run, run, RUN_BYTES);
    alerts->captures = (uint32_t)captures;
    alerts->windows = (uint32_t)windows;
    int code = get_judged(alerts, map);
    code = code ? code : get_windows_to(alerts, map);
    for (uint32_t i = 0; i < rules->size && !code; i++) {
        code = get_rule(alerts, &rules->ptr[i]);
    }
    if (code) {
        return code;
    }
    const msgpack_object_array *focus = alerts_pack_get_array(map, "heads");
    const msgpack_object_array *origin = alerts_pack_get_array(map, "origin");
    struct alert_origin *to = &alerts->origin;
    uint64_t key, head, causal, everywhere;
    if (!focus || !origin || focus->size != 2 || focus->ptr[1].type != MSGPACK_OBJECT_ARRAY ||
        origin->size != 4 || mpk_get_f64(&focus->ptr[0], &alerts->focus) != 0 ||
        get_number(map, "causal", 1, &causal) != 0 ||
        mpk_get_u64(&origin->ptr[0], UINT32_MAX, &key) != 0 ||
        mpk_get_u64(&origin->ptr[1], INT32_MAX, &head) != 0 ||
        mpk_get_f64(&origin->ptr[2], &to->share) != 0 ||
        mpk_get_u64(&origin->ptr[3], 1, &everywhere) != 0) {
        return ERR_STORE_FORMAT;
    }
    alerts->masks.hides = (uint32_t)causal;
    to->layer = header_layer_of((uint32_t)key);
    to->head = (int32_t)head - 1;
    to->everywhere = everywhere;
    const uint8_t *loss = get_bin(map, "loss", sizeof alerts->loss);
    if (loss) {
        memcpy(&alerts->loss, loss, sizeof alerts->loss);
    }
    if ((!loss && !get_bin(map, "loss", 0)) || !loss_is_sound(&alerts->loss)) {
        return ERR_STORE_FORMAT; /* and alerts_unpack forgets it */
    }
    const msgpack_object_array *layers = &focus->ptr[1].via.array;
    code = 0;
    for (uint32_t i = 0; i < layers->size && !code; i++) {
        code = get_focus(alerts, &layers->ptr[i]);
    }
    return code;
}

int alerts_unpack(struct alerts *alerts, const void *data, size_t size)
{
    struct mpk_doc doc;
    alerts_forget(alerts);
    int code = mpk_parse(data, size, &mpk_result_limits, &doc);
    if (code) {
        return code == ERR_MEMORY ? ERR_MEMORY : ERR_STORE_FORMAT;
    }
    code = get_all(alerts, doc.root);
    mpk_doc_clear(&doc);
    if (code) {
        alerts_forget(alerts);
    }
    return code;
}
