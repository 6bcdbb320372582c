/* SPDX-License-Identifier: MIT */
/* states: the states of some windows of a layer, for a baseline: not for clients. Returns the
 * window that ends with `last`, else the first `windows` that are whole and share nothing with one
 * another. Windows beyond STATES_BYTES_MAX are left out. */
#include "daemon/history/find.h"
#include "daemon/store/series.h"

#include <stdlib.h>

#define STATES_BYTES_MAX (UINT64_C(64) << 20)

struct states {
    struct mpk_writer *list;
    uint32_t count;
    uint64_t bytes, next; /* next: the first unit that no window has covered yet */
};

static int history_states_read_states(struct query *query, const struct found_layer *layer,
                                      const struct found_track *track, struct states *states)
{
    sqlite3_stmt *statement;
    const struct history_params *params = &query->params;
    uint64_t named = params->given & PARAM_LAST ? 1 : 0;
    int code =
        query_open(query,
                   "SELECT first, last, bytes, data FROM windows JOIN states USING (window_id)"
                   " WHERE layer_id = ?1 AND track_id = ?2 AND final = 1"
                   " AND (last = ?3 OR ?4 = 0) AND (partial = 0 OR ?4 = 1) ORDER BY last",
                   &statement,
                   SQL(sql_u64(layer->id), sql_u64(track->id), sql_u64(named ? params->last : 0),
                       sql_u64(named)));
    while (!code && states->count < query->params.count &&
           (code = query_next(query, statement)) == 1) {
        code = 0;
        if (states->bytes + column_u64(statement, 2) > STATES_BYTES_MAX) {
            break;
        }
        if (column_u64(statement, 0) >= states->next) {
            /* Columns: first, last, bytes, data. */
            uint64_t bytes = column_u64(statement, 2);
            uint8_t *plain = NULL;
            code = bytes > STATES_BYTES_MAX
                       ? ERR_STORE_FORMAT
                       : blob_inflate(sqlite3_column_blob(statement, 3),
                                      (size_t)sqlite3_column_bytes(statement, 3), bytes, &plain);
            if (!code) {
                mpk_put_bin(states->list, plain, bytes);
            }
            free(plain);
            states->count++;
            states->bytes += bytes;
            states->next = column_u64(statement, 1) + 1;
        }
    }
    sqlite3_finalize(statement);
    return code;
}

int history_states(struct query *query)
{
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    int code = find_asked(query, &run, &layer, &track);
    if (code) {
        return code;
    }
    struct states states = {.list = query->result};
    struct mpk_open list = mpk_open(query->result, NULL);
    code = history_states_read_states(query, &layer, &track, &states);
    if (!code && states.count == 0) {
        code = query_fail(query, ERR_NO_HISTORY,
                          "the history has no histograms of this layer's window any more");
    }
    mpk_close_array(query->result, &list);
    return code;
}
