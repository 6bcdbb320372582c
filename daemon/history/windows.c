/* SPDX-License-Identifier: MIT */
/* Up to `limit` windows and one more are read from chunks, and as many recent ones, from the end
 * that is wanted. Chunks mostly follow one another in time, and what is recent is newer than all of
 * them, so the list is sorted as it comes; only a window that came again makes sorting and choosing
 * necessary: the row without a chunk is right, else the later chunk, which may then reach over many
 * others. Where one source was not read to its end nothing of the other is shown either, nor what a
 * chunk that was not read may know better (`low`, `high`). */
#include "daemon/history/windows.h"

#include "daemon/base/grow.h"
#include "daemon/store/chunk.h"
#include "daemon/store/number.h"

#include <stdlib.h>
#include <string.h>

/* Layers that an answer describes. */
#define LAYERS_MAX 4096

/* Rows while they are read, and the units between which nothing is missing. */
struct windows_reading {
    struct window_rows rows;
    uint64_t low, high;
};

void windows_free(struct window_rows *rows)
{
    free(rows->row);
    *rows = (struct window_rows){0};
}

/* Adds the windows of one source. */
typedef int windows_source(struct query *query, const struct found_layer *layer,
                           const struct found_track *track, uint32_t limit,
                           struct windows_reading *reading);

/* Room for one more row, which is counted; NULL when out of memory. */
static struct window_row *history_windows_add_row(struct window_rows *rows)
{
    if (!grow(&rows->row, rows->count, &rows->room, sizeof *rows->row)) {
        return NULL;
    }
    return &rows->row[rows->count++];
}

/* Chunks */

static int history_windows_add_chunk(struct query *query, sqlite3_stmt *statement,
                                     struct window_rows *rows)
{
    struct series_window windows[SERIES_WINDOWS_MAX];
    const struct history_params *params = &query->params;
    uint64_t chunk_id = column_u64(statement, 0);
    uint32_t count = (uint32_t)column_u64(statement, 1);
    const void *data = sqlite3_column_blob(statement, 2);
    int code =
        series_windows_decode(data, (size_t)sqlite3_column_bytes(statement, 2), count, windows);
    /* Descending when the newest are wanted: windows_read turns the list round. */
    bool forward = params->given & PARAM_FROM;
    for (uint32_t i = 0; !code && i < count; i++) {
        uint32_t at = forward ? i : count - 1 - i;
        if (windows[at].last < params->from || windows[at].last > params->to) {
            continue;
        }
        struct window_row *row = history_windows_add_row(rows);
        if (!row) {
            return ERR_MEMORY;
        }
        *row = (struct window_row){
            .window = windows[at], .chunk_id = chunk_id, .index = at, .chunk_count = count};
    }
    return code;
}

#define CHUNKS_OF " FROM chunks WHERE layer_id = ?1 AND track_id = ?2 AND last >= ?3"

/* Whether enough has been read for this chunk not to be, in the order of what it reaches: then
 * nothing is known from there on, and something before. */
static bool history_windows_end_before(const struct query *query, sqlite3_stmt *statement,
                                       struct windows_reading *reading)
{
    uint64_t edge = column_u64(statement, 3), first = UINT64_MAX, last = 0;
    for (uint32_t i = 0; i < reading->rows.count; i++) {
        uint64_t at = reading->rows.row[i].window.last;
        first = at < first ? at : first;
        last = at > last ? at : last;
    }
    if (query->params.given & PARAM_FROM) {
        reading->high = first < edge ? edge - 1 : reading->high;
        return first < edge;
    }
    reading->low = last > edge ? edge + 1 : reading->low;
    return last > edge;
}

static int history_windows_read_chunks(struct query *query, const struct found_layer *layer,
                                       const struct found_track *track, uint32_t limit,
                                       struct windows_reading *reading)
{
    const struct history_params *params = &query->params;
    uint32_t enough = reading->rows.count + limit + 1;
    sqlite3_stmt *statement;
    int code = query_open(
        query,
        params->given & PARAM_FROM ? "SELECT chunk_id, count, windows, first" CHUNKS_OF
                                     " AND first <= ?4 ORDER BY first, chunk_id"
                                   : "SELECT chunk_id, count, windows, last" CHUNKS_OF
                                     " AND first <= ?4 ORDER BY last DESC, chunk_id DESC",
        &statement,
        SQL(sql_u64(layer->id), sql_u64(track->id), sql_u64(params->from), sql_u64(params->to)));
    while (!code && (code = query_next(query, statement)) == 1) {
        if (reading->rows.count >= enough &&
            history_windows_end_before(query, statement, reading)) {
            code = 0;
            break;
        }
        code = history_windows_add_chunk(query, statement, &reading->rows);
    }
    sqlite3_finalize(statement);
    return code;
}

/* Recent windows */

/* By the index of what is recent: the other one has every window that there ever was. */
#define RECENT                                                                                     \
    "SELECT window_id, first, last, epoch, step, time_ns, messages, lost, partial"                 \
    " FROM windows INDEXED BY windows_recent"                                                      \
    " WHERE layer_id = ?1 AND track_id = ?2 AND chunk_id IS NULL AND last BETWEEN ?3 AND ?4"

static int read_recent(struct query *query, const struct found_layer *layer,
                       const struct found_track *track, uint32_t limit,
                       struct windows_reading *reading)
{
    const struct history_params *params = &query->params;
    uint32_t enough = reading->rows.count + limit + 1;
    sqlite3_stmt *statement;
    int code = query_open(query,
                          params->given & PARAM_FROM ? RECENT " ORDER BY last LIMIT ?5"
                                                     : RECENT " ORDER BY last DESC LIMIT ?5",
                          &statement,
                          SQL(sql_u64(layer->id), sql_u64(track->id), sql_u64(params->from),
                              sql_u64(params->to), sql_u64(limit + 1)));
    while (!code && (code = query_next(query, statement)) == 1) {
        struct window_row *row = history_windows_add_row(&reading->rows);
        code = row ? 0 : ERR_MEMORY;
        if (row) {
            *row = (struct window_row){.window = chunk_read_window(statement),
                                       .window_id = column_u64(statement, 0)};
        }
    }
    if (!code && reading->rows.count >= enough) {
        /* Nothing is known beyond the row read last. */
        uint64_t last = reading->rows.row[reading->rows.count - 1].window.last;
        if (query->params.given & PARAM_FROM) {
            reading->high = last < reading->high ? last : reading->high;
        } else {
            reading->low = last > reading->low ? last : reading->low;
        }
    }
    sqlite3_finalize(statement);
    return code;
}

/* Together */

/* By last unit; of the same, the one that is right comes last. */
static int history_windows_compare_rows(const void *left, const void *right)
{
    const struct window_row *a = left, *b = right;
    if (a->window.last != b->window.last) {
        return a->window.last < b->window.last ? -1 : 1;
    }
    uint64_t rank_a = a->chunk_id ? a->chunk_id : UINT64_MAX;
    uint64_t rank_b = b->chunk_id ? b->chunk_id : UINT64_MAX;
    return (rank_a > rank_b) - (rank_a < rank_b);
}

static bool is_sorted(const struct window_rows *rows)
{
    for (uint32_t i = 1; i < rows->count; i++) {
        if (history_windows_compare_rows(&rows->row[i - 1], &rows->row[i]) > 0) {
            return false;
        }
    }
    return true;
}

int windows_read(struct query *query, const struct found_layer *layer,
                 const struct found_track *track, uint32_t limit, struct window_rows *ret_rows)
{
    struct windows_reading reading = {.high = UINT64_MAX};
    /* With `from` chunks come before what is recent; else recent ones first, and all is turned
     * round.
     */
    bool forward = query->params.given & PARAM_FROM;
    windows_source *const first = forward ? history_windows_read_chunks : read_recent;
    windows_source *const second = forward ? read_recent : history_windows_read_chunks;
    int code = first(query, layer, track, limit, &reading);
    code = code ? code : second(query, layer, track, limit, &reading);
    if (!forward) {
        for (uint32_t i = 0, j = reading.rows.count; i + 1 < j; i++) {
            struct window_row row = reading.rows.row[i];
            reading.rows.row[i] = reading.rows.row[--j];
            reading.rows.row[j] = row;
        }
    }
    if (code) {
        windows_free(&reading.rows);
        return code;
    }
    if (!is_sorted(&reading.rows)) {
        qsort(reading.rows.row, reading.rows.count, sizeof *reading.rows.row,
              history_windows_compare_rows);
    }
    /* The last of several rows of one window stays, if it is where all are known. */
    struct window_rows *rows = &reading.rows;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < rows->count; i++) {
        uint64_t last = rows->row[i].window.last;
        bool again = i + 1 < rows->count && rows->row[i + 1].window.last == last;
        if (!again && last >= reading.low && last <= reading.high) {
            rows->row[kept++] = rows->row[i];
        }
    }
    rows->count = kept;
    rows->more = reading.low > 0 || reading.high < UINT64_MAX;
    if (rows->count > limit) {
        rows->more = true;
        if (!(query->params.given & PARAM_FROM)) {
            memmove(rows->row, rows->row + (rows->count - limit), limit * sizeof *rows->row);
        }
        rows->count = limit;
    }
    *ret_rows = reading.rows;
    return 0;
}

/* States */

int state_read(sqlite3_stmt *statement, int bytes_column, const int *number,
               struct layer_state **ret_state)
{
    uint64_t bytes = column_u64(statement, bytes_column);
    uint8_t *plain = NULL;
    int code = column_inflate(statement, bytes_column + 1, bytes, &plain);
    if (!code && number) {
        code = layer_state_unpack_metric(plain, bytes, *number, ret_state);
    } else if (!code) {
        code = layer_state_unpack(plain, bytes, ret_state);
    }
    free(plain);
    return code;
}

static int numbers_of_chunk(struct query *query, const struct found_layer *layer,
                            const struct found_track *track, bool *has)
{
    sqlite3_stmt *statement;
    int code = query_open(query,
                          "SELECT DISTINCT name FROM series JOIN metrics USING (metric_id)"
                          " WHERE chunk_id = (SELECT max(chunk_id) FROM chunks"
                          "  WHERE layer_id = ?1 AND track_id = ?2)",
                          &statement, SQL(sql_u64(layer->id), sql_u64(track->id)));
    while (!code && (code = query_next(query, statement)) == 1) {
        int number = number_find(column_text(statement, 0));
        if (number >= 0) {
            has[number] = true;
        }
        code = 0;
    }
    sqlite3_finalize(statement);
    return code;
}

int windows_numbers(struct query *query, const struct found_layer *layer,
                    const struct found_track *track, bool *ret_has)
{
    memset(ret_has, 0, NUMBER_COUNT * sizeof *ret_has);
    int code = numbers_of_chunk(query, layer, track, ret_has);
    if (code) {
        return code;
    }
    sqlite3_stmt *statement;
    struct layer_state *state = NULL;
    code = query_open(
        query,
        "SELECT bytes, data FROM windows INDEXED BY windows_recent"
        " JOIN states USING (window_id) WHERE layer_id = ?1 AND track_id = ?2 AND chunk_id IS NULL"
        " ORDER BY last DESC LIMIT 1",
        &statement, SQL(sql_u64(layer->id), sql_u64(track->id)));
    code = code ? code : query_next(query, statement);
    if (code == 1) {
        code = state_read(statement, 0, NULL, &state);
    }
    for (int i = 0; state && i < NUMBER_COUNT; i++) {
        ret_has[i] = ret_has[i] || number_has_value(state, i);
    }
    layer_state_free(&state);
    sqlite3_finalize(statement);
    return code;
}

/* Layers */

int layers_read(struct query *query, const struct found_run *run, struct found_layer **ret_layers,
                uint32_t *ret_count)
{
    sqlite3_stmt *statement;
    uint32_t count = 0;
    struct found_layer *layers = malloc(LAYERS_MAX * sizeof *layers);
    *ret_count = 0;
    *ret_layers = layers;
    if (!layers) {
        return ERR_MEMORY;
    }
    int code = open_layers(query, run, &statement);
    while (!code && count < LAYERS_MAX && (code = query_next(query, statement)) == 1) {
        struct found_track track;
        layers[count] = found_layer(statement);
        code = find_track(query, &layers[count], &track);
        count += !code;
        code = code == ERR_NO_HISTORY ? 0 : code;
    }
    sqlite3_finalize(statement);
    query->detail[0] = '\0'; /* of a layer that has none */
    *ret_count = count;
    return code;
}
