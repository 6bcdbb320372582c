/* SPDX-License-Identifier: MIT */
#include "daemon/history/internal.h"

#include "daemon/base/clock.h"

#include <stdarg.h>
#include <stdio.h>

int query_fail(struct query *query, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(query->detail, HISTORY_DETAIL_MAX, format, args);
    va_end(args);
    return code;
}

int query_check(const struct query *query)
{
    if (atomic_load_explicit(query->closing, memory_order_relaxed)) {
        return ERR_CLOSED;
    }
    return clock_monotonic_ns() > query->deadline_ns ? ERR_QUERY_TIME : 0;
}

static int sqlite_code(struct query *query, int rc)
{
    if (rc == SQLITE_NOMEM) {
        return ERR_MEMORY;
    }
    if (rc == SQLITE_INTERRUPT) {
        return query_check(query) ? query_check(query) : ERR_QUERY_TIME;
    }
    query->damaged =
        query->damaged || (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
    return query_fail(query, ERR_HISTORY_OFF, "the history cannot be read: %s",
                      sqlite3_errmsg(query->db));
}

int query_open(struct query *query, const char *sql, sqlite3_stmt **ret_statement,
               const struct sql_value *values)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(query->db, sql, -1, &statement, NULL);
    *ret_statement = NULL;
    rc = rc ? rc : sql_bind(statement, values);
    if (rc == SQLITE_OK) {
        *ret_statement = statement;
        return 0;
    }
    int code = sqlite_code(query, rc);
    sqlite3_finalize(statement);
    return code;
}

int query_next(struct query *query, sqlite3_stmt *statement)
{
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW) {
        return 1;
    }
    return rc == SQLITE_DONE ? 0 : sqlite_code(query, rc);
}

unsigned column_choice(sqlite3_stmt *statement, int column, unsigned count)
{
    uint64_t choice = column_u64(statement, column);
    return choice < count ? (unsigned)choice : 0;
}

const char *column_text(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    return text ? text : "";
}
