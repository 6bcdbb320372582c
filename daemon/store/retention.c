/* SPDX-License-Identifier: MIT */
/* Chunks are made in the order in which their windows were stored, so the least chunk_id is the
 * oldest. Windows that are in a chunk go with it. */
#include "daemon/store/retention.h"

#include "daemon/base/crash.h"
#include "daemon/store/chunk.h"

#include <stdio.h>

/* A run whose last layer has gone stays this long, as it may be running. */
#define EMPTY_RUN_S 3600
/* Runs without layers, which have only logged, that count as much as windows. Others make room
 * first, so that whoever begins many runs does not drive the windows out. */
#define SPARE_RUNS 256
/* Pages given back to the file system in one step. */
#define VACUUM_PAGES 512

/* A chunk, or a window that is in none. */
struct oldest {
    bool any, is_chunk;
    int64_t stored, id;
    struct store_place which;
    int64_t first, last;
};

static int find_oldest(const struct sql *sql, enum statement statement, struct oldest *ret_oldest)
{
    struct sql_query query = query_begin(sql, statement, NULL);
    sqlite3_stmt *row = query.statement;
    int code = query_row(&query);
    *ret_oldest = (struct oldest){.is_chunk = statement == STATEMENT_GET_OLDEST_CHUNK};
    if (code == SQLITE_ROW) {
        ret_oldest->any = true;
        ret_oldest->stored = sqlite3_column_int64(row, 0);
        ret_oldest->id = sqlite3_column_int64(row, 1);
        ret_oldest->which = (struct store_place){.layer_id = sqlite3_column_int64(row, 2),
                                                 .track_id = sqlite3_column_int64(row, 3)};
        ret_oldest->first = sqlite3_column_int64(row, 4);
        ret_oldest->last = sqlite3_column_int64(row, 5);
    }
    query_end(&query);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

/* Statements about one id, one after the other. */
static int run_each(const struct sql *sql, const enum statement *statements, int count, int64_t id)
{
    int code = SQLITE_OK;
    for (int i = 0; i < count && code == SQLITE_OK; i++) {
        code = sql_run(sql, statements[i], SQL(sql_i64(id)));
    }
    return code;
}

static int drop_chunk(const struct sql *sql, const struct oldest *chunk, uint64_t *removed)
{
    const enum statement before[] = {STATEMENT_THIN, STATEMENT_DROP_SERIES};
    int code = run_each(sql, before, 2, chunk->id);
    if (code == SQLITE_OK) {
        code = sql_run(sql, STATEMENT_DROP_CHUNKED,
                       SQL(sql_i64(chunk->which.layer_id), sql_i64(chunk->which.track_id),
                           sql_i64(chunk->first), sql_i64(chunk->last), sql_i64(chunk->id)));
        if (code == SQLITE_OK) {
            *removed += (uint64_t)sqlite3_changes(sql->db);
        }
    }
    return code ? code : sql_run(sql, STATEMENT_DROP_CHUNK, SQL(sql_i64(chunk->id)));
}

static int drop_run(const struct sql *sql, int64_t run_id)
{
    const enum statement steps[] = {STATEMENT_DROP_ALERTS, STATEMENT_DROP_LOG_POINTS,
                                    STATEMENT_DROP_LOGS,   STATEMENT_DROP_SKETCHES,
                                    STATEMENT_DROP_KEPT,   STATEMENT_DROP_LAYERS,
                                    STATEMENT_DROP_RUN};
    return run_each(sql, steps, 7, run_id);
}

/* After something of a layer has gone. */
static int drop_empty(const struct sql *sql, int64_t layer_id, int64_t now_s)
{
    int64_t run_id = 0;
    int code = sql_number(sql, STATEMENT_GET_RUN_OF, SQL(sql_i64(layer_id)), &run_id);
    code = code ? code : sql_run(sql, STATEMENT_DROP_EMPTY_LAYER, SQL(sql_i64(layer_id)));
    if (code != SQLITE_OK) {
        return code == SQLITE_DONE ? SQLITE_OK : code;
    }
    code = sql_number(sql, STATEMENT_GET_EMPTY_RUN,
                      SQL(sql_i64(run_id), sql_i64(now_s - EMPTY_RUN_S)), &run_id);
    if (code == SQLITE_DONE) {
        return SQLITE_OK;
    }
    return code == SQLITE_OK ? drop_run(sql, run_id) : code;
}

static int drop_oldest(const struct sql *sql, const struct oldest *oldest, int64_t now_s,
                       struct retention_done *done)
{
    const enum statement recent[] = {STATEMENT_DROP_STATE, STATEMENT_DROP_WINDOW};
    uint64_t removed = oldest->is_chunk ? 0 : 1;
    int code = sql_begin(sql);
    if (code != SQLITE_OK) {
        return code;
    }
    code = sql_run(sql, STATEMENT_DROP_MAPS,
                   SQL(sql_i64(oldest->which.layer_id), sql_i64(oldest->which.track_id),
                       sql_i64(oldest->first), sql_i64(oldest->last)));
    if (code == SQLITE_OK) {
        code = oldest->is_chunk ? drop_chunk(sql, oldest, &removed)
                                : run_each(sql, recent, 2, oldest->id);
    }
    if (code == SQLITE_OK) {
        code = drop_empty(sql, oldest->which.layer_id, now_s);
    }
    crash_point("store_retention");
    code = sql_end(sql, code);
    if (code == SQLITE_OK) {
        *done = (struct retention_done){.windows = removed, .more = true};
    }
    return code;
}

/* The run that a statement with one number finds, if it does. */
static int drop_found_run(const struct sql *sql, enum statement statement, int64_t number,
                          struct retention_done *done)
{
    int64_t run_id = 0;
    int code = sql_number(sql, statement, SQL(sql_i64(number)), &run_id);
    if (code != SQLITE_OK) {
        return code == SQLITE_DONE ? SQLITE_OK : code;
    }
    code = sql_begin(sql);
    if (code != SQLITE_OK) {
        return code;
    }
    code = sql_end(sql, drop_run(sql, run_id));
    done->more = code == SQLITE_OK;
    return code;
}

/* Some of the rows of a table that were stored before a time. */
static int drop_old_rows(const struct sql *sql, enum statement statement, int64_t before_s,
                         struct retention_done *done)
{
    int code = sql_run(sql, statement, SQL(sql_i64(before_s)));
    done->more = code == SQLITE_OK && sqlite3_changes(sql->db) > 0;
    return code;
}

/* Size */

struct size {
    int64_t pages, pages_free, page_bytes;
};

static int store_retention_read_size(const struct sql *sql, struct size *ret_size)
{
    const enum statement statements[] = {STATEMENT_PAGES, STATEMENT_PAGES_FREE,
                                         STATEMENT_PAGE_SIZE};
    int64_t *const numbers[] = {&ret_size->pages, &ret_size->pages_free, &ret_size->page_bytes};
    int code = SQLITE_OK;
    for (int i = 0; i < 3 && code == SQLITE_OK; i++) {
        code = sql_number(sql, statements[i], NULL, numbers[i]);
    }
    return code;
}

static int store_retention_make_room(const struct sql *sql, int64_t now_s,
                                     struct retention_done *done)
{
    struct oldest oldest;
    bool thinned = false;
    int code = drop_found_run(sql, STATEMENT_GET_SPARE_RUN, SPARE_RUNS, done);
    if (code != SQLITE_OK || done->more) {
        return code;
    }
    code = chunk_thin_oldest(sql, &thinned);
    done->more = code == SQLITE_OK && thinned;
    if (code != SQLITE_OK || thinned) {
        return code;
    }
    /* The older of the two kinds. */
    struct oldest recent;
    code = find_oldest(sql, STATEMENT_GET_OLDEST_CHUNK, &oldest);
    code = code ? code : find_oldest(sql, STATEMENT_GET_OLDEST_RECENT, &recent);
    if (code == SQLITE_OK && recent.any && (!oldest.any || recent.stored < oldest.stored)) {
        oldest = recent;
    }
    if (code == SQLITE_OK && oldest.any) { /* sketches as old as it go first */
        code = drop_old_rows(sql, STATEMENT_DROP_OLD_SKETCHES, oldest.stored + 1, done);
    }
    if (code != SQLITE_OK || done->more) {
        return code;
    }
    if (oldest.any) {
        return drop_oldest(sql, &oldest, now_s, done);
    }
    return drop_found_run(sql, STATEMENT_GET_OLD_RUN, now_s, done);
}

/* Gives some free pages back to the file system. */
static int store_retention_shrink(const struct sql *sql, const struct size *before,
                                  struct retention_done *done)
{
    char text[64];
    struct size after = *before;
    snprintf(text, sizeof text, "PRAGMA incremental_vacuum(%d)", VACUUM_PAGES);
    if (sqlite3_exec(sql->db, text, NULL, NULL, NULL) != SQLITE_OK) {
        return sqlite3_extended_errcode(sql->db);
    }
    int code = store_retention_read_size(sql, &after);
    done->more = code == SQLITE_OK && after.pages < before->pages;
    return code;
}

int retention_by_size(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                      struct retention_done *ret_done)
{
    struct size size = {0};
    *ret_done = (struct retention_done){0};
    int code = store_retention_read_size(sql, &size);
    if (code != SQLITE_OK) {
        return code;
    }
    /* Room is made before the file is full, so that it need not grow beyond. */
    uint64_t used = (uint64_t)(size.pages - size.pages_free) * (uint64_t)size.page_bytes;
    if (used > rule->bytes - rule->bytes / 16 + rule->apart) {
        return store_retention_make_room(sql, now_s, ret_done);
    }
    bool too_large = (uint64_t)size.pages * (uint64_t)size.page_bytes > rule->bytes + rule->apart;
    if (!too_large || size.pages_free == 0) {
        return SQLITE_OK;
    }
    return store_retention_shrink(sql, &size, ret_done);
}

/* Deleted runs */

static int drop_some_of(const struct sql *sql, enum statement first, enum statement then,
                        int64_t run_id, int *ret_rows)
{
    int code = sql_begin(sql);
    if (code != SQLITE_OK) {
        return code;
    }
    code = sql_run(sql, first, SQL(sql_i64(run_id)));
    *ret_rows = code == SQLITE_OK ? sqlite3_changes(sql->db) : 0;
    if (code == SQLITE_OK && then != first) {
        code = sql_run(sql, then, SQL(sql_i64(run_id)));
        *ret_rows = sqlite3_changes(sql->db);
    }
    crash_point("store_deleting");
    return sql_end(sql, code);
}

int retention_of_hidden(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                        struct retention_done *ret_done)
{
    static const enum statement pairs[][2] = {
        {STATEMENT_DROP_SERIES_OF, STATEMENT_DROP_CHUNKS_OF},
        {STATEMENT_DROP_STATES_OF, STATEMENT_DROP_WINDOWS_OF},
        {STATEMENT_DROP_MAPS_OF, STATEMENT_DROP_MAPS_OF},
        {STATEMENT_DROP_SKETCHES_OF, STATEMENT_DROP_SKETCHES_OF}};
    int64_t run_id = 0;
    int rows = 0;
    struct size size = {0};
    (void)rule, (void)now_s;
    *ret_done = (struct retention_done){0};
    int code = sql_number(sql, STATEMENT_GET_HIDDEN_RUN, NULL, &run_id);
    if (code == SQLITE_DONE) {
        code = store_retention_read_size(sql, &size);
        return code ? code : store_retention_shrink(sql, &size, ret_done);
    }
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0] && code == SQLITE_OK && !rows; i++) {
        code = drop_some_of(sql, pairs[i][0], pairs[i][1], run_id, &rows);
        if (pairs[i][1] == STATEMENT_DROP_WINDOWS_OF && code == SQLITE_OK) {
            ret_done->windows = (uint64_t)rows;
        }
    }
    if (code == SQLITE_OK && !rows) {
        code = sql_begin(sql);
        code = code ? code : sql_end(sql, drop_run(sql, run_id));
    }
    ret_done->more = code == SQLITE_OK;
    return code;
}

/* Age */

static int drop_old_oldest(const struct sql *sql, enum statement statement, int64_t before_s,
                           int64_t now_s, struct retention_done *done)
{
    struct oldest oldest;
    int code = find_oldest(sql, statement, &oldest);
    if (code != SQLITE_OK || !oldest.any || oldest.stored >= before_s) {
        return code;
    }
    return drop_oldest(sql, &oldest, now_s, done);
}

int retention_by_age(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                     struct retention_done *ret_done)
{
    int64_t before_s = now_s - (int64_t)rule->age_s;
    *ret_done = (struct retention_done){0};
    int code = drop_old_oldest(sql, STATEMENT_GET_OLDEST_CHUNK, before_s, now_s, ret_done);
    if (code == SQLITE_OK && !ret_done->more) {
        code = drop_old_oldest(sql, STATEMENT_GET_OLDEST_RECENT, before_s, now_s, ret_done);
    }
    if (code == SQLITE_OK && !ret_done->more) {
        code = drop_old_rows(sql, STATEMENT_DROP_OLD_MAPS, before_s, ret_done);
    }
    if (code == SQLITE_OK && !ret_done->more) {
        code = drop_old_rows(sql, STATEMENT_DROP_OLD_SKETCHES, before_s, ret_done);
    }
    if (code == SQLITE_OK && !ret_done->more) {
        code = drop_old_rows(sql, STATEMENT_DROP_OLD_ALERTS, before_s, ret_done);
    }
    if (code == SQLITE_OK && !ret_done->more) {
        code = drop_found_run(sql, STATEMENT_GET_OLD_RUN, before_s, ret_done);
    }
    return code;
}
