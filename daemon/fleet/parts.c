/* SPDX-License-Identifier: MIT */
#include "daemon/fleet/parts.h"

#include "config/config.h"
#include "daemon/base/log.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#define PARTS_VERSION 2

static const char *const parts_texts[] = {
#define STATEMENT(symbol, text) [PARTS_##symbol] = text,
#include "daemon/fleet/parts.def"
#undef STATEMENT
};

/* Times are those of hub_now_s. */
static const char parts_schema[] =
    /* hub: its id; history: the id of the history that its windows are in. */
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    /* instance: the start of the node that is taken now; earlier: those before, one after the
     * other; seen: the numbers of rows that are here, or gone, as pairs of uint64_t, first and
     * last. */
    "CREATE TABLE nodes(node_id INTEGER PRIMARY KEY AUTOINCREMENT, node BLOB NOT NULL UNIQUE, name "
    "TEXT, host "
    "TEXT,"
    "  version TEXT, instance BLOB, earlier BLOB, seen BLOB);"
    /* buckets: of its histograms, -1 before the first part; ended: the loop was told that all nodes
     * have ended; heard: when any node said anything of it; forgotten: since when nothing is kept
     * of it but its floors, 0 = it is not. */
    "CREATE TABLE runs(run_id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL,"
    "  run BLOB NOT NULL, buckets INTEGER NOT NULL DEFAULT -1, ended INTEGER NOT NULL DEFAULT 0,"
    "  heard INTEGER NOT NULL, forgotten INTEGER NOT NULL DEFAULT 0, UNIQUE(job, run));"
    "CREATE INDEX runs_forgotten ON runs(forgotten);"
    "CREATE TABLE tracks(track_id INTEGER PRIMARY KEY, unit INTEGER NOT NULL,"
    "  length INTEGER NOT NULL, every INTEGER NOT NULL, UNIQUE(unit, length, every));"
    /* The heads of each layer of a run, by its first part. */
    "CREATE TABLE heads(run_id INTEGER NOT NULL, layer INTEGER NOT NULL, heads INTEGER NOT NULL,"
    "  PRIMARY KEY(run_id, layer)) WITHOUT ROWID;"
    /* layer: header_layer_key; state: layer_state_pack. */
    "CREATE TABLE parts(part_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL,"
    "  track_id INTEGER NOT NULL, part INTEGER NOT NULL, layer INTEGER NOT NULL,"
    "  node_id INTEGER NOT NULL, seq INTEGER NOT NULL, stored INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, module TEXT, state BLOB NOT NULL);"
    "CREATE UNIQUE INDEX parts_key ON parts(run_id, track_id, part, layer, node_id);"
    "CREATE INDEX parts_age ON parts(stored, bytes);"
    "CREATE TABLE closed(run_id INTEGER NOT NULL, track_id INTEGER NOT NULL, part INTEGER NOT NULL,"
    "  node_id INTEGER NOT NULL, seq INTEGER NOT NULL, next_before INTEGER NOT NULL,"
    "  complete_from INTEGER NOT NULL, cut INTEGER NOT NULL, layers INTEGER NOT NULL,"
    "  stored INTEGER NOT NULL, PRIMARY KEY(run_id, track_id, node_id, part)) WITHOUT ROWID;"
    "CREATE INDEX closed_age ON closed(stored);"
    "CREATE INDEX closed_part ON closed(run_id, track_id, part);"
    /* body: the newest row of a node about the run. */
    "CREATE TABLE progress(run_id INTEGER NOT NULL, node_id INTEGER NOT NULL, seq INTEGER NOT NULL,"
    "  body BLOB NOT NULL, PRIMARY KEY(run_id, node_id)) WITHOUT ROWID;"
    /* Rows that came in pieces, of which some are missing. */
    "CREATE TABLE pieces(node_id INTEGER NOT NULL, seq INTEGER NOT NULL, piece INTEGER NOT NULL,"
    "  pieces INTEGER NOT NULL, data BLOB NOT NULL, stored INTEGER NOT NULL,"
    "  UNIQUE(node_id, seq, piece));"
    /* Settings and logged values, for the loop; told: it has taken them. */
    "CREATE TABLE said(said_id INTEGER PRIMARY KEY AUTOINCREMENT, run_id INTEGER NOT NULL,"
    "  node_id INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, stored INTEGER NOT NULL,"
    "  told INTEGER NOT NULL, UNIQUE(node_id, seq));"
    "CREATE INDEX said_run ON said(run_id, said_id);"
    /* Windows that the loop has taken, by their last part. changed: parts have come since; missing:
     * nodes that they lack, an array of maps as in the result of the method `fleet`, or NULL. */
    "CREATE TABLE merged(run_id INTEGER NOT NULL, track_id INTEGER NOT NULL, part INTEGER NOT NULL,"
    "  revision INTEGER NOT NULL, changed INTEGER NOT NULL, stored INTEGER NOT NULL, missing BLOB,"
    "  PRIMARY KEY(run_id, track_id, part)) WITHOUT ROWID;"
    "CREATE INDEX merged_partial ON merged(run_id, stored, part) WHERE missing IS NOT NULL;"
    /* Nothing of parts below is merged any more: some of it has gone. */
    "CREATE TABLE floors(run_id INTEGER NOT NULL, track_id INTEGER NOT NULL, part INTEGER NOT NULL,"
    "  PRIMARY KEY(run_id, track_id)) WITHOUT ROWID;";

/* A part of 64 heads is some 170 kB: in pages of 4 KiB it takes a sixth more of the processor.
 * wal_autocheckpoint and incremental_vacuum count such pages. */
static const char parts_new_file[] = "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL";

static const char parts_settings[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536;"
    "PRAGMA wal_autocheckpoint = 1024; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF";

static int parts_prepare(struct parts *parts, sqlite3 *db)
{
    char version[64];
    int64_t found = -1;
    int code = sqlite3_exec(db, parts_new_file, NULL, NULL, NULL);
    code = code ? code : sqlite3_exec(db, parts_settings, NULL, NULL, NULL);
    if (code == SQLITE_OK && sql_ask(db, "PRAGMA user_version", &found) == SQLITE_OK &&
        found == 0) {
        snprintf(version, sizeof version, "PRAGMA user_version = %d; COMMIT", PARTS_VERSION);
        code = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        code = code ? code : sqlite3_exec(db, parts_schema, NULL, NULL, NULL);
        code = code ? code : sqlite3_exec(db, version, NULL, NULL, NULL);
        found = PARTS_VERSION;
    }
    if (code == SQLITE_OK && found != PARTS_VERSION) {
        return SQLITE_MISMATCH;
    }
    code = code ? code : sql_prepare(&parts->sql, db, parts_texts, PARTS_STATEMENT_COUNT);
    if (code == SQLITE_OK) {
        parts_sum(parts);
    }
    return code ? code : parts->code;
}

static int parts_connect(struct parts *parts, const char *path)
{
    sqlite3 *db = NULL;
    *parts = (struct parts){.code = SQLITE_OK};
    int code = sqlite3_open_v2(
        path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(db, 5000);
        code = parts_prepare(parts, db);
    }
    if (!parts->sql.db) {
        sqlite3_close(db);
    }
    return code;
}

bool parts_is_damage(int code)
{
    int kind = code & 0xff;
    return kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB;
}

static int parts_end_open(struct parts *parts, const char *path, int code, char *reterr)
{
    if (code == SQLITE_OK) {
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot open %.500s, where the hub keeps parts: %s", path,
             sqlite3_errstr(code));
    parts_close(parts);
    return -1;
}

int parts_open_anew(struct parts *parts, const char *history_path, int code, char *reterr)
{
    static const char *const endings[] = {"", "-wal", "-shm"};
    char path[PATH_MAX], file[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s.parts", history_path);
    log_event(LOG_WARNING, "fleet_parts_begun_anew", LOG_STR("path", path),
              LOG_STR("reason", sqlite3_errstr(code)));
    parts_close(parts);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        snprintf(file, sizeof file, "%s%s", path, endings[i]);
        unlink(file);
    }
    return parts_end_open(parts, path, parts_connect(parts, path), reterr);
}

int parts_open(struct parts *parts, const char *history_path, char *reterr)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.parts", history_path);
    int code = parts_connect(parts, path), kind = code & 0xff;
    if (parts_is_damage(code) || kind == SQLITE_MISMATCH || kind == SQLITE_ERROR) {
        return parts_open_anew(parts, history_path, code, reterr);
    }
    return parts_end_open(parts, path, code, reterr);
}

void parts_close(struct parts *parts)
{
    sqlite3 *db = parts->sql.db;
    sql_clear(&parts->sql);
    sqlite3_close(db);
    *parts = (struct parts){.code = SQLITE_OK};
}

static void parts_note(struct parts *parts, int code)
{
    if (code != SQLITE_OK && code != SQLITE_ROW && code != SQLITE_DONE && !parts->code) {
        parts->code = code;
    }
}

sqlite3_stmt *parts_bind(struct parts *parts, enum parts_statement which,
                         const struct sql_value *values)
{
    sqlite3_stmt *statement = parts->sql.statement[which];
    sqlite3_reset(statement);
    parts_note(parts, sql_bind(statement, values));
    return statement;
}

bool parts_row(struct parts *parts, sqlite3_stmt *statement)
{
    int code = parts->code ? SQLITE_DONE : sqlite3_step(statement);
    parts_note(parts, code);
    if (code != SQLITE_ROW) {
        sqlite3_reset(statement);
    }
    return code == SQLITE_ROW;
}

struct fleet_rule parts_rule(sqlite3_stmt *row, int column)
{
    return (struct fleet_rule){(enum window_unit)sqlite3_column_int(row, column),
                               column_u64(row, column + 1), column_u64(row, column + 2)};
}

int64_t parts_run(struct parts *parts, enum parts_statement which, const struct sql_value *values)
{
    sqlite3_stmt *statement = parts_bind(parts, which, values);
    int64_t found = -1;
    while (parts_row(parts, statement)) {
        found = sqlite3_column_int64(statement, 0);
    }
    return found;
}

void parts_sum(struct parts *parts)
{
    sqlite3_stmt *sum = parts_bind(parts, PARTS_SUM_PARTS, NULL);
    if (parts_row(parts, sum)) {
        parts->rows = column_u64(sum, 0);
        parts->bytes = column_u64(sum, 1);
        sqlite3_reset(sum);
    }
}

void parts_begin(struct parts *parts)
{
    if (!parts->open && parts->code == SQLITE_OK) {
        parts_note(parts, sql_begin(&parts->sql));
        parts->open = parts->code == SQLITE_OK;
    }
}

int parts_commit(struct parts *parts)
{
    int code = parts->open ? sql_end(&parts->sql, parts->code) : parts->code;
    parts->code = SQLITE_OK;
    parts->open = false;
    return code;
}
