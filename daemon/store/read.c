/* SPDX-License-Identifier: MIT */
/* Reads what runs have kept, and what they looked like last: at the start, on the store's own
 * connection. A run that is asked for later may still be in the queue; if not, another connection
 * reads it, which sees all that is committed and does not wait for the thread: a commit, or moving
 * the log, takes as long as the disk does. */
#include "daemon/store/store_internal.h"

#include "daemon/base/log.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

/* Rows that no attnd wrote, of another type or size, are passed over. Ends the query. Returns an
 * SQLite code; *ret_any is true as soon as there is a row. */
static int read_each_kept(struct sql_query query, bool *ret_any, store_visitor *visit, void *data)
{
    sqlite3_stmt *row = query.statement;
    int code;
    while ((code = query_row(&query)) == SQLITE_ROW) {
        const char *job = (const char *)sqlite3_column_text(row, 0);
        const char *key = (const char *)sqlite3_column_text(row, 2);
        const void *value = sqlite3_column_blob(row, 3);
        uint8_t run[RUN_BYTES];
        *ret_any = true;
        if (job && job_name_valid(job, strlen(job)) && key && column_run(row, 1, run)) {
            visit(data, job, run, key, value, (size_t)sqlite3_column_bytes(row, 3));
        }
    }
    query_end(&query);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

void store_each_kept(struct store *store, store_visitor *visit, void *data)
{
    bool any;
    int code = SQLITE_OK;
    const struct sql *sql = store_begin_read(store);
    if (sql) {
        code = read_each_kept(query_begin(sql, STATEMENT_EACH_KEPT, NULL), &any, visit, data);
    }
    store_end_read(store);
    if (code != SQLITE_OK) {
        log_event(LOG_ERROR, "history_kept_unreadable", LOG_STR("reason", sqlite3_errstr(code)));
    }
}

/* Queue locked: the newest in this list that is the last one of its run. */
static const struct store_batch *read_find_last(const struct store_batch *list,
                                                const struct store_run *run)
{
    const struct store_batch *found = NULL;
    for (; list; list = list->next) {
        bool same = list->is_last && strcmp(list->run.job, run->job) == 0 &&
                    memcmp(list->run.run, run->run, RUN_BYTES) == 0;
        found = same ? list : found;
    }
    return found;
}

static int read_compare_kept(const void *a, const void *b)
{
    const struct record_kept *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

/* Queue locked: as the database would give it. Returns 0 or ERR_MEMORY. */
static int read_each_of_batch(const struct store_batch *batch, store_visitor *visit, void *data)
{
    size_t count = 0;
    const struct record_kept **kept = calloc(batch->records, sizeof *kept);
    if (!kept) {
        return ERR_MEMORY;
    }
    for (const struct record *record = batch->first; record; record = record->next) {
        if (record->kind == RECORD_KEEP) {
            kept[count++] = &record->of.kept;
        }
    }
    if (count > 0) {
        qsort(kept, count, sizeof *kept, read_compare_kept);
    }
    for (size_t i = 0; i < count; i++) {
        visit(data, batch->run.job, batch->run.run, kept[i]->key, kept[i]->value, kept[i]->size);
    }
    free(kept);
    return 0;
}

static int read_each_kept_of(const struct sql *sql, const struct store_run *run, bool *ret_any,
                             store_visitor *visit, void *data)
{
    struct sql_query query = query_begin(sql, STATEMENT_EACH_KEPT_OF,
                                         SQL(sql_text(run->job), sql_blob(run->run, RUN_BYTES)));
    return read_each_kept(query, ret_any, visit, data);
}

int store_each_kept_of(struct store *store, const struct store_run *run, store_visitor *visit,
                       void *data)
{
    bool any = false;
    /* ERR_NO_HISTORY: no last batch of the run is on its way to the database. Where one is, the
     * rows there are old. */
    int code = ERR_NO_HISTORY;
    pthread_mutex_lock(&store->lock);
    const struct store_batch *batch = read_find_last(store->queue.first, run);
    if (!batch) {
        batch = read_find_last(store->writing, run);
    }
    if (batch) {
        code = read_each_of_batch(batch, visit, data);
    }
    pthread_mutex_unlock(&store->lock);
    if (code != ERR_NO_HISTORY || store_is_off(store)) {
        return code == ERR_NO_HISTORY ? 0 : code;
    }
    /* The loop's connection to the database that is there now. */
    if (store->reader.db && db_is_gone(store->reader.db)) {
        db_close_reader(&store->reader);
    }
    code = store->reader.db ? SQLITE_OK : db_open_reader(store->db.path, &store->reader);
    code = code ? code : read_each_kept_of(&store->reader, run, &any, visit, data);
    /* the other connection may do better, if it is there and the thread does not need it now */
    if (code != SQLITE_OK && !any && pthread_mutex_trylock(&store->db_lock) == 0) {
        if (store->db.sql.db) {
            code = read_each_kept_of(&store->db.sql, run, &any, visit, data);
        }
        store_end_read(store);
    }
    /* A file that is damaged says no more the next time: its runs begin anew, or with what there
     * is. */
    if (code != SQLITE_OK && log_is_round(store->unreadable++)) {
        log_event(LOG_ERROR, "history_kept_unreadable", LOG_STR("reason", sqlite3_errstr(code)),
                  LOG_NUM("runs", store->unreadable));
    }
    bool damaged = (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
    if (damaged) {
        store_note_damage(store);
    }
    return code == SQLITE_OK || damaged ? 0 : ERR_HISTORY_UNREAD;
}

/* A blob that is `bytes` bytes, or unpacks to that size. */
static int read_blob(sqlite3_stmt *row, int column, uint64_t bytes, struct store_bytes *ret)
{
    uint8_t *plain;
    int code = column_inflate(row, column, bytes, &plain);
    if (!code) {
        *ret = (struct store_bytes){plain, bytes};
    }
    return code;
}

int store_find_newest(struct store *store, const struct store_run *run, struct layer_id layer,
                      struct result_window *window, struct store_bytes *ret_state)
{
    const struct sql *sql = store_begin_read(store);
    int code = ERR_NO_HISTORY;
    if (sql) {
        struct sql_query query =
            query_begin(sql, STATEMENT_GET_NEWEST,
                        SQL(sql_text(run->job), sql_blob(run->run, RUN_BYTES), sql_u64(layer.stack),
                            sql_u64(layer.layer), sql_u64(layer.site), sql_u64(window->unit),
                            sql_u64(window->length), sql_u64(window->every)));
        sqlite3_stmt *row = query.statement;
        if (query_row(&query) == SQLITE_ROW) {
            window->first = column_u64(row, 0);
            window->last = column_u64(row, 1);
            window->partial = sqlite3_column_int(row, 2) != 0;
            code = read_blob(row, 4, column_u64(row, 3), ret_state);
        }
        query_end(&query);
    }
    store_end_read(store);
    return code;
}

int store_find_kept(struct store *store, const struct store_run *run, const char *key,
                    struct store_bytes *ret_value)
{
    const struct sql *sql = store_begin_read(store);
    int code = ERR_NO_HISTORY;
    if (sql) {
        struct sql_query query =
            query_begin(sql, STATEMENT_GET_KEPT,
                        SQL(sql_text(run->job), sql_blob(run->run, RUN_BYTES), sql_text(key)));
        if (query_row(&query) == SQLITE_ROW) {
            uint64_t bytes = (uint64_t)sqlite3_column_bytes(query.statement, 0);
            code = read_blob(query.statement, 0, bytes, ret_value);
        }
        query_end(&query);
    }
    store_end_read(store);
    return code;
}
