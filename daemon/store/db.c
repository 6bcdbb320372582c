/* SPDX-License-Identifier: MIT */
/* The file is locked before SQLite opens it, so that two attnds never share one. A database that
 * was not closed cleanly is checked (quick_check) before it is used: that reads all of it, about a
 * second per GiB that is in memory.
 *
 * Write-ahead log, synchronous = NORMAL: the disk is waited for when the log is moved into the
 * database (store.c: every 10 s at the latest), so a power failure may cost the commits since; a
 * kill costs none. This connection alone writes and checkpoints; readers open read-only. No memory
 * mapping: an I/O error would be a SIGBUS. */
#include "daemon/store/db.h"

#include "daemon/base/log.h"
#include "daemon/store/repair.h"
#include "daemon/store/schema.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char settings[] = "PRAGMA synchronous = NORMAL;"
                               "PRAGMA wal_autocheckpoint = 0;"
                               "PRAGMA journal_size_limit = 67108864;"
                               "PRAGMA mmap_size = 0;"
                               "PRAGMA cache_size = -16384;"
                               "PRAGMA temp_store = MEMORY;"
                               "PRAGMA trusted_schema = OFF;"
                               "PRAGMA cell_size_check = ON";

#define BUSY_TIMEOUT_MS 5000

/* Returns an SQLite code: SQLITE_OK when it is sound. */
static int store_db_check(sqlite3 *connection)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(connection, "PRAGMA quick_check(1)", -1, &statement, NULL);
    code = code ? code : sqlite3_step(statement);
    bool sound = code == SQLITE_ROW && sqlite3_column_text(statement, 0) &&
                 !strcmp((const char *)sqlite3_column_text(statement, 0), "ok");
    sqlite3_finalize(statement);
    if (code == SQLITE_ROW || code == SQLITE_DONE) {
        return sound ? SQLITE_OK : SQLITE_CORRUPT;
    }
    return code;
}

/* Damage can look like a mistake in a statement, or like a row that is there twice. */
static bool store_db_is_odd(int code)
{
    int kind = code & 0xff;
    return kind == SQLITE_ERROR || kind == SQLITE_CONSTRAINT || kind == SQLITE_MISUSE ||
           kind == SQLITE_RANGE || kind == SQLITE_INTERNAL;
}

static bool is_corrupt(sqlite3 *connection, int code)
{
    if (store_db_is_odd(code)) {
        code = store_db_check(connection);
    }
    return (code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB;
}

bool db_is_corrupt(const struct store_db *db, int code)
{
    return is_corrupt(db->sql.db, code);
}

/* Steps of opening: SQLite codes; *ret_why is set when the code is not what people should read. */

static int apply_schema(sqlite3 *connection, const char **ret_why)
{
    int code = SQLITE_OK;
    switch (schema_apply(connection, &schema_current, &code)) {
    case SCHEMA_NEWER:
        *ret_why = "a newer attnd wrote it: update this one, or name another file (history.path)";
        return SQLITE_MISMATCH;
    case SCHEMA_FOREIGN:
        *ret_why = "it is a database of another program";
        return SQLITE_MISMATCH;
    case SCHEMA_READY:
    case SCHEMA_FAILED:
        break;
    }
    return code;
}

static int put_clean(const struct sql *sql, bool clean)
{
    return sql_run(sql, STATEMENT_SET_CLEAN, SQL(sql_i64(clean)));
}

static int on_commit(void *data, sqlite3 *connection, const char *schema, int pages)
{
    (void)connection;
    (void)schema;
    struct store_db *db = data;
    db->log_pages = pages;
    return SQLITE_OK;
}

static int store_db_prepare(struct store_db *db, sqlite3 *connection, const char **ret_why)
{
    sqlite3_extended_result_codes(connection, 1);
    sqlite3_busy_timeout(connection, BUSY_TIMEOUT_MS);
    if (sqlite3_db_readonly(connection, "main") == 1) {
        *ret_why = "it can only be read";
        return SQLITE_READONLY;
    }
    int code = apply_schema(connection, ret_why);
    code = code ? code : sqlite3_exec(connection, settings, NULL, NULL, NULL);
    code = code ? code : sql_init(&db->sql, connection);
    db->log_pages = 0;
    sqlite3_wal_hook(connection, on_commit, db);
    if (code != SQLITE_OK) {
        return code;
    }
    int64_t clean = 0;
    code = sql_number(&db->sql, STATEMENT_GET_CLEAN, NULL, &clean);
    if (code == SQLITE_DONE) {
        return SQLITE_OK; /* it is new */
    }
    return code == SQLITE_OK && !clean ? store_db_check(db->sql.db) : code;
}

static void disconnect(struct store_db *db, sqlite3 *connection)
{
    db->marked = false;
    sql_clear(&db->sql);
    sqlite3_close(connection);
}

/* Returns 0, or -1 with a reason. */
static int store_db_connect_to(struct store_db *db, char *reterr_reason, bool *ret_corrupt)
{
    sqlite3 *connection = NULL;
    const char *why = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    store_file_close_to_others(db->path);
    int code = sqlite3_open_v2(db->path, &connection, flags, NULL);
    code = code ? code : store_db_prepare(db, connection, &why);
    if (code == SQLITE_OK) {
        db->log = store_file_log_id(db->path); /* it stays as long as the connection */
        return 0;
    }
    store_file_refuse(reterr_reason, db->path, why ? why : sqlite3_errstr(code));
    *ret_corrupt = is_corrupt(connection, code);
    disconnect(db, connection);
    return -1;
}

static void store_db_name_copy(const struct store_db *db, char ret_path[PATH_MAX])
{
    snprintf(ret_path, PATH_MAX, "%s.repaired", db->path);
}

/* Puts what can be read, or a new database, in its place. Returns 0, or -1 with a reason: a file
 * that is still open stays. */
static int store_db_replace(struct store_db *db, bool must, char *reterr_reason)
{
    char aside[PATH_MAX], copy[PATH_MAX];
    struct repair_found found = {0};
    store_db_name_copy(db, copy);
    int code = repair_copy(db->path, copy, db->ends, db->ends_data, &found);
    if (code == SQLITE_INTERRUPT || (code != SQLITE_OK && !must)) {
        return store_file_refuse(reterr_reason, db->path, sqlite3_errstr(code));
    }
    if (db->sql.db) {
        disconnect(db, db->sql.db);
    }
    if (store_file_set_aside(db->path, aside, reterr_reason)) {
        return -1;
    }
    db->corrupt++;
    db->lost_windows += found.lost_windows;
    if (code != SQLITE_OK) {
        log_event(LOG_ERROR, "history_corrupt", LOG_STR("path", db->path),
                  LOG_STR("renamed", aside), LOG_STR("reason", sqlite3_errstr(code)));
    } else if (rename(copy, db->path)) {
        return store_file_refuse(reterr_reason, db->path, "its repaired copy cannot be renamed");
    } else {
        log_event(LOG_ERROR, "history_repaired", LOG_STR("path", db->path),
                  LOG_STR("renamed", aside), LOG_NUM("windows", found.windows),
                  LOG_NUM("lost_windows", found.lost_windows),
                  LOG_NUM("lost_rows", found.lost_rows));
    }
    bool corrupt;
    return store_db_connect_to(db, reterr_reason, &corrupt);
}

/* Locks and opens what is at the path. Returns 0, or -1 with a reason, then it is closed. */
static int store_db_open_path(struct store_db *db, char *reterr_reason)
{
    db->lock = store_file_lock(db->path, reterr_reason);
    if (db->lock < 0) {
        return -1;
    }
    char copy[PATH_MAX];
    bool corrupt = false;
    store_db_name_copy(db, copy);
    if (access(db->path, F_OK)) {
        rename(copy, db->path); /* attnd was killed while it changed them */
    }
    if (!store_db_connect_to(db, reterr_reason, &corrupt) ||
        (corrupt && !store_db_replace(db, true, reterr_reason))) {
        return 0;
    }
    db_close(db);
    return -1;
}

int db_open(struct store_db *db, const char *configured_path, char reterr_reason[STORE_REASON_MAX])
{
    *db = (struct store_db){.lock = -1};
    if (store_file_path(configured_path, db->path, reterr_reason)) {
        return -1;
    }
    return store_db_open_path(db, reterr_reason);
}

bool db_is_gone(sqlite3 *connection)
{
    int moved = 0;
    return sqlite3_file_control(connection, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK &&
           moved;
}

/* SQLite leaves the files at the path alone when it closes one that is no longer there: also its
 * own log, which would then be written into the file that took its place. The lock's file may be
 * gone as well. */
int db_reopen(struct store_db *db, char reterr_reason[STORE_REASON_MAX])
{
    db->marked = false;
    if (db->sql.db) {
        store_file_drop_log(db->path, db->log);
    }
    db_close(db);
    return store_db_open_path(db, reterr_reason);
}

int db_replace(struct store_db *db, char reterr_reason[STORE_REASON_MAX])
{
    if (!store_db_replace(db, true, reterr_reason)) {
        return 0;
    }
    db->is_damaged = true;
    db_close(db);
    return -1;
}

int db_repair(struct store_db *db, char reterr_reason[STORE_REASON_MAX])
{
    db_mark(db); /* when attnd is killed meanwhile, the file is checked */
    return store_db_replace(db, false, reterr_reason);
}

void db_close(struct store_db *db)
{
    if (db->sql.db && db->is_damaged) {
        put_clean(&db->sql, false);
    } else if (db->marked) {
        put_clean(&db->sql, true); /* failing, it will be checked next time */
    }
    if (db->sql.db) {
        disconnect(db, db->sql.db);
    }
    if (db->lock >= 0) {
        close(db->lock);
    }
    db->lock = -1;
}

int db_open_reader(const char *path, struct sql *ret_sql)
{
    sqlite3 *connection = NULL;
    int code = sqlite3_open_v2(path, &connection, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    code = code ? code : sql_init(ret_sql, connection);
    if (code != SQLITE_OK) {
        sqlite3_close(connection);
    }
    return code;
}

void db_close_reader(struct sql *sql)
{
    sqlite3 *connection = sql->db;
    sql_clear(sql);
    sqlite3_close(connection);
}

int db_mark(struct store_db *db)
{
    int code = db->marked ? SQLITE_OK : put_clean(&db->sql, false);
    db->marked = db->marked || code == SQLITE_OK;
    return code;
}

int db_try_room(struct store_db *db, int64_t bytes)
{
    int code = sql_run(&db->sql, STATEMENT_PUT_ROOM, SQL(sql_i64(bytes)));
    return code ? code : sql_run(&db->sql, STATEMENT_DROP_ROOM, NULL);
}

int db_checkpoint(struct store_db *db)
{
    db->log_pages = 0;
    int code = sqlite3_wal_checkpoint_v2(db->sql.db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    return code == SQLITE_BUSY ? SQLITE_OK : code;
}
