/* SPDX-License-Identifier: MIT */
/* store_sql: the prepared statements of the store's connection, and how they are filled and run.
 *
 * Results are SQLite's extended codes. A query binds its parameters in order; what goes wrong while
 * binding is kept and given by the run.
 *
 *      struct sql_query query = query_begin(sql, STATEMENT_GET_TRACK);
 *      query_u64(&query, unit);
 *      int code = query_number(&query, &track_id);
 */
#ifndef DAEMON_STORE_SQL_H
#define DAEMON_STORE_SQL_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum statement {
#define STATEMENT(symbol, text) STATEMENT_##symbol,
#include "daemon/store/sql.def"
#undef STATEMENT
    STATEMENT_COUNT
};

struct sql {
    sqlite3 *db;
    sqlite3_stmt *statement[STATEMENT_COUNT];
};

/* Prepares all statements of an open database. On failure none is left. */
int sql_init(struct sql *sql, sqlite3 *db);
void sql_clear(struct sql *sql);

struct sql_query {
    sqlite3_stmt *statement;
    int at; /* parameters bound */
    int code;
};

struct sql_query query_begin(const struct sql *sql, enum statement statement);
void query_i64(struct sql_query *query, int64_t number);
/* Beyond INT64_MAX: INT64_MAX. */
void query_u64(struct sql_query *query, uint64_t number);
void query_f64(struct sql_query *query, double number); /* NaN is NULL */
void query_null(struct sql_query *query);
/* Borrowed until the query has run. */
void query_text(struct sql_query *query, const char *text);
void query_blob(struct sql_query *query, const void *data, size_t size);

/* Runs to the end, rows are passed over. SQLITE_OK or an error. */
int query_run(struct sql_query *query);
/* The next row: SQLITE_ROW, SQLITE_DONE or an error. Until query_end. */
int query_row(struct sql_query *query);
void query_end(struct sql_query *query);
/* The number in the only row: SQLITE_OK, SQLITE_DONE (no row; *ret_number unchanged) or an error.
 */
int query_number(struct sql_query *query, int64_t *ret_number);

/* One transaction. sql_end commits when code is SQLITE_OK, else, or when that fails, rolls back;
 * returns the first error. */
int sql_begin(const struct sql *sql);
int sql_end(const struct sql *sql, int code);

#endif
