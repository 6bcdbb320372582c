/* SPDX-License-Identifier: MIT */
#include "daemon/store/internal.h"

#include "daemon/store/chunk.h"
#include "daemon/store/series.h"

#include <stdlib.h>

/* Rows that are found, or made when they are not there */

static int store_write_find_run(const struct store_writer *writer, const struct store_run *run,
                                int64_t *ret_run_id)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_PUT_RUN);
    query_text(&query, run->job);
    query_blob(&query, run->run, RUN_BYTES);
    query_u64(&query, run->state);
    query_u64(&query, run->world);
    query_u64(&query, run->time_ns);
    query_u64(&query, run->epoch);
    query_u64(&query, run->step);
    query_i64(&query, writer->now_s);
    return query_number(&query, ret_run_id);
}

/* Gets, and if there is none puts: both statements have the same parameters, all numbers. */
static int store_write_find(const struct store_writer *writer, enum statement get,
                            enum statement put, const uint64_t *parameters, int count,
                            int64_t *ret_id)
{
    int code = SQLITE_DONE;
    for (int attempt = 0; attempt < 2 && code == SQLITE_DONE; attempt++) {
        struct sql_query query = query_begin(writer->sql, attempt ? put : get);
        for (int i = 0; i < count; i++) {
            query_u64(&query, parameters[i]);
        }
        code = query_number(&query, ret_id);
    }
    return code;
}

/* The subject of a record. */
static int find_both(const struct store_writer *writer, int64_t run_id, struct layer_id id,
                     uint32_t heads, const struct result_window *window,
                     struct store_place *ret_which)
{
    const uint64_t layer[] = {(uint64_t)run_id, id.stack, id.layer, id.site, heads};
    const uint64_t track[] = {window->unit, window->length, window->every};
    int code = store_write_find(writer, STATEMENT_GET_LAYER, STATEMENT_PUT_LAYER, layer, 5,
                                &ret_which->layer_id);
    if (code != SQLITE_OK) {
        return code;
    }
    return store_write_find(writer, STATEMENT_GET_TRACK, STATEMENT_PUT_TRACK, track, 3,
                            &ret_which->track_id);
}

/* Windows */

static int store_write_put_window(const struct store_writer *writer, struct store_place which,
                                  const struct store_window *window, int64_t *ret_window_id)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_PUT_WINDOW);
    query_i64(&query, which.layer_id);
    query_i64(&query, which.track_id);
    query_u64(&query, window->window.first);
    query_u64(&query, window->window.last);
    query_u64(&query, window->epoch);
    query_u64(&query, window->step);
    query_u64(&query, window->time_ns);
    query_u64(&query, window->messages);
    query_u64(&query, window->lost);
    query_u64(&query, window->window.partial);
    query_u64(&query, window->final);
    query_i64(&query, writer->now_s);
    query_u64(&query, window->lacks);
    return query_number(&query, ret_window_id); /* SQLITE_DONE: another stays */
}

static int store_write_put_state(const struct store_writer *writer, int64_t window_id,
                                 const struct store_window *window)
{
    bool any = window->state_size > 0;
    struct sql_query query =
        query_begin(writer->sql, any ? STATEMENT_PUT_STATE : STATEMENT_DROP_STATE);
    query_i64(&query, window_id);
    if (any) {
        query_u64(&query, window->state_size);
        query_blob(&query, window->state, window->state_size);
    }
    return query_run(&query);
}

/* Says when there is enough for a chunk: once per chunk, or again when nobody made it. */
static int tell_full(const struct store_writer *writer, struct store_place which, uint32_t heads)
{
    int64_t count = 0, wanted = chunk_windows(heads);
    struct sql_query query = query_begin(writer->sql, STATEMENT_COUNT_RECENT);
    query_i64(&query, which.layer_id);
    query_i64(&query, which.track_id);
    query_i64(&query, 4 * wanted);
    int code = query_number(&query, &count);
    if (code == SQLITE_OK && count >= wanted && count % wanted == 0) {
        writer->full(writer->data, which);
    }
    return code;
}

static int put_module(const struct store_writer *writer, struct store_place which,
                      const char *module)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_SET_MODULE);
    query_text(&query, module);
    query_i64(&query, which.layer_id);
    return query_run(&query);
}

static int write_window(const struct store_writer *writer, int64_t run_id,
                        const struct store_window *window)
{
    struct store_place which;
    int64_t window_id;
    int code = find_both(writer, run_id, window->layer, window->heads, &window->window, &which);
    if (code == SQLITE_OK && window->module) {
        code = put_module(writer, which, window->module);
    }
    if (code == SQLITE_OK) {
        code = store_write_put_window(writer, which, window, &window_id);
    }
    if (code == SQLITE_OK) {
        code = store_write_put_state(writer, window_id, window);
    }
    if (code == SQLITE_OK && window->final) {
        code = tell_full(writer, which, window->heads);
    }
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* Maps */

/* Half precision as it is kept: little-endian, deflated unless that is longer. */
struct packed_map {
    uint8_t *memory; /* owned */
    const uint8_t *data;
    size_t size;
};

static bool store_write_pack(const uint16_t *values, size_t count, struct packed_map *ret_packed)
{
    size_t size = 2 * count;
    uint8_t *raw = malloc(2 * size + 1), *packed = raw + size;
    if (!raw) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        raw[2 * i] = (uint8_t)values[i];
        raw[2 * i + 1] = (uint8_t)(values[i] >> 8);
    }
    size_t shorter = blob_deflate(raw, size, packed);
    *ret_packed = (struct packed_map){raw, shorter ? packed : raw, shorter ? shorter : size};
    return true;
}

static int store_write_put_map(const struct store_writer *writer, struct store_place which,
                               const struct store_map *map, const struct packed_map *mean,
                               const struct packed_map *each)
{
    const struct store_head_maps *heads = &map->of_heads;
    const uint64_t shape[] = {heads->heads, heads->queries, heads->keys, heads->rows,
                              heads->columns};
    struct sql_query query = query_begin(writer->sql, STATEMENT_PUT_MAP);
    query_i64(&query, which.layer_id);
    query_i64(&query, which.track_id);
    query_u64(&query, map->window.first);
    query_u64(&query, map->window.last);
    query_u64(&query, map->epoch);
    query_u64(&query, map->step);
    query_u64(&query, map->time_ns);
    query_u64(&query, map->window.partial);
    query_u64(&query, map->queries);
    query_u64(&query, map->keys);
    query_u64(&query, map->rows);
    query_u64(&query, map->columns);
    query_i64(&query, writer->now_s);
    query_blob(&query, mean->data, mean->size);
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        if (heads->heads) {
            query_u64(&query, shape[i]);
        } else {
            query_null(&query);
        }
    }
    if (heads->heads) {
        query_blob(&query, each->data, each->size);
    } else {
        query_null(&query);
    }
    return query_run(&query);
}

static int pack_map(const struct store_writer *writer, struct store_place which,
                    const struct store_map *map)
{
    const struct store_head_maps *heads = &map->of_heads;
    struct packed_map mean = {.memory = NULL}, each = {.memory = NULL};
    bool ok =
        store_write_pack(map->values, (size_t)map->rows * map->columns, &mean) &&
        store_write_pack(heads->values, (size_t)heads->heads * heads->rows * heads->columns, &each);
    int code = ok ? store_write_put_map(writer, which, map, &mean, &each) : SQLITE_NOMEM;
    free(mean.memory);
    free(each.memory);
    return code;
}

static int write_map(const struct store_writer *writer, int64_t run_id, const struct store_map *map)
{
    struct store_place which;
    int code = find_both(writer, run_id, map->layer, 0, &map->window, &which);
    return code == SQLITE_OK ? pack_map(writer, which, map) : code;
}

/* Alerts */

static int write_alert(const struct store_writer *writer, int64_t run_id,
                       const struct alert_result *alert)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_PUT_ALERT);
    const uint64_t layer[] = {alert->layer.stack, alert->layer.layer, alert->layer.site};
    query_i64(&query, run_id);
    query_u64(&query, alert->common.epoch);
    query_u64(&query, alert->common.step);
    query_u64(&query, alert->common.time_ns);
    query_text(&query, alert->rule);
    query_u64(&query, alert->severity);
    query_u64(&query, alert->state);
    query_text(&query, alert->metric);
    for (int i = 0; i < 3; i++) {
        if (alert->has_layer) {
            query_u64(&query, layer[i]);
        } else {
            query_null(&query);
        }
    }
    query_i64(&query, alert->head);
    query_f64(&query, alert->value);
    query_f64(&query, alert->bound);
    query_u64(&query, alert->since_epoch);
    query_u64(&query, alert->since_step);
    query_text(&query, alert->message);
    query_i64(&query, writer->now_s);
    return query_run(&query);
}

/* Kept values */

static int write_kept(const struct store_writer *writer, int64_t run_id,
                      const struct record_kept *kept, bool keep)
{
    struct sql_query query = query_begin(writer->sql, keep ? STATEMENT_KEEP : STATEMENT_FORGET);
    query_i64(&query, run_id);
    query_text(&query, kept->key);
    if (keep) {
        query_blob(&query, kept->value, kept->size);
    }
    return query_run(&query);
}

static int write_settings(const struct store_writer *writer, int64_t run_id,
                          const struct record_kept *settings)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_SET_SETTINGS);
    query_blob(&query, settings->value, settings->size);
    query_i64(&query, run_id);
    return query_run(&query);
}

/* A row for hubs gets its number here, in the transaction of the window. */
static int write_out(const struct store_writer *writer, const uint8_t *run,
                     const struct record_kept *body)
{
    int64_t seq = 0;
    struct sql_query query = query_begin(writer->sql, STATEMENT_PUT_OUT);
    query_blob(&query, run, RUN_BYTES);
    query_i64(&query, writer->now_s);
    query_u64(&query, body->size);
    int code = query_number(&query, &seq);
    if (code != SQLITE_OK) {
        return code;
    }
    query = query_begin(writer->sql, STATEMENT_PUT_OUT_BODY);
    query_i64(&query, seq);
    query_blob(&query, body->value, body->size);
    writer->out->rows++;
    writer->out->bytes += body->size;
    return query_run(&query);
}

static int write_record(const struct store_writer *writer, const struct store_batch *batch,
                        int64_t run_id, const struct record *record)
{
    switch (record->kind) {
    case RECORD_WINDOW:
        return write_window(writer, run_id, &record->of.window);
    case RECORD_MAP:
        return write_map(writer, run_id, &record->of.map);
    case RECORD_ALERT:
        return write_alert(writer, run_id, &record->of.alert);
    case RECORD_POINT:
        return points_write(writer, run_id, &record->of.point);
    case RECORD_SETTINGS:
        return write_settings(writer, run_id, &record->of.kept);
    case RECORD_KEEP:
    case RECORD_FORGET:
        return write_kept(writer, run_id, &record->of.kept, record->kind == RECORD_KEEP);
    case RECORD_OUT:
        return write_out(writer, batch->run_id, &record->of.kept);
    }
    return SQLITE_MISUSE;
}

int write_batch(const struct store_writer *writer, const struct store_batch *batch)
{
    int64_t run_id;
    int code = store_write_find_run(writer, &batch->run, &run_id);
    for (const struct record *r = batch->first; r && code == SQLITE_OK; r = r->next) {
        code = write_record(writer, batch, run_id, r);
    }
    return code;
}
