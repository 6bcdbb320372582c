/* SPDX-License-Identifier: MIT */
/* A state is unpacked once, and what a summary would say of it is spread over the columns: one per
 * head and metric. Only metrics that some window has take memory. */
#include "daemon/store/chunk.h"

#include "daemon/base/crash.h"
#include "daemon/state/layer_state.h"
#include "daemon/store/series.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* For the numbers of one chunk. */
#define CHUNK_BYTES_MAX ((size_t)64 << 20)

/* The numbers of a layer as a whole: aggregates, and then the sink rate. */
#define WHOLE_SINK_RATE ((int)AGGREGATE_COUNT * MAP_STAT_COUNT)
#define WHOLE_COUNT     (WHOLE_SINK_RATE + 1)

struct chunk {
    uint32_t heads, wanted, count; /* windows wanted, had */
    uint32_t unreadable;
    int64_t stored;
    struct series_window window[SERIES_WINDOWS_MAX];
    int64_t window_id[SERIES_WINDOWS_MAX];
    struct result_stat *number[METRIC_COUNT]; /* [heads][wanted]; owned; NULL = none has it */
    struct result_stat *whole[WHOLE_COUNT];   /* [wanted]; likewise */
};

uint32_t chunk_windows(uint32_t heads)
{
    size_t per_window = (size_t)METRIC_COUNT * sizeof(struct result_stat) * (heads ? heads : 1);
    size_t windows = CHUNK_BYTES_MAX / per_window;
    if (windows >= SERIES_WINDOWS_MAX) {
        return SERIES_WINDOWS_MAX;
    }
    return windows ? (uint32_t)windows : 1;
}

/* Windows without a number have a count of 0. */
static struct result_stat *columns_new(size_t count)
{
    struct result_stat *stats = malloc(count * sizeof *stats);
    for (size_t i = 0; stats && i < count; i++) {
        stats[i] = (struct result_stat){NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0};
    }
    return stats;
}

/* Puts the numbers of `heads` heads in the place of the newest window. */
static int store_chunk_spread(struct result_stat **columns, const struct result_stat *stats,
                              uint32_t heads, const struct chunk *chunk, uint32_t chunk_heads)
{
    if (!*columns) {
        *columns = columns_new((size_t)chunk_heads * chunk->wanted);
    }
    if (!*columns) {
        return ERR_MEMORY;
    }
    for (uint32_t h = 0; h < heads && h < chunk_heads; h++) {
        (*columns)[(size_t)h * chunk->wanted + chunk->count] = stats[h];
    }
    return 0;
}

static int spread_state(struct chunk *chunk, const struct layer_state *state)
{
    static const uint8_t no_run[RUN_BYTES];
    const struct result_window window = {.length = 1, .every = 1};
    struct summary_view view;
    int code = summary_view_init(&view, state, (struct layer_id){0}, "", no_run, &window);
    if (code) {
        return code;
    }
    for (int m = 0; m < METRIC_COUNT && !code; m++) {
        if (view.result.stat[m]) {
            code = store_chunk_spread(&chunk->number[m], view.result.stat[m], state->heads, chunk,
                                      chunk->heads);
        }
    }
    if (!code) {
        for (int a = 0; a < AGGREGATE_COUNT; a++) {
            for (int s = 0;
                 view.result.aggregate && view.result.has_aggregate[a] && s < MAP_STAT_COUNT; s++) {
                if (!code) {
                    code = store_chunk_spread(&chunk->whole[a * MAP_STAT_COUNT + s],
                                              &view.result.aggregate[a][s], 1, chunk, 1);
                }
            }
        }
        if (!code && view.result.sink_rate) {
            code = store_chunk_spread(&chunk->whole[WHOLE_SINK_RATE], view.result.sink_rate, 1,
                                      chunk, 1);
        }
    }
    summary_view_clear(&view);
    return code;
}

/* One window, and its state */

/* A window whose state cannot be read has no numbers. */
static int take_state(struct chunk *chunk, sqlite3_stmt *row)
{
    struct layer_state *state = NULL;
    if (sqlite3_column_type(row, 10) == SQLITE_NULL) {
        return 0;
    }
    uint64_t bytes = (uint64_t)sqlite3_column_int64(row, 10);
    uint8_t *plain = NULL;
    int code = blob_inflate(sqlite3_column_blob(row, 11), (size_t)sqlite3_column_bytes(row, 11),
                            bytes, &plain);
    if (!code) {
        code = layer_state_unpack(plain, bytes, &state);
    }
    free(plain);
    if (code == ERR_STORE_FORMAT) {
        chunk->unreadable++;
        return 0;
    }
    if (!code) {
        code = spread_state(chunk, state);
    }
    layer_state_free(&state);
    return code;
}

/* Rows */

static int store_chunk_find_metric(const struct sql *sql, const char *name, int64_t *ret_metric_id)
{
    int code = SQLITE_DONE;
    const enum statement steps[] = {STATEMENT_GET_METRIC, STATEMENT_PUT_METRIC};
    for (int i = 0; i < 2 && code == SQLITE_DONE; i++) {
        code = sql_number(sql, steps[i], SQL(sql_text(name)), ret_metric_id);
    }
    return code;
}

static bool any_number(const struct result_stat *stats, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (stats[i].count) {
            return true;
        }
    }
    return false;
}

/* `head` -1: the layer as a whole. */
static int store_chunk_put_series(const struct sql *sql, int64_t chunk_id, int64_t metric_id,
                                  int64_t head, const struct result_stat *stats, uint32_t count)
{
    uint8_t data[SERIES_STATS_BYTES(SERIES_WINDOWS_MAX)];
    if (!any_number(stats, count)) {
        return SQLITE_OK;
    }
    return sql_run(sql, STATEMENT_PUT_SERIES,
                   SQL(sql_i64(chunk_id), sql_i64(metric_id), sql_i64(head),
                       sql_blob(data, series_encode(stats, count, data))));
}

static int write_chunk(const struct sql *sql, struct store_place which, const struct chunk *chunk)
{
    int64_t chunk_id = 0;
    int code = sql_begin(sql);
    if (code != SQLITE_OK) {
        return code;
    }
    uint8_t data[SERIES_WINDOWS_BYTES(SERIES_WINDOWS_MAX)];
    size_t size = series_windows_encode(chunk->window, chunk->count, data);
    code = sql_number(sql, STATEMENT_PUT_CHUNK,
                      SQL(sql_i64(which.layer_id), sql_i64(which.track_id),
                          sql_u64(chunk->window[0].first),
                          sql_u64(chunk->window[chunk->count - 1].last), sql_i64(chunk->count),
                          sql_i64(chunk->stored), sql_blob(data, size)),
                      &chunk_id);
    if (code == SQLITE_OK) {
        for (int m = 0; m < METRIC_COUNT && code == SQLITE_OK; m++) {
            int64_t metric_id = 0;
            const char *name = metric_info[m].name;
            if (!chunk->number[m]) {
                continue;
            }
            code = store_chunk_find_metric(sql, name, &metric_id);
            for (uint32_t h = 0; h < chunk->heads && code == SQLITE_OK; h++) {
                code = store_chunk_put_series(sql, chunk_id, metric_id, h,
                                              chunk->number[m] + (size_t)h * chunk->wanted,
                                              chunk->count);
            }
        }
    }
    if (code == SQLITE_OK) {
        for (int w = 0; w < WHOLE_COUNT && code == SQLITE_OK; w++) {
            char name[64];
            int64_t metric_id = 0;
            if (!chunk->whole[w]) {
                continue;
            }
            if (w == WHOLE_SINK_RATE) {
                snprintf(name, sizeof name, "sink_rate");
            } else {
                snprintf(name, sizeof name, "aggregate.%s.%s", aggregate_name[w / MAP_STAT_COUNT],
                         map_stat_name[w % MAP_STAT_COUNT]);
            }
            code = store_chunk_find_metric(sql, name, &metric_id);
            if (code == SQLITE_OK) {
                code = store_chunk_put_series(sql, chunk_id, metric_id, -1, chunk->whole[w],
                                              chunk->count);
            }
        }
    }
    if (code == SQLITE_OK) {
        for (uint32_t i = 0; i < chunk->count && code == SQLITE_OK; i++) {
            code = sql_run(sql, STATEMENT_SET_CHUNK,
                           SQL(sql_i64(chunk_id), sql_i64(chunk->window_id[i])));
        }
    }
    crash_point("store_chunk");
    return sql_end(sql, code);
}

/* Enough for one, for another */

static int store_chunk_get_heads(const struct sql *sql, int64_t layer_id, uint32_t *ret_heads)
{
    int64_t heads = 0;
    int code = sql_number(sql, STATEMENT_GET_HEADS, SQL(sql_i64(layer_id)), &heads);
    *ret_heads = heads > 0 && heads <= HEADS_TOTAL_MAX ? (uint32_t)heads : 0;
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

int chunk_make(const struct sql *sql, struct store_place which, struct chunk_made *ret_made)
{
    struct chunk chunk = {0};
    *ret_made = (struct chunk_made){0};
    int code = store_chunk_get_heads(sql, which.layer_id, &chunk.heads);
    chunk.wanted = chunk_windows(chunk.heads);
    if (code == SQLITE_OK) {
        int64_t count = 0;
        code = sql_number(sql, STATEMENT_COUNT_RECENT,
                          SQL(sql_i64(which.layer_id), sql_i64(which.track_id),
                              sql_i64(2 * (int64_t)chunk.wanted)),
                          &count);
        ret_made->windows = count >= chunk.wanted ? chunk.wanted : 0;
        ret_made->more = count >= 2 * (int64_t)chunk.wanted;
    }
    if (code != SQLITE_OK || !ret_made->windows) {
        return code;
    }
    struct sql_query query =
        query_begin(sql, STATEMENT_EACH_TO_CHUNK,
                    SQL(sql_i64(which.layer_id), sql_i64(which.track_id), sql_i64(chunk.wanted)));
    while ((code = query_row(&query)) == SQLITE_ROW && chunk.count < chunk.wanted) {
        uint64_t field[8];
        for (int i = 0; i < 8; i++) {
            field[i] = (uint64_t)sqlite3_column_int64(query.statement, i + 1);
        }
        chunk.window_id[chunk.count] = sqlite3_column_int64(query.statement, 0);
        chunk.window[chunk.count] = (struct series_window){
            .first = field[0],
            .last = field[1],
            .epoch = field[2],
            .step = field[3],
            .time_ns = field[4],
            .messages = field[5],
            .lost = field[6],
            .partial = field[7],
        };
        int64_t stored = sqlite3_column_int64(query.statement, 9);
        chunk.stored = stored > chunk.stored ? stored : chunk.stored;
        if (take_state(&chunk, query.statement)) {
            code = SQLITE_NOMEM;
            break;
        }
        chunk.count++;
    }
    query_end(&query);
    code = code == SQLITE_DONE ? SQLITE_OK : code;
    if (code == SQLITE_OK && chunk.count > 0) {
        code = write_chunk(sql, which, &chunk);
    }
    ret_made->unreadable = chunk.unreadable;
    for (int m = 0; m < METRIC_COUNT; m++) {
        free(chunk.number[m]);
    }
    for (int w = 0; w < WHOLE_COUNT; w++) {
        free(chunk.whole[w]);
    }
    return code;
}

/* States */

static int thin_found(const struct sql *sql, enum statement statement,
                      const struct sql_value *values, bool *ret_thinned)
{
    int64_t chunk_id = 0;
    int code = sql_number(sql, statement, values, &chunk_id);
    *ret_thinned = code == SQLITE_OK;
    if (code != SQLITE_OK) {
        return code == SQLITE_DONE ? SQLITE_OK : code;
    }
    const enum statement steps[] = {STATEMENT_THIN, STATEMENT_SET_BARE};
    code = sql_begin(sql);
    if (code != SQLITE_OK) {
        return code;
    }
    for (int i = 0; i < 2 && code == SQLITE_OK; i++) {
        code = sql_run(sql, steps[i], SQL(sql_i64(chunk_id)));
    }
    crash_point("store_retention");
    return sql_end(sql, code);
}

int chunk_thin(const struct sql *sql, struct store_place which, uint64_t keep, bool *ret_thinned)
{
    uint32_t heads;
    int code = store_chunk_get_heads(sql, which.layer_id, &heads);
    *ret_thinned = false;
    if (code != SQLITE_OK) {
        return code;
    }
    uint32_t windows = chunk_windows(heads);
    return thin_found(sql, STATEMENT_GET_TO_THIN,
                      SQL(sql_i64(which.layer_id), sql_i64(which.track_id),
                          sql_u64((keep + windows - 1) / windows)),
                      ret_thinned);
}

int chunk_thin_oldest(const struct sql *sql, bool *ret_thinned)
{
    return thin_found(sql, STATEMENT_GET_OLDEST_STATES, NULL, ret_thinned);
}
