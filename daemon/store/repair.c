/* SPDX-License-Identifier: MIT */
/* Each table is read by its key, in order. Where a page cannot be read, the keys from there on are
 * halved until each that can be read has been: one that is left costs its row. SQLite has an API
 * for this since 3.42; it needs a build option that distributions do not set.
 *
 * Small tables that name things are read from their unique index as well, which has a copy of what
 * makes them: without the one page of `tracks`, no window could be found. Then goes what refers to
 * rows that are not there, and what has bytes that are no state, series or map. Windows whose chunk
 * is lost become part of another one, if they still have their states.
 *
 * The first page, without which there is no database, is the same in all files of one schema, as
 * far as it matters for reading: it has no rows, and tables begin at pages that depend on nothing
 * else.
 *
 * Keys stay as they are. A node that cannot read the number of its last row begins as a new one. */
#include "daemon/store/repair.h"

#include "daemon/state/layer_state.h"
#include "daemon/store/file.h"
#include "daemon/store/schema.h"
#include "daemon/store/series.h"
#include "daemon/store/sql.h"
#include "proto/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Virtual instructions of SQLite between two calls of `ends`. */
#define ENDS_STEPS 100000
/* Keys of a table that may be tried in vain, 20 us each: when it is known which is the last one,
 * and when it is not. */
#define TRIES_MAX       (UINT64_C(1) << 18)
#define TRIES_BLIND_MAX (UINT64_C(1) << 13)
/* No history has more rows: a greater key is of the outbox, whose keys leave some out, or damage.
 */
#define ROWS_MAX UINT32_MAX
/* The pages of the file, as schema_apply makes them, and SQLite's format of two of them. */
#define PAGE_BYTES       8192
#define PAGE_IS_LEAF     0x0d
#define PAGE_BEGIN_BYTES 5

struct repair {
    sqlite3 *from, *to;
    int code;             /* SQLITE_OK: the copy can be written */
    const char *key;      /* of the table in hand; "1": it has no numbers as keys */
    sqlite3_stmt *rising; /* rows of keys from ?1 to ?2 */
    sqlite3_stmt *falling;
    sqlite3_stmt *insert;
    int64_t last; /* key that was read */
    uint64_t tries, tries_max;
    uint64_t lost;   /* keys before it */
    uint64_t unread; /* and after it, so far */
};

struct repair_table {
    const char *name, *key;
    const char *columns; /* of its index; NULL: all, as they are */
    const char *insert;  /* how they become a row */
};

static const struct repair_table tables[] = {
    {"meta", "1", NULL, NULL},
    {"runs", "run_id", NULL, NULL},
    {"runs INDEXED BY sqlite_autoindex_runs_1", "1", "job, run, run_id",
     "runs SELECT ?3, ?1, ?2, 2, 1, 0, 0, 0, 0, strftime('%s'), NULL, NULL, '', '', '', 0, 0"},
    {"layers", "layer_id", NULL, NULL},
    {"layers INDEXED BY sqlite_autoindex_layers_1", "1", "run_id, stack, layer, site, layer_id",
     "layers VALUES(?5, ?1, ?2, ?3, ?4, 0, NULL, NULL)"},
    {"tracks", "track_id", NULL, NULL},
    {"tracks INDEXED BY sqlite_autoindex_tracks_1", "1", "unit, length, every, track_id",
     "tracks VALUES(?4, ?1, ?2, ?3)"},
    {"metrics", "metric_id", NULL, NULL},
    {"metrics INDEXED BY sqlite_autoindex_metrics_1", "1", "name, metric_id",
     "metrics VALUES(?2, ?1)"},
    {"windows", "window_id", NULL, NULL},
    {"states", "window_id", NULL, NULL},
    {"chunks", "chunk_id", NULL, NULL},
    {"series", "series_id", NULL, NULL},
    {"maps", "map_id", NULL, NULL},
    {"alerts", "alert_id", NULL, NULL},
    {"kept", "run_id", NULL, NULL},
    {"logs", "log_id", NULL, NULL},
    {"logs INDEXED BY sqlite_autoindex_logs_1", "1", "run_id, name, log_id",
     "logs VALUES(?3, ?1, ?2, 0, 0)"},
    {"log_points", "log_id", NULL, NULL},
    {"sketches", "sketch_id", NULL, NULL},
    {"outbox", "seq", NULL, NULL},
    {"outbox_bodies", "seq", NULL, NULL},
};

enum repair_count { COUNT_NOTHING, COUNT_ROWS, COUNT_WINDOWS };

static const struct {
    enum repair_count count; /* the rows that it changes are these, and lost */
    const char *sql;
} rest[] = {
    {COUNT_ROWS, "DELETE FROM layers WHERE run_id NOT IN (SELECT run_id FROM runs)"},
    {COUNT_WINDOWS, "DELETE FROM windows WHERE layer_id NOT IN (SELECT layer_id FROM layers)"
                    " OR track_id NOT IN (SELECT track_id FROM tracks)"},
    {COUNT_ROWS, "DELETE FROM states WHERE window_id NOT IN (SELECT window_id FROM windows)"
                 " OR NOT is_sound('state', data, bytes)"},
    {COUNT_ROWS, "DELETE FROM chunks WHERE layer_id NOT IN (SELECT layer_id FROM layers)"
                 " OR track_id NOT IN (SELECT track_id FROM tracks)"
                 " OR NOT is_sound('windows', windows, count)"},
    {COUNT_ROWS, "DELETE FROM series WHERE metric_id NOT IN (SELECT metric_id FROM metrics)"
                 " OR NOT coalesce((SELECT is_sound('series', data, count) FROM chunks"
                 " WHERE chunks.chunk_id = series.chunk_id), 0)"},
    {COUNT_NOTHING, "UPDATE windows SET chunk_id = NULL"
                    " WHERE chunk_id NOT IN (SELECT chunk_id FROM chunks)"},
    {COUNT_WINDOWS, "DELETE FROM windows WHERE chunk_id IS NULL"
                    " AND window_id NOT IN (SELECT window_id FROM states)"},
    {COUNT_ROWS, "DELETE FROM maps WHERE layer_id NOT IN (SELECT layer_id FROM layers)"
                 " OR track_id NOT IN (SELECT track_id FROM tracks)"
                 " OR NOT is_sound('map', data, 2 * rows * columns)"},
    {COUNT_ROWS, "UPDATE maps SET heads = NULL, head_queries = NULL, head_keys = NULL,"
                 " head_rows = NULL, head_columns = NULL, head_data = NULL"
                 " WHERE head_data IS NOT NULL"
                 " AND NOT is_sound('map', head_data, 2 * heads * head_rows * head_columns)"},
    {COUNT_ROWS, "DELETE FROM alerts WHERE run_id NOT IN (SELECT run_id FROM runs)"},
    {COUNT_ROWS, "DELETE FROM kept WHERE run_id NOT IN (SELECT run_id FROM runs)"},
    {COUNT_ROWS, "DELETE FROM logs WHERE run_id NOT IN (SELECT run_id FROM runs)"},
    {COUNT_ROWS, "DELETE FROM log_points WHERE log_id NOT IN (SELECT log_id FROM logs)"},
    {COUNT_ROWS, "DELETE FROM sketches WHERE run_id NOT IN (SELECT run_id FROM runs)"
                 " OR NOT is_sound('sketch', data, bytes)"},
    {COUNT_ROWS, "DELETE FROM outbox WHERE seq NOT IN (SELECT seq FROM outbox_bodies)"},
    {COUNT_ROWS, "DELETE FROM outbox_bodies WHERE seq NOT IN (SELECT seq FROM outbox)"},
    /* An index has less than a row. */
    {COUNT_NOTHING, "UPDATE layers SET heads = coalesce((SELECT max(head) + 1 FROM chunks"
                    " JOIN series USING(chunk_id) WHERE chunks.layer_id = layers.layer_id), 0)"
                    " WHERE heads = 0"},
    {COUNT_NOTHING,
     "UPDATE runs SET (first_ns, last_ns, epoch, step) = (SELECT coalesce(min(time_ns), 0),"
     " coalesce(max(time_ns), 0), coalesce(max(epoch), 0), coalesce(max(windows.step), 0)"
     " FROM layers JOIN windows USING(layer_id) WHERE layers.run_id = runs.run_id)"
     " WHERE last_ns = 0"},
    {COUNT_NOTHING, "UPDATE logs SET points = (SELECT count(*) FROM log_points"
                    " WHERE log_points.log_id = logs.log_id)"},
    /* The copy is new: it needs no check, and counts on. */
    {COUNT_NOTHING, "DELETE FROM meta WHERE key = 'clean'"},
};

/* Rows of a table */

/* Rows of one key may be several, and a page that is no such page may have any key. Returns whether
 * these are all; *ret_next: the key to go on with. */
static bool repair_scan(struct repair *repair, sqlite3_stmt *rows, int64_t low, int64_t high,
                        int64_t *ret_next)
{
    int64_t last = low;
    int code;
    sqlite3_bind_int64(rows, 1, low);
    sqlite3_bind_int64(rows, 2, high);
    while ((code = sqlite3_step(rows)) == SQLITE_ROW && repair->code == SQLITE_OK) {
        int64_t key = repair->key[0] == '1' ? low : sqlite3_column_int64(rows, 0);
        if (key < last || key > high) {
            break;
        }
        for (int i = 0; i < sqlite3_column_count(rows); i++) {
            sqlite3_bind_value(repair->insert, i + 1, sqlite3_column_value(rows, i));
        }
        sqlite3_step(repair->insert);
        repair->code = sqlite3_reset(repair->insert);
        repair->lost += repair->unread;
        repair->unread = 0;
        last = repair->last = key;
    }
    sqlite3_reset(rows);
    repair->tries += code != SQLITE_DONE;
    if (code == SQLITE_INTERRUPT) {
        repair->code = code;
    }
    *ret_next = last;
    return code == SQLITE_DONE;
}

static void repair_range(struct repair *repair, int64_t low, int64_t high)
{
    while (low <= high && !(repair->code != SQLITE_OK || repair->tries > repair->tries_max) &&
           !repair_scan(repair, repair->rising, low, high, &low)) {
        if (low == high) {
            repair->unread += !repair_scan(repair, repair->falling, low, high, &low);
            return;
        }
        int64_t middle = low + (high - low) / 2;
        repair_range(repair, low, middle);
        low = middle + 1;
    }
}

static int repair_prepare(struct repair *repair, const struct repair_table *table)
{
    static const char *const orders[] = {"1, 2", "1 DESC, 2 DESC"};
    sqlite3_stmt **const rows[] = {&repair->rising, &repair->falling};
    char sql[256], places[64] = "?";
    int code = SQLITE_OK;
    for (int i = 0; i < 2 && code == SQLITE_OK; i++) {
        snprintf(sql, sizeof sql, "SELECT %s FROM %s WHERE %s BETWEEN ?1 AND ?2 ORDER BY %s",
                 table->columns ? table->columns : "*", table->name, table->key, orders[i]);
        code = sqlite3_prepare_v2(repair->from, sql, -1, rows[i], NULL);
    }
    if (code != SQLITE_OK) {
        return code;
    }
    for (int i = 1; i < sqlite3_column_count(repair->rising); i++) {
        strcat(places, ",?");
    }
    if (table->insert) {
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO %s", table->insert);
    } else {
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO %s VALUES(%s)", table->name, places);
    }
    return sqlite3_prepare_v2(repair->to, sql, -1, &repair->insert, NULL);
}

static int repair_copy_table(struct repair *repair, const struct repair_table *table,
                             struct repair_found *found)
{
    uint64_t rows = (uint64_t)sqlite3_total_changes64(repair->to);
    bool is_windows = strcmp(table->name, "windows") == 0;
    int64_t high = INT64_MAX - 1;
    repair->key = table->key;
    repair->tries = repair->lost = repair->unread = 0;
    repair->last = 0;
    repair->code = repair_prepare(repair, table);
    if (repair->code == SQLITE_OK) {
        /* The greatest key: at the end of the table, anywhere in its index, or in a table that
         * refers to it (others have no such column). */
        static const char *const asking[] = {
            "SELECT max(%s) FROM %s", "SELECT max(+%s) FROM %s INDEXED BY sqlite_autoindex_%s_1",
            "SELECT max(%s) FROM windows", "SELECT max(%s) FROM states",
            "SELECT max(%s) FROM sqlite_sequence"};
        bool known = false;
        for (int i = 0; i < 5 && !known; i++) {
            char *sql = sqlite3_mprintf(asking[i], table->key, table->name, table->name);
            known = sql && sql_ask(repair->from, sql, &high) == SQLITE_OK;
            sqlite3_free(sql);
        }
        repair->tries_max = known ? TRIES_MAX : TRIES_BLIND_MAX;
        repair_range(repair, 1, high);
        bool all = repair->tries <= repair->tries_max;
        uint64_t beyond = (uint64_t)(high - repair->last);
        repair->lost += all ? repair->unread : known && beyond <= ROWS_MAX ? beyond : 0;
    }
    rows = (uint64_t)sqlite3_total_changes64(repair->to) - rows;
    if (table->columns) { /* rows that the table did not give */
        found->lost_rows -= rows < found->lost_rows ? rows : found->lost_rows;
    } else {
        *(is_windows ? &found->lost_windows : &found->lost_rows) += repair->lost;
    }
    sqlite3_finalize(repair->rising);
    sqlite3_finalize(repair->falling);
    sqlite3_finalize(repair->insert);
    repair->rising = repair->falling = repair->insert = NULL;
    return repair->code;
}

/* The rest */

static bool repair_is_sound(const char *kind, const void *data, size_t size, int64_t count)
{
    struct series_window windows[SERIES_WINDOWS_MAX];
    struct result_stat stats[SERIES_WINDOWS_MAX];
    bool few = count > 0 && count <= SERIES_WINDOWS_MAX;
    if (strcmp(kind, "windows") == 0) {
        return few && series_windows_decode(data, size, (uint32_t)count, windows) == 0;
    }
    if (strcmp(kind, "series") == 0) {
        return few && series_decode(data, size, (uint32_t)count, stats) == 0;
    }
    struct layer_state *state = NULL;
    uint8_t *plain;
    int code = 0;
    if (count <= 0 || blob_inflate(data, size, (uint64_t)count, &plain) != 0) {
        return false;
    }
    if (strcmp(kind, "state") == 0) {
        code = layer_state_unpack(plain, (size_t)count, &state);
        layer_state_free(&state);
    }
    free(plain);
    return code != ERR_STORE_FORMAT;
}

/* is_sound(KIND, DATA, COUNT) in SQL. */
static void repair_on_is_sound(sqlite3_context *context, int count, sqlite3_value **values)
{
    const char *kind = (const char *)sqlite3_value_text(values[0]);
    const void *data = sqlite3_value_blob(values[1]);
    size_t size = (size_t)sqlite3_value_bytes(values[1]);
    (void)count;
    sqlite3_result_int(
        context, kind && data && repair_is_sound(kind, data, size, sqlite3_value_int64(values[2])));
}

/* The outbox goes on where it was, or a new node begins. */
static int repair_outbox(const struct repair *repair)
{
    char sql[160];
    int64_t number;
    if (sql_ask(repair->to, "SELECT value FROM meta WHERE key = 'node'", &number) == SQLITE_OK &&
        sql_ask(repair->from, "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'", &number) ==
            SQLITE_OK) {
        snprintf(sql, sizeof sql,
                 "DELETE FROM sqlite_sequence; INSERT INTO sqlite_sequence VALUES('outbox', %lld)",
                 (long long)number);
        return sqlite3_exec(repair->to, sql, NULL, NULL, NULL);
    }
    return sqlite3_exec(repair->to,
                        "DELETE FROM outbox; DELETE FROM outbox_bodies; DELETE FROM"
                        " sqlite_sequence; DELETE FROM meta WHERE key IN ('node', 'outbox_lost')",
                        NULL, NULL, NULL);
}

/* The whole */

/* Gives the damaged file the first page of the new one, if its second page, which says in which
 * pages tables begin, shows that it was such a file. */
static int repair_first_page(const struct repair *repair)
{
    uint8_t first[PAGE_BYTES], begins[2][PAGE_BYTES];
    sqlite3_file *from = NULL, *to = NULL;
    int64_t last = 0;
    sqlite3_file_control(repair->from, "main", SQLITE_FCNTL_FILE_POINTER, &from);
    sqlite3_file_control(repair->to, "main", SQLITE_FCNTL_FILE_POINTER, &to);
    if (sql_ask(repair->to, "SELECT max(rootpage) FROM sqlite_schema", &last) != SQLITE_OK ||
        to->pMethods->xRead(to, first, PAGE_BYTES, 0) != SQLITE_OK || first[100] != PAGE_IS_LEAF ||
        to->pMethods->xRead(to, begins[0], PAGE_BYTES, PAGE_BYTES) != SQLITE_OK ||
        from->pMethods->xRead(from, begins[1], PAGE_BYTES, PAGE_BYTES) != SQLITE_OK ||
        memcmp(begins[0], begins[1], PAGE_BEGIN_BYTES * (size_t)(last - 2)) != 0) {
        return SQLITE_CORRUPT;
    }
    memset(first + 92, 0xff, 4); /* the number of pages is that of the file */
    return from->pMethods->xWrite(from, first, PAGE_BYTES, 0);
}

static int repair_open_damaged(struct repair *repair, const char *path)
{
    int code =
        sqlite3_open_v2(path, &repair->from, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    /* writable_schema: it may be shorter than it says */
    return code != SQLITE_OK
               ? code
               : sqlite3_exec(repair->from,
                              "PRAGMA writable_schema = ON; PRAGMA cell_size_check = ON;"
                              "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON",
                              NULL, NULL, NULL);
}

static int repair_open_copy(struct repair *repair, const char *copy)
{
    int code =
        sqlite3_open_v2(copy, &repair->to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (code == SQLITE_OK && schema_apply(repair->to, &schema_current, &code) == SCHEMA_READY) {
        code = sqlite3_exec(repair->to,
                            "PRAGMA journal_mode = OFF; PRAGMA cache_size = -65536;"
                            "PRAGMA temp_store = MEMORY; BEGIN",
                            NULL, NULL, NULL);
    }
    if (code == SQLITE_OK) {
        code =
            sqlite3_create_function(repair->to, "is_sound", 3, SQLITE_UTF8 | SQLITE_DETERMINISTIC,
                                    NULL, repair_on_is_sound, NULL, NULL);
    }
    return code;
}

static int repair_open(struct repair *repair, const char *path, const char *copy)
{
    static const char tables_of[] = "SELECT count(*) FROM sqlite_schema";
    int64_t has = 0, wanted = 0;
    int code = repair_open_damaged(repair, path);
    code = code ? code : repair_open_copy(repair, copy);
    if (code != SQLITE_OK ||
        (sql_ask(repair->to, tables_of, &wanted) == SQLITE_OK &&
         sql_ask(repair->from, tables_of, &has) == SQLITE_OK && has >= wanted)) {
        return code;
    }
    code = repair_first_page(repair);
    sqlite3_close(repair->from);
    repair->from = NULL;
    return code == SQLITE_OK ? repair_open_damaged(repair, path) : code;
}

int repair_copy(const char *path, const char *copy, int (*ends)(void *data), void *data,
                struct repair_found *ret_found)
{
    struct repair repair = {0};
    struct repair_found found = {0};
    unlink(copy);
    store_file_close_to_others(copy);
    int code = repair_open(&repair, path, copy);
    if (code == SQLITE_OK) {
        sqlite3_progress_handler(repair.from, ENDS_STEPS, ends, data);
        sqlite3_progress_handler(repair.to, ENDS_STEPS, ends, data);
    }
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && code == SQLITE_OK; i++) {
        code = repair_copy_table(&repair, &tables[i], &found);
    }
    if (code == SQLITE_OK) {
        int64_t windows = 0;
        code = repair_outbox(&repair);
        for (size_t i = 0; i < sizeof rest / sizeof rest[0] && code == SQLITE_OK; i++) {
            code = sqlite3_exec(repair.to, rest[i].sql, NULL, NULL, NULL);
            uint64_t changed = (uint64_t)sqlite3_changes64(repair.to);
            found.lost_rows += rest[i].count == COUNT_ROWS ? changed : 0;
            found.lost_windows += rest[i].count == COUNT_WINDOWS ? changed : 0;
        }
        if (code == SQLITE_OK &&
            sql_ask(repair.to, "SELECT count(*) FROM windows", &windows) != SQLITE_OK) {
            code = SQLITE_CORRUPT;
        }
        found.windows = (uint64_t)windows;
    }
    code = code ? code : sqlite3_exec(repair.to, "COMMIT", NULL, NULL, NULL);
    sqlite3_close(repair.from);
    sqlite3_close(repair.to);
    if (code == SQLITE_OK) {
        *ret_found = found;
    } else {
        unlink(copy);
    }
    return code;
}
