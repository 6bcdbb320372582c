/* SPDX-License-Identifier: MIT */
/* map: a layer's head-mean map as it was kept, or the maps of its heads, of the newest window or of
 * one that is named. */
#include "daemon/history/find.h"

#include "daemon/store/series.h"
#include "proto/tensor.h"

#include <stdlib.h>
#include <string.h>

/* states: the states of some windows of a layer, for a baseline: not for clients. Returns the
 * window that ends with `last`, else the first `windows` that are whole and share nothing with one
 * another. Windows beyond STATES_BYTES_MAX are left out. */
#define STATES_BYTES_MAX (UINT64_C(64) << 20)

int history_states(struct query *query)
{
    const struct history_params *params = &query->params;
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    sqlite3_stmt *statement;
    uint64_t named = params->given & PARAM_LAST ? 1 : 0;
    uint64_t count = 0, sum = 0, next = 0; /* next: the first unit that no window has covered yet */
    int code = find_asked(query, &run, &layer, &track);
    if (code) {
        return code;
    }
    struct mpk_open list = mpk_open(query->result, NULL);
    code = query_open(query,
                      "SELECT first, last, bytes, data FROM windows JOIN states USING (window_id)"
                      " WHERE layer_id = ?1 AND track_id = ?2 AND final = 1"
                      " AND (last = ?3 OR ?4 = 0) AND (partial = 0 OR ?4 = 1) ORDER BY last",
                      &statement,
                      SQL(sql_u64(layer.id), sql_u64(track.id), sql_u64(named ? params->last : 0),
                          sql_u64(named)));
    while (!code && count < params->count && (code = query_next(query, statement)) == 1) {
        uint64_t bytes = column_u64(statement, 2);
        uint8_t *plain = NULL;
        code = 0;
        if (sum + bytes > STATES_BYTES_MAX) {
            break;
        }
        if (column_u64(statement, 0) < next) {
            continue;
        }
        code = column_inflate(statement, 3, bytes, &plain);
        if (!code) {
            mpk_put_bin(query->result, plain, bytes);
        }
        free(plain);
        count++;
        sum += bytes;
        next = column_u64(statement, 1) + 1;
    }
    sqlite3_finalize(statement);
    if (!code && count == 0) {
        code = query_fail(query, ERR_NO_HISTORY,
                          "the history has no histograms of this layer's window any more");
    }
    mpk_close_array(query->result, &list);
    return code;
}

/* The most rows, and columns, of a pooled map; the most cells of those of heads together. */
#define MAP_SIDE_MAX  128
#define MAP_CELLS_MAX (1u << 20)

/* Little-endian bytes as rows of numbers. */
static void history_map_put_numbers(struct query *query, const uint8_t *data, uint32_t rows,
                                    uint32_t columns)
{
    mpk_put_array(query->result, rows);
    for (uint32_t row = 0; row < rows; row++) {
        mpk_put_array(query->result, columns);
        for (uint32_t column = 0; column < columns; column++, data += 2) {
            mpk_put_f64(query->result, tensor_half((uint16_t)(data[0] | data[1] << 8)));
        }
    }
}

static bool history_map_is_of_heads(const struct query *query)
{
    return (query->params.given & PARAM_KIND) && strcmp(query->params.kind, "heads") == 0;
}

static int history_map_put_map(struct query *query, const struct found_run *run,
                               const struct found_layer *layer, const struct found_track *track,
                               sqlite3_stmt *statement)
{
    static const char *const names[] = {"first",   "last", "epoch", "step",   "time_ns",
                                        "queries", "keys", "rows",  "columns"};
    enum { COUNT = sizeof names / sizeof names[0] };
    bool of_heads = history_map_is_of_heads(query);
    /* One map and no list of maps when there are no heads. */
    uint32_t heads = of_heads ? (uint32_t)column_u64(statement, COUNT + 2) : 0;
    uint32_t rows = (uint32_t)column_u64(statement, 7),
             columns = (uint32_t)column_u64(statement, 8);
    mpk_put_map(query->result, put_layer_count(layer) + 7 + COUNT + (of_heads ? 1 : 0));
    put_run(query, run);
    put_layer(query, layer);
    put_track(query, track);
    for (int i = 0; i < COUNT; i++) {
        put_u64(query, names[i], column_u64(statement, i));
    }
    mpk_pair_bool(query->result, "partial", column_u64(statement, COUNT));
    if (of_heads) {
        mpk_pair_array(query->result, "heads", heads);
        for (uint32_t h = 0; h < heads; h++) {
            mpk_put_u64(query->result, h);
        }
    }
    bool fits = rows >= 1 && rows <= MAP_SIDE_MAX && columns >= 1 && columns <= MAP_SIDE_MAX &&
                heads <= MAP_CELLS_MAX;
    uint64_t cells = (uint64_t)rows * columns, maps = heads ? heads : 1;
    if (!fits || cells * maps > MAP_CELLS_MAX) {
        return ERR_STORE_FORMAT;
    }
    size_t bytes = (size_t)(2 * cells * maps);
    uint8_t *data = NULL;
    int code = column_inflate(statement, COUNT + 1, bytes, &data);
    if (!code) {
        mpk_put_str(query->result, "values");
    }
    if (!code && query->params.packed) {
        mpk_put_bin(query->result, data, bytes);
    } else if (!code) {
        if (heads) {
            mpk_put_array(query->result, heads);
        }
        for (uint64_t i = 0; i < maps; i++) {
            history_map_put_numbers(query, data + 2 * i * cells, rows, columns);
        }
    }
    free(data);
    return code;
}

/* Why there is none, as a sentence. */
static const char *history_map_why(const struct query *query)
{
    if (history_map_is_of_heads(query)) {
        return "no maps of single heads were kept of this window: history.head_maps is 0, heads "
               "are "
               "split over ranks, or an older attnd wrote it";
    }
    return query->params.given & PARAM_LAST ? "there is no map of a window that ends there"
                                            : "there is no map of this layer yet; none is made of "
                                              "a sample of its rows, as a plan "
                                              "with rows takes";
}

int history_map(struct query *query)
{
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    int code = find_asked(query, &run, &layer, &track);
    if (code) {
        return code;
    }
    uint64_t last = query->params.given & PARAM_LAST ? query->params.last : 0;
    static const char of_mean[] =
        "SELECT first, last, epoch, step, time_ns, queries, keys, rows, columns, partial, data"
        " FROM maps WHERE layer_id = ?1 AND track_id = ?2 AND (last = ?3 OR ?4)"
        " ORDER BY last DESC LIMIT 1";
    static const char of_heads[] =
        "SELECT first, last, epoch, step, time_ns, head_queries, head_keys, head_rows,"
        " head_columns, partial, head_data, heads FROM maps WHERE layer_id = ?1 AND track_id = ?2"
        " AND (last = ?3 OR ?4) AND heads > 0 ORDER BY last DESC LIMIT 1";
    sqlite3_stmt *statement;
    code = query_open(query, history_map_is_of_heads(query) ? of_heads : of_mean, &statement,
                      SQL(sql_u64(layer.id), sql_u64(track.id), sql_u64(last),
                          sql_u64(!(query->params.given & PARAM_LAST))));
    code = code ? code : query_next(query, statement);
    if (code == 1) {
        code = history_map_put_map(query, &run, &layer, &track, statement);
    } else if (code == 0) {
        code = query_fail(query, ERR_NO_HISTORY, "%s", history_map_why(query));
    }
    sqlite3_finalize(statement);
    return code;
}
