/* SPDX-License-Identifier: MIT */
/* runs, windows: what is in the history. */
#include "daemon/store/number.h"
#include "daemon/history/windows.h"

#include <stdio.h>
#include <stdlib.h>

#define RUN_COLUMNS                                                                                \
    "job, run, state, world, first_ns, last_ns, epoch, step, settings, failure, name, notes, "     \
    "tags,"                                                                                        \
    " star, archived"

/* Words between blanks. */
static void list_put_tags(struct mpk_writer *writer, const char *tags)
{
    struct mpk_open list = mpk_open(writer, "tags");
    for (size_t length; (length = strcspn(tags, " ")) > 0; tags += length + (tags[length] == ' ')) {
        char word[STORE_TAG_MAX + 1];
        snprintf(word, sizeof word, "%.*s", (int)length, tags);
        mpk_put_str(writer, word);
    }
    mpk_close_array(writer, &list);
}

static void put_one_run(struct query *query, sqlite3_stmt *statement)
{
    uint8_t run[RUN_BYTES];
    char hex[2 * RUN_BYTES + 1];
    column_run(statement, 1, run);
    run_hex(run, hex);
    struct failure failure;
    enum job_state state = column_state(statement, 2, 9, &failure);
    mpk_put_map(query->result, 13 + put_state_count(state));
    put_text(query, "job", column_text(statement, 0));
    put_text(query, "run", hex);
    put_state(query, state, &failure);
    put_u64(query, "world", column_u64(statement, 3));
    put_u64(query, "first_ns", column_u64(statement, 4));
    put_u64(query, "last_ns", column_u64(statement, 5));
    put_u64(query, "epoch", column_u64(statement, 6));
    put_u64(query, "step", column_u64(statement, 7));
    put_text(query, "name", column_text(statement, 10));
    put_text(query, "notes", column_text(statement, 11));
    list_put_tags(query->result, column_text(statement, 12));
    mpk_pair_bool(query->result, "star", column_u64(statement, 13) != 0);
    mpk_pair_bool(query->result, "archived", column_u64(statement, 14) != 0);
    /* An empty map where none are known. */
    const void *settings = sqlite3_column_blob(statement, 8);
    size_t size = (size_t)sqlite3_column_bytes(statement, 8);
    mpk_put_str(query->result, "settings");
    if (settings && mpk_check(settings, size, &mpk_header_limits) == 0) {
        mpk_put_raw(query->result, settings, size);
    } else {
        mpk_put_map(query->result, 0);
    }
}

int history_runs(struct query *query)
{
    const struct history_params *params = &query->params;
    sqlite3_stmt *statement;
    int code = query_open(
        query,
        "SELECT " RUN_COLUMNS " FROM runs"
        " WHERE (job = ?1 OR ?1 = '') AND job != '' AND jobs_match(?3, job)"
        " ORDER BY run_id DESC LIMIT ?2",
        &statement, SQL(sql_text(params->job), sql_u64(params->limit + 1), sql_text(params->jobs)));
    mpk_put_map(query->result, 2);
    code = code ? code : put_rows(query, statement, "runs", params->limit, put_one_run);
    sqlite3_finalize(statement);
    return code;
}

int put_changed_run(struct query *query, const struct found_run *run)
{
    sqlite3_stmt *statement;
    int code = query_open(query, "SELECT " RUN_COLUMNS " FROM runs WHERE job = ? AND run = ?",
                          &statement, SQL(sql_text(run->job), sql_blob(run->run, RUN_BYTES)));
    int rows = code ? code : query_next(query, statement);
    if (rows == 1) {
        put_one_run(query, statement);
    }
    sqlite3_finalize(statement);
    return rows == 0 ? ERR_RUN_UNKNOWN : rows == 1 ? 0 : rows;
}

/* Windows */

static void put_track_of_layer(struct query *query, sqlite3_stmt *statement)
{
    struct found_track track = {0, column_track(statement, 0)};
    mpk_put_map(query->result, 6);
    put_track(query, &track);
    put_u64(query, "windows", column_u64(statement, 3));
    put_u64(query, "first", column_u64(statement, 4));
    put_u64(query, "last", column_u64(statement, 5));
}

static int put_layer_windows(struct query *query, const struct found_layer *layer)
{
    sqlite3_stmt *statement;
    int code = query_open(query,
                          "SELECT unit, length, every, count(*), min(windows.first), max(last)"
                          " FROM windows JOIN tracks USING (track_id) WHERE layer_id = ?1"
                          " GROUP BY track_id ORDER BY track_id",
                          &statement, SQL(sql_u64(layer->id)));
    mpk_put_map(query->result, put_layer_count(layer) + 4);
    put_layer(query, layer);
    put_u64(query, "heads", layer->heads);
    code = code ? code : put_rows(query, statement, "tracks", UINT32_MAX, put_track_of_layer);
    sqlite3_finalize(statement);
    if (code) {
        return code;
    }
    bool has[NUMBER_COUNT];
    struct found_track track;
    code = find_track(query, layer, &track);
    code = code ? code : windows_numbers(query, layer, &track, has);
    if (code) {
        return code;
    }
    struct mpk_open metrics = mpk_open(query->result, "metrics");
    for (int i = 0; i < NUMBER_COUNT; i++) {
        char name[NUMBER_NAME_MAX];
        number_name(i, name);
        if (has[i]) {
            mpk_put_str(query->result, name);
        }
    }
    mpk_close_array(query->result, &metrics);
    return 0;
}

int history_windows(struct query *query)
{
    struct found_run run;
    int code = find_run(query, query->params.job, query->params.run, &run);
    if (code) {
        return code;
    }
    struct found_layer *layers = NULL;
    uint32_t count = 0;
    code = layers_read(query, &run, &layers, &count);
    mpk_put_map(query->result, 3);
    put_run(query, &run);
    mpk_pair_array(query->result, "layers", count);
    for (uint32_t i = 0; !code && i < count; i++) {
        code = put_layer_windows(query, &layers[i]);
    }
    free(layers);
    return code;
}
