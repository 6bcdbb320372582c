/* SPDX-License-Identifier: MIT */
/* history/internal: one question while it is being answered (parameters, connection, time, result),
 * and helpers to read rows. Reader thread. */
#ifndef DAEMON_HISTORY_INTERNAL_H
#define DAEMON_HISTORY_INTERNAL_H

#include "config/config.h"
#include "proto/err.h"
#include "daemon/history/params.h"
#include "daemon/store/sql.h"

#include <sqlite3.h>
#include <stdatomic.h>

#define HISTORY_DETAIL_MAX 512

struct query {
    sqlite3 *db;
    const struct config *config;
    struct store *store;
    struct history_params params;
    struct mpk_writer *result;
    char *detail;         /* HISTORY_DETAIL_MAX */
    uint64_t deadline_ns; /* monotonic */
    const atomic_bool *closing;
    bool damaged; /* SQLite met damage */
};

/* A method: writes one value to the result and returns 0, or returns an error. */
typedef int history_method(struct query *query);

#define PRESENT(function)
#define BOTH(function)                                            history_method history_##function;
#define PAST(function)                                            BOTH(function)
#define OWN(function)                                             BOTH(function)
#define METHOD(name, function, when, role, of_all, takes, result) when(function)
#include "proto/method.def"

/* Says more about an error; returns its code. */
int query_fail(struct query *query, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ERR_QUERY_TIME or ERR_CLOSED when it has to end, else 0. Between rows; SQLite asks by itself. */
int query_check(const struct query *query);

/* Prepares and binds. Text and blobs are borrowed until the statement is finalized. Returns 0, or
 * an error; the statement is then NULL, which sqlite3_finalize accepts. */
int query_open(struct query *query, const char *sql, sqlite3_stmt **ret_statement,
               const struct sql_value *values);
/* The next row: 1; 0 after the last; or an error. */
int query_next(struct query *query, sqlite3_stmt *statement);

/* One of `count` choices; the first one for what a damaged database says. */
unsigned column_choice(sqlite3_stmt *statement, int column, unsigned count);
/* "" instead of NULL; valid until the next row. */
const char *column_text(sqlite3_stmt *statement, int column);

#endif
