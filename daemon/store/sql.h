/* SPDX-License-Identifier: MIT */
/* store_sql: the prepared statements of a connection, and how values are bound.
 *
 * Results are SQLite's extended codes. A statement takes its values in order, one for each
 * parameter; what goes wrong while they are bound is kept and given by the run.
 *
 *      int code = sql_number(sql, STATEMENT_GET_TRACK, SQL(sql_u64(unit), sql_u64(length)), &id);
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

/* The most statements of one connection. */
#define SQL_STATEMENTS_MAX 128

struct sql {
    sqlite3 *db;
    int count;
    sqlite3_stmt *statement[SQL_STATEMENTS_MAX];
};

/* Prepares all statements of an open database: BEGIN, COMMIT and ROLLBACK, then the others. On
 * failure none is left. */
int sql_prepare(struct sql *sql, sqlite3 *db, const char *const *texts, int count);
/* Prepares the statements of sql.def. */
int sql_init(struct sql *sql, sqlite3 *db);
void sql_clear(struct sql *sql);

struct sql_value {
    int type; /* SQLITE_INTEGER, and so on; 0 ends a list */
    union {
        int64_t integer;
        double real;
        const void *data; /* borrowed until the statement has run */
    } as;
    size_t size;
};

#define SQL(...) ((const struct sql_value[]){__VA_ARGS__, {.type = 0}})

static inline struct sql_value sql_i64(int64_t number)
{
    return (struct sql_value){.type = SQLITE_INTEGER, .as.integer = number};
}

/* Beyond INT64_MAX: INT64_MAX. */
static inline struct sql_value sql_u64(uint64_t number)
{
    return sql_i64(number > INT64_MAX ? INT64_MAX : (int64_t)number);
}

/* NaN is NULL. */
static inline struct sql_value sql_f64(double number)
{
    return (struct sql_value){.type = SQLITE_FLOAT, .as.real = number};
}

/* NULL is NULL. */
static inline struct sql_value sql_text(const char *text)
{
    return (struct sql_value){.type = SQLITE_TEXT, .as.data = text};
}

/* Without bytes it is an empty blob, not NULL. */
static inline struct sql_value sql_blob(const void *data, size_t size)
{
    return (struct sql_value){.type = SQLITE_BLOB, .as.data = size ? data : "", .size = size};
}

/* The value if there is one, else NULL. */
static inline struct sql_value sql_if(bool any, struct sql_value value)
{
    return any ? value : (struct sql_value){.type = SQLITE_NULL};
}

/* Binds all parameters; `values` NULL: there are none. SQLITE_RANGE when there are more or fewer
 * values than parameters. */
int sql_bind(sqlite3_stmt *statement, const struct sql_value *values);

static inline uint64_t column_u64(sqlite3_stmt *row, int column)
{
    return (uint64_t)sqlite3_column_int64(row, column);
}

/* Reads the id of a run, RUN_BYTES. Returns false, with zeros, for what is none. */
bool column_run(sqlite3_stmt *row, int column, uint8_t *ret_run);
/* Unpacks a blob that was `bytes` bytes. Returns as blob_inflate (series.h). */
int column_inflate(sqlite3_stmt *row, int column, uint64_t bytes, uint8_t **ret_plain);

/* The number that a text of SQL gives: SQLITE_OK, SQLITE_DONE (no row) or an error. */
int sql_ask(sqlite3 *db, const char *text, int64_t *ret_number);

/* Runs to the end, rows are passed over. SQLITE_OK or an error. */
int sql_run(const struct sql *sql, unsigned statement, const struct sql_value *values);
/* The number in the only row: SQLITE_OK, SQLITE_DONE (no row; *ret_number unchanged) or an error.
 */
int sql_number(const struct sql *sql, unsigned statement, const struct sql_value *values,
               int64_t *ret_number);

/* The number that `get` gives, or if there is none `put`; both have the same parameters. */
int sql_find(const struct sql *sql, unsigned get, unsigned put, const struct sql_value *values,
             int64_t *ret_number);

/* One that is read row by row. */
struct sql_query {
    sqlite3_stmt *statement;
    int code;
};

struct sql_query query_begin(const struct sql *sql, unsigned statement,
                             const struct sql_value *values);
/* The next row: SQLITE_ROW, SQLITE_DONE or an error. Until query_end. */
int query_row(struct sql_query *query);
void query_end(struct sql_query *query);

/* One transaction. sql_end commits when code is SQLITE_OK, else, or when that fails, rolls back;
 * returns the first error. */
int sql_begin(const struct sql *sql);
int sql_end(const struct sql *sql, int code);

#endif
