/* SPDX-License-Identifier: MIT */
/* map: a layer's head-mean map as it was kept, of the newest window or of one that is named. */
#include "daemon/history/find.h"
#include "daemon/store/series.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Pooled maps have at most so many rows and columns. */
#define MAP_SIDE_MAX 128

/* Exact. */
static double history_map_from_half(uint16_t half)
{
    int exponent = half >> 10 & 31;
    double fraction = half & 1023, value;
    if (exponent == 31) {
        value = fraction > 0 ? NAN : INFINITY;
    } else if (exponent == 0) {
        value = ldexp(fraction, -24);
    } else {
        value = ldexp(1024 + fraction, exponent - 25);
    }
    return half & 0x8000 ? -value : value;
}

/* Little-endian bytes as rows of numbers. */
static void history_map_put_numbers(struct query *query, const uint8_t *data, uint32_t rows,
                                    uint32_t columns)
{
    mpk_put_array(query->result, rows);
    for (uint32_t row = 0; row < rows; row++) {
        mpk_put_array(query->result, columns);
        for (uint32_t column = 0; column < columns; column++, data += 2) {
            mpk_put_f64(query->result, history_map_from_half((uint16_t)(data[0] | data[1] << 8)));
        }
    }
}

static int history_map_put_values(struct query *query, sqlite3_stmt *statement, int column,
                                  uint32_t rows, uint32_t columns)
{
    uint8_t data[MAP_SIDE_MAX * MAP_SIDE_MAX * 2];
    size_t bytes = (size_t)rows * columns * 2;
    const void *blob = sqlite3_column_blob(statement, column);
    if (rows < 1 || rows > MAP_SIDE_MAX || columns < 1 || columns > MAP_SIDE_MAX || !blob) {
        return ERR_STORE_FORMAT;
    }
    int code = blob_inflate(blob, (size_t)sqlite3_column_bytes(statement, column), data, bytes);
    if (code) {
        return code;
    }
    mpk_put_str(query->result, "values");
    if (query->params.packed) {
        mpk_put_bin(query->result, data, bytes);
    } else {
        history_map_put_numbers(query, data, rows, columns);
    }
    return 0;
}

static int history_map_put_map(struct query *query, const struct found_run *run,
                               const struct found_layer *layer, const struct found_track *track,
                               sqlite3_stmt *statement)
{
    static const char *const names[] = {"first",   "last", "epoch", "step",   "time_ns",
                                        "queries", "keys", "rows",  "columns"};
    enum { COUNT = sizeof names / sizeof names[0] };
    mpk_put_map(query->result, 10 + COUNT);
    put_run(query, run);
    put_layer(query, &layer->layer);
    put_track(query, track);
    for (int i = 0; i < COUNT; i++) {
        put_u64(query, names[i], column_u64(statement, i));
    }
    mpk_pair_bool(query->result, "partial", column_u64(statement, COUNT));
    return history_map_put_values(query, statement, COUNT + 1, (uint32_t)column_u64(statement, 7),
                                  (uint32_t)column_u64(statement, 8));
}

static int history_map_read_map(struct query *query, const struct found_run *run,
                                const struct found_layer *layer, const struct found_track *track)
{
    uint64_t last = query->params.given & PARAM_LAST ? query->params.last : 0;
    sqlite3_stmt *statement;
    int code = query_open(query,
                          "SELECT first, last, epoch, step, time_ns, queries, keys, rows, columns,"
                          " partial, data FROM maps WHERE layer_id = ?1 AND track_id = ?2"
                          " AND (last = ?3 OR ?4) ORDER BY last DESC LIMIT 1",
                          &statement, "iiii", layer->id, track->id, last,
                          (uint64_t) !(query->params.given & PARAM_LAST));
    if (!code) {
        code = query_next(query, statement);
    }
    if (code == 1) {
        code = history_map_put_map(query, run, layer, track, statement);
    } else if (code == 0) {
        code = query_fail(query, ERR_NO_HISTORY,
                          query->params.given & PARAM_LAST
                              ? "there is no map of a window that ends there"
                              : "there is no map of this layer yet");
    }
    sqlite3_finalize(statement);
    return code;
}

int history_map(struct query *query)
{
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    int code = find_asked(query, &run, &layer, &track);
    return code ? code : history_map_read_map(query, &run, &layer, &track);
}
