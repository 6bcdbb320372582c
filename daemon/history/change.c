/* SPDX-License-Identifier: MIT */
/* run.set, run.delete: what people change of a run. The store's thread writes it, and this one
 * waits; questions that come meanwhile see the run as it is then. */
#include "daemon/history/find.h"

#include "daemon/base/clock.h"
#include "daemon/store/store.h"

static int change_submit(struct query *query, const struct found_run *run,
                         struct store_change *change)
{
    change->job = run->job;
    change->run = run->run;
    int code = store_change(query->store, change, query->deadline_ns);
    if (code == ERR_AGAIN) {
        query_fail(query, code, "the history cannot be written now: nothing was changed");
    }
    return code;
}

int history_run_set(struct query *query)
{
    const struct history_params *params = &query->params;
    const unsigned given = params->given;
    struct found_run run;
    if (!(given & (PARAM_NAME | PARAM_NOTES | PARAM_TAGS | PARAM_STAR | PARAM_ARCHIVED))) {
        return query_fail(query, ERR_ARGUMENT,
                          "one of name, notes, tags, star and archived is needed");
    }
    int code = find_run(query, params->job, params->run, &run);
    if (!code) {
        struct store_change change = {
            .name = given & PARAM_NAME ? params->name : NULL,
            .notes = given & PARAM_NOTES ? params->notes : NULL,
            .tags = given & PARAM_TAGS ? params->tags : NULL,
            .star = given & PARAM_STAR ? &params->star : NULL,
            .archived = given & PARAM_ARCHIVED ? &params->archived : NULL,
        };
        code = change_submit(query, &run, &change);
    }
    /* Another transaction: this one does not see what was written. */
    sqlite3_exec(query->db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_exec(query->db, "BEGIN", NULL, NULL, NULL);
    return code ? code : put_changed_run(query, &run);
}

/* The share of a row of pages that have only such rows; a longer one fills pages of its own. */
#define ROW(size)                                                                                  \
    "ifnull(sum(CASE WHEN " size " > 8100 THEN " size " ELSE 8192 / (8192 / " size ") END), 0)"

/* The size of a row is that of its values, and what it takes beside them, with its indexes. */
#define SERIES  ROW("(length(data) + 48)")
#define WINDOWS ROW("(ifnull(length(data), 0) + 140)")
#define MAPS    ROW("(length(data) + ifnull(length(head_data), 0) + 120)")
static const char of_layer[] =
    "SELECT (SELECT " SERIES " FROM series WHERE chunk_id IN"
    "  (SELECT chunk_id FROM chunks WHERE layer_id = ?1))"
    " + (SELECT ifnull(sum(length(windows) + 80), 0) FROM chunks WHERE layer_id = ?1)"
    " + (SELECT " WINDOWS " FROM windows LEFT JOIN states USING(window_id) WHERE layer_id = ?1)"
    " + (SELECT " MAPS " FROM maps WHERE layer_id = ?1)";
#define SKETCHES ROW("(length(data) + 80)")
#define KEPT     ROW("(length(value) + 64)")
static const char of_run[] =
    "SELECT (SELECT " SKETCHES " FROM sketches WHERE run_id = ?1)"
    " + (SELECT " KEPT " FROM kept WHERE run_id = ?1)"
    " + (SELECT count(*) * 36 FROM log_points JOIN logs USING(log_id) WHERE run_id = ?1)"
    " + (SELECT ifnull(sum(length(message) + 200), 0) FROM alerts WHERE run_id = ?1)";

/* Adds the numbers that a statement gives for an id. */
static int change_add(struct query *query, sqlite3_stmt *statement, uint64_t id, uint64_t *bytes)
{
    sqlite3_reset(statement);
    sqlite3_bind_int64(statement, 1, (int64_t)id);
    int rows = query_next(query, statement);
    *bytes += rows == 1 ? column_u64(statement, 0) : 0;
    return rows < 0 ? rows : 0;
}

/* Bytes of the file that deleting the run frees, about: the values, and what a row of each table
 * takes with its indexes. Layers are looked at until half of the time is over: *ret_all tells
 * whether all were. */
static int change_measure(struct query *query, const struct found_run *run, uint64_t *ret_bytes,
                          bool *ret_all)
{
    uint64_t half_ns = (query->deadline_ns - clock_monotonic_ns()) / 2;
    uint64_t until_ns = clock_monotonic_ns() + half_ns;
    sqlite3_stmt *layers = NULL, *layer = NULL, *rest = NULL;
    int rows = 1;
    *ret_bytes = 0;
    int code = query_open(query, of_layer, &layer, SQL(sql_u64(0)));
    code = code ? code : query_open(query, of_run, &rest, SQL(sql_u64(0)));
    code = code ? code : change_add(query, rest, run->id, ret_bytes);
    code = code ? code
                : query_open(query, "SELECT layer_id FROM layers WHERE run_id = ?", &layers,
                             SQL(sql_u64(run->id)));
    while (!code && clock_monotonic_ns() < until_ns && (rows = query_next(query, layers)) == 1) {
        code = change_add(query, layer, column_u64(layers, 0), ret_bytes);
    }
    *ret_all = rows == 0;
    sqlite3_finalize(layers);
    sqlite3_finalize(layer);
    sqlite3_finalize(rest);
    return code ? code : rows < 0 ? rows : 0;
}

int history_run_delete(struct query *query)
{
    struct found_run run;
    uint64_t bytes = 0, unsent = 0;
    bool all = false, dry = query->params.dry;
    sqlite3_stmt *statement = NULL;
    int code = find_run(query, query->params.job, query->params.run, &run);
    code = code ? code : change_measure(query, &run, &bytes, &all);
    code = code ? code
                : query_open(query, "SELECT count(*) FROM outbox WHERE taken = 0 AND run = ?",
                             &statement, SQL(sql_blob(run.run, RUN_BYTES)));
    if (!code && query_next(query, statement) == 1) {
        unsent = column_u64(statement, 0);
    }
    sqlite3_finalize(statement);
    if (!code && !unsent && !dry) {
        struct store_change change = {.drop = true};
        code = change_submit(query, &run, &change);
    }
    if (code || unsent) {
        return code ? code : ERR_UNSENT;
    }
    mpk_put_map(query->result, 4);
    put_run(query, &run);
    mpk_pair_u64_or_nil(query->result, "bytes", all, bytes);
    mpk_pair_bool(query->result, "deleted", !dry);
    return 0;
}
