/* SPDX-License-Identifier: MIT */
/* A state is unpacked once, and what a summary would say of it is spread over the columns: one per
 * head and metric. Only metrics that some window has take memory. */
#include "daemon/store/chunk.h"

#include "daemon/base/crash.h"
#include "daemon/state/layer_state.h"
#include "daemon/store/number.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* For the numbers of one chunk. */
#define CHUNK_BYTES_MAX ((size_t)64 << 20)

struct chunk {
    uint32_t heads, wanted, count; /* windows wanted, had */
    uint32_t unreadable;
    int64_t stored;
    struct series_window window[SERIES_WINDOWS_MAX];
    int64_t window_id[SERIES_WINDOWS_MAX];
    /* By number.h: [heads, or 1 for one of the layer][wanted]; owned; NULL = none has it. */
    struct result_stat *number[NUMBER_COUNT];
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

/* The heads that a number has, of those of a layer. */
static uint32_t chunk_heads(int number, uint32_t heads)
{
    return number_is_of_layer(number) ? 1 : heads;
}

/* A number of each head, or of the layer; NULL when the state has none. */
static const struct result_stat *chunk_stats(const struct summary_result *result, int number)
{
    int map = number - NUMBER_AGGREGATE, of = map / MAP_STAT_COUNT;
    if (number < METRIC_COUNT) {
        return result->stat[number];
    }
    if (number == NUMBER_SINK_RATE) {
        return result->sink_rate;
    }
    bool has = result->aggregate && result->has_aggregate[of];
    return has ? &result->aggregate[of][map % MAP_STAT_COUNT] : NULL;
}

/* Puts the numbers of a state in the place of the newest window. */
static int spread_state(struct chunk *chunk, const struct layer_state *state)
{
    static const uint8_t no_run[RUN_BYTES];
    const struct result_window window = {.length = 1, .every = 1};
    struct summary_view view;
    int code = summary_view_init(&view, state, (struct layer_id){0}, "", no_run, &window);
    if (code) {
        return code;
    }
    for (int n = 0; n < NUMBER_COUNT && !code; n++) {
        const struct result_stat *stats = chunk_stats(&view.result, n);
        uint32_t heads = chunk_heads(n, chunk->heads), here = chunk_heads(n, state->heads);
        if (stats && !chunk->number[n]) {
            chunk->number[n] = columns_new((size_t)heads * chunk->wanted);
            code = chunk->number[n] ? 0 : ERR_MEMORY;
        }
        for (uint32_t h = 0; stats && !code && h < here && h < heads; h++) {
            chunk->number[n][(size_t)h * chunk->wanted + chunk->count] = stats[h];
        }
    }
    summary_view_clear(&view);
    return code;
}

/* One window, and its state */

struct series_window chunk_read_window(sqlite3_stmt *row)
{
    struct series_window window;
    uint64_t value[SERIES_WINDOW_COLUMNS];
    for (int i = 0; i < SERIES_WINDOW_COLUMNS; i++) {
        value[i] = column_u64(row, i + 1);
    }
    memcpy(&window, value, sizeof window);
    return window;
}

/* A window whose state cannot be read has no numbers. */
static int take_state(struct chunk *chunk, sqlite3_stmt *row)
{
    struct layer_state *state = NULL;
    if (sqlite3_column_type(row, 10) == SQLITE_NULL) {
        return 0;
    }
    uint64_t bytes = column_u64(row, 10);
    uint8_t *plain = NULL;
    int code = column_inflate(row, 11, bytes, &plain);
    code = code ? code : layer_state_unpack(plain, bytes, &state);
    free(plain);
    if (code == ERR_STORE_FORMAT) {
        chunk->unreadable++;
        return 0;
    }
    code = code ? code : spread_state(chunk, state);
    layer_state_free(&state);
    return code;
}

/* Rows */

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
    for (int n = 0; n < NUMBER_COUNT && code == SQLITE_OK; n++) {
        const struct result_stat *stats = chunk->number[n];
        char name[NUMBER_NAME_MAX];
        int64_t metric_id = 0;
        if (!stats) {
            continue;
        }
        number_name(n, name);
        code = sql_find(sql, STATEMENT_GET_METRIC, STATEMENT_PUT_METRIC, SQL(sql_text(name)),
                        &metric_id);
        for (uint32_t h = 0; h < chunk_heads(n, chunk->heads) && code == SQLITE_OK; h++) {
            code = store_chunk_put_series(sql, chunk_id, metric_id,
                                          number_is_of_layer(n) ? -1 : (int64_t)h,
                                          stats + (size_t)h * chunk->wanted, chunk->count);
        }
    }
    for (uint32_t i = 0; i < chunk->count && code == SQLITE_OK; i++) {
        code =
            sql_run(sql, STATEMENT_SET_CHUNK, SQL(sql_i64(chunk_id), sql_i64(chunk->window_id[i])));
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
        chunk.window_id[chunk.count] = sqlite3_column_int64(query.statement, 0);
        chunk.window[chunk.count] = chunk_read_window(query.statement);
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
    for (int n = 0; n < NUMBER_COUNT; n++) {
        free(chunk.number[n]);
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
