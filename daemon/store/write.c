/* SPDX-License-Identifier: MIT */
#include "daemon/store/internal.h"

#include "daemon/store/series.h"
#include "daemon/base/stats.h"

#include <stdlib.h>

/* The numbers that a training reports, such as its loss: a row each, as they come one by one.
 *
 * A training may report at every step for weeks, and a curve has no use for more points than a
 * screen has columns. So there are at most STORE_POINTS_MAX of a name: steps that agree but for the
 * lowest `shift` bits are a bucket, and `shift` grows when there are too many. A curve is looked at
 * for its jumps, so a bucket is not a mean or a sample: its first, last, smallest and largest point
 * stay, and the first and last that are not finite, six at most. Which ones these are does not
 * depend on when buckets were joined: a run that is replayed finds its points, and changes none. */

/* No step has more bits. */
#define SHIFT_MAX 62

struct points_log {
    int64_t log_id, shift, points;
};

/* SQLITE_DONE: it would be one name too many. */
static int points_find(const struct store_writer *writer, int64_t run_id, const char *name,
                       struct points_log *ret_log)
{
    struct sql_query query =
        query_begin(writer->sql, STATEMENT_GET_LOG, SQL(sql_i64(run_id), sql_text(name)));
    int code = query_row(&query);
    if (code == SQLITE_ROW) {
        *ret_log = (struct points_log){sqlite3_column_int64(query.statement, 0),
                                       sqlite3_column_int64(query.statement, 1),
                                       sqlite3_column_int64(query.statement, 2)};
    }
    query_end(&query);
    if (code != SQLITE_DONE) {
        return code == SQLITE_ROW ? SQLITE_OK : code;
    }
    *ret_log = (struct points_log){.points = 0};
    return sql_number(writer->sql, STATEMENT_PUT_LOG,
                      SQL(sql_i64(run_id), sql_text(name), sql_i64(STORE_NAMES_MAX)),
                      &ret_log->log_id);
}

/* Adds to *points the rows that a statement has added or, with -1, removed. */
static int points_run(const struct store_writer *writer, enum statement statement,
                      const struct sql_value *values, int sign, int64_t *points)
{
    int code = sql_run(writer->sql, statement, values);
    if (code == SQLITE_OK) {
        *points += (int64_t)sign * sqlite3_changes(writer->sql->db);
    }
    return code;
}

/* Thins out the buckets of these steps. */
static int points_thin(const struct store_writer *writer, struct points_log *log, uint64_t first,
                       uint64_t last)
{
    return points_run(writer, STATEMENT_THIN_POINTS,
                      SQL(sql_i64(log->log_id), sql_u64(first), sql_u64(last),
                          sql_i64((INT64_C(1) << log->shift) - 1)),
                      -1, &log->points);
}

static int points_put(const struct store_writer *writer, struct points_log *log,
                      const struct store_point *point)
{
    uint64_t bits = (UINT64_C(1) << log->shift) - 1;
    int code = points_run(writer, STATEMENT_DROP_POINT,
                          SQL(sql_i64(log->log_id), sql_u64(point->step)), -1, &log->points);
    if (code == SQLITE_OK) {
        code = points_run(writer, STATEMENT_PUT_POINT,
                          SQL(sql_i64(log->log_id), sql_u64(point->step), sql_u64(point->epoch),
                              sql_u64(point->time_ns), sql_f64(point->value)),
                          1, &log->points);
    }
    if (code != SQLITE_OK || log->shift == 0) {
        return code;
    }
    return points_thin(writer, log, point->step & ~bits, point->step | bits);
}

/* Writes a point among those of its name. Returns an SQLite code. */
static int points_write(const struct store_writer *writer, int64_t run_id,
                        const struct store_point *point)
{
    struct points_log log;
    int code = points_find(writer, run_id, point->name, &log);
    if (code == SQLITE_DONE) {
        stats_add(writer->stats, COUNT_LOG_REFUSED, 1);
        return SQLITE_OK;
    }
    if (code != SQLITE_OK || log.shift < 0 || log.shift > SHIFT_MAX) {
        return code;
    }
    const struct points_log before = log;
    code = points_put(writer, &log, point);
    while (code == SQLITE_OK && log.points > STORE_POINTS_MAX && log.shift < SHIFT_MAX) {
        log.shift++;
        code = points_thin(writer, &log, 0, INT64_MAX);
    }
    if (code != SQLITE_OK || (log.points == before.points && log.shift == before.shift)) {
        return code;
    }
    return sql_run(writer->sql, STATEMENT_SET_LOG,
                   SQL(sql_i64(log.points), sql_i64(log.shift), sql_i64(log.log_id)));
}

/* Rows that are found, or made when they are not there */

/* The subject of a record. */
static int find_both(const struct store_writer *writer, int64_t run_id, struct layer_id id,
                     uint32_t heads, const struct result_window *window,
                     struct store_place *ret_which)
{
    int code = sql_find(writer->sql, STATEMENT_GET_LAYER, STATEMENT_PUT_LAYER,
                        SQL(sql_i64(run_id), sql_u64(id.stack), sql_u64(id.layer), sql_u64(id.site),
                            sql_u64(heads)),
                        &ret_which->layer_id);
    if (code != SQLITE_OK) {
        return code;
    }
    return sql_find(writer->sql, STATEMENT_GET_TRACK, STATEMENT_PUT_TRACK,
                    SQL(sql_u64(window->unit), sql_u64(window->length), sql_u64(window->every)),
                    &ret_which->track_id);
}

/* Windows */

static int write_window(const struct store_writer *writer, int64_t run_id,
                        const struct store_window *window)
{
    struct store_place which;
    int64_t window_id;
    int code = find_both(writer, run_id, window->layer, window->heads, &window->window, &which);
    if (code == SQLITE_OK && window->module) {
        code = sql_run(writer->sql, STATEMENT_SET_MODULE,
                       SQL(sql_text(window->module), sql_i64(which.layer_id)));
    }
    if (code == SQLITE_OK) {
        code = sql_number(
            writer->sql, STATEMENT_PUT_WINDOW,
            SQL(sql_i64(which.layer_id), sql_i64(which.track_id), sql_u64(window->window.first),
                sql_u64(window->window.last), sql_u64(window->epoch), sql_u64(window->step),
                sql_u64(window->time_ns), sql_u64(window->messages), sql_u64(window->lost),
                sql_u64(window->window.partial), sql_u64(window->final), sql_i64(writer->now_s),
                sql_u64(window->lacks)),
            &window_id);
    }
    if (code == SQLITE_OK) {
        code = window->state_size > 0
                   ? sql_run(writer->sql, STATEMENT_PUT_STATE,
                             SQL(sql_i64(window_id), sql_u64(window->state_size),
                                 sql_blob(window->state, window->state_size)))
                   : sql_run(writer->sql, STATEMENT_DROP_STATE, SQL(sql_i64(window_id)));
    }
    if (code == SQLITE_OK && window->final) {
        /* Says when there is enough for a chunk: once per chunk, or again when nobody made it. */
        int64_t count = 0, wanted = chunk_windows(window->heads);
        code = sql_number(
            writer->sql, STATEMENT_COUNT_RECENT,
            SQL(sql_i64(which.layer_id), sql_i64(which.track_id), sql_i64(4 * wanted)), &count);
        if (code == SQLITE_OK && count >= wanted && count % wanted == 0) {
            writer->full(writer->data, which);
        }
    }
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* Maps */

/* Half precision as it is kept: little-endian, deflated unless that is longer. */
struct packed_map {
    void *memory; /* owned */
    const void *data;
    size_t size;
};

static bool store_write_pack(const uint16_t *values, size_t count, struct packed_map *ret_packed)
{
    size_t size = 2 * count;
    void *packed = malloc(size + 1);
    if (!packed) {
        return false;
    }
    size_t shorter = blob_deflate(values, size, packed);
    *ret_packed = (struct packed_map){packed, shorter ? packed : values, shorter ? shorter : size};
    return true;
}

static int write_map(const struct store_writer *writer, int64_t run_id, const struct store_map *map)
{
    struct store_place which;
    const struct store_head_maps *heads = &map->of_heads;
    struct packed_map mean = {.memory = NULL}, each = {.memory = NULL};
    bool any = heads->heads > 0;
    int code = find_both(writer, run_id, map->layer, 0, &map->window, &which);
    if (code != SQLITE_OK) {
        return code;
    }
    if (store_write_pack(map->values, (size_t)map->rows * map->columns, &mean) &&
        store_write_pack(heads->values, (size_t)heads->heads * heads->rows * heads->columns,
                         &each)) {
        code = sql_run(writer->sql, STATEMENT_PUT_MAP,
                       SQL(sql_i64(which.layer_id), sql_i64(which.track_id),
                           sql_u64(map->window.first), sql_u64(map->window.last),
                           sql_u64(map->epoch), sql_u64(map->step), sql_u64(map->time_ns),
                           sql_u64(map->window.partial), sql_u64(map->queries), sql_u64(map->keys),
                           sql_u64(map->rows), sql_u64(map->columns), sql_i64(writer->now_s),
                           sql_blob(mean.data, mean.size), sql_if(any, sql_u64(heads->heads)),
                           sql_if(any, sql_u64(heads->queries)), sql_if(any, sql_u64(heads->keys)),
                           sql_if(any, sql_u64(heads->rows)), sql_if(any, sql_u64(heads->columns)),
                           sql_if(any, sql_blob(each.data, each.size))));
    } else {
        code = SQLITE_NOMEM;
    }
    free(mean.memory);
    free(each.memory);
    return code;
}

/* Sketches */

static int write_sketch(const struct store_writer *writer, int64_t run_id,
                        const struct store_sketch *sketch)
{
    void *packed = malloc(sketch->numbers_size);
    if (!packed) {
        return SQLITE_NOMEM;
    }
    size_t shorter = blob_deflate(sketch->numbers, sketch->numbers_size, packed);
    int code = sql_run(
        writer->sql, STATEMENT_PUT_SKETCH,
        SQL(sql_i64(run_id), sql_u64(sketch->layer.stack), sql_u64(sketch->layer.layer),
            sql_u64(sketch->layer.site), sql_u64(sketch->epoch), sql_u64(sketch->step),
            sql_u64(sketch->time_ns), sql_i64(writer->now_s), sql_u64(sketch->numbers_size),
            shorter ? sql_blob(packed, shorter) : sql_blob(sketch->numbers, sketch->numbers_size)));
    free(packed);
    return code;
}

/* Alerts */

static int write_alert(const struct store_writer *writer, int64_t run_id,
                       const struct alert_result *alert)
{
    const struct result_common *common = &alert->common;
    bool any = alert->has_layer;
    return sql_run(
        writer->sql, STATEMENT_PUT_ALERT,
        SQL(sql_i64(run_id), sql_u64(common->epoch), sql_u64(common->step),
            sql_u64(common->time_ns), sql_text(alert->rule), sql_u64(alert->severity),
            sql_u64(alert->state), sql_text(alert->metric),
            sql_if(any, sql_u64(alert->layer.stack)), sql_if(any, sql_u64(alert->layer.layer)),
            sql_if(any, sql_u64(alert->layer.site)), sql_i64(alert->head), sql_f64(alert->value),
            sql_f64(alert->bound),
            sql_if(alert->since_after != ALERT_FROM_START, sql_u64(alert->since_after)),
            sql_u64(alert->since_step), sql_text(alert->message), sql_i64(writer->now_s)));
}

/* A row for hubs gets its number here, in the transaction of the window. */
static int write_out(const struct store_writer *writer, const uint8_t *run,
                     const struct record_kept *body)
{
    int64_t seq = 0;
    int code = sql_number(
        writer->sql, STATEMENT_PUT_OUT,
        SQL(sql_blob(run, RUN_BYTES), sql_i64(writer->now_s), sql_u64(body->size)), &seq);
    if (code != SQLITE_OK) {
        return code;
    }
    writer->out->rows++;
    writer->out->bytes += body->size;
    return sql_run(writer->sql, STATEMENT_PUT_OUT_BODY,
                   SQL(sql_i64(seq), sql_blob(body->value, body->size)));
}

static int write_record(const struct store_writer *writer, const struct store_batch *batch,
                        int64_t run_id, const struct record *record)
{
    const struct record_kept *kept = &record->of.kept;
    switch (record->kind) {
    case RECORD_WINDOW:
        return write_window(writer, run_id, &record->of.window);
    case RECORD_MAP:
        return write_map(writer, run_id, &record->of.map);
    case RECORD_ALERT:
        return write_alert(writer, run_id, &record->of.alert);
    case RECORD_POINT:
        return points_write(writer, run_id, &record->of.point);
    case RECORD_SKETCH:
        return write_sketch(writer, run_id, &record->of.sketch);
    case RECORD_SETTINGS:
        return sql_run(writer->sql, STATEMENT_SET_SETTINGS,
                       SQL(sql_blob(kept->value, kept->size), sql_i64(run_id)));
    case RECORD_FAILURE:
        return sql_run(writer->sql, STATEMENT_SET_FAILURE,
                       SQL(sql_blob(kept->value, kept->size), sql_i64(run_id)));
    case RECORD_KEEP:
        return sql_run(
            writer->sql, STATEMENT_KEEP,
            SQL(sql_i64(run_id), sql_text(kept->key), sql_blob(kept->value, kept->size)));
    case RECORD_FORGET:
        return sql_run(writer->sql, STATEMENT_FORGET, SQL(sql_i64(run_id), sql_text(kept->key)));
    case RECORD_OUT:
        return write_out(writer, batch->run_id, kept);
    }
    return SQLITE_MISUSE;
}

int write_batch(const struct store_writer *writer, const struct store_batch *batch)
{
    int64_t run_id;
    if (batch->is_change) {
        return batch->change ? change_write(writer->sql, batch->change) : SQLITE_OK;
    }
    int code = sql_number(writer->sql, STATEMENT_PUT_RUN,
                          SQL(sql_text(batch->run.job), sql_blob(batch->run.run, RUN_BYTES),
                              sql_u64(batch->run.state), sql_u64(batch->run.world),
                              sql_u64(batch->run.time_ns), sql_u64(batch->run.epoch),
                              sql_u64(batch->run.step), sql_i64(writer->now_s)),
                          &run_id);
    for (const struct record *r = batch->first; r && code == SQLITE_OK; r = r->next) {
        code = write_record(writer, batch, run_id, r);
    }
    return code;
}
