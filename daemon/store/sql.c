/* SPDX-License-Identifier: MIT */
#include "daemon/store/sql.h"

#include "daemon/store/series.h"
#include "proto/header.h"

#include <string.h>

static const char *const text_of[STATEMENT_COUNT] = {
#define STATEMENT(symbol, text) [STATEMENT_##symbol] = text,
#include "daemon/store/sql.def"
#undef STATEMENT
};

_Static_assert(STATEMENT_COUNT <= SQL_STATEMENTS_MAX, "statements of the store");
_Static_assert(STATEMENT_BEGIN == 0 && STATEMENT_COMMIT == 1 && STATEMENT_ROLLBACK == 2,
               "as in all tables of statements");

int sql_prepare(struct sql *sql, sqlite3 *db, const char *const *texts, int count)
{
    *sql = (struct sql){.db = db, .count = count};
    for (int i = 0; i < count; i++) {
        int code = sqlite3_prepare_v3(db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                                      &sql->statement[i], NULL);
        if (code != SQLITE_OK) {
            sql_clear(sql);
            return code;
        }
    }
    return SQLITE_OK;
}

int sql_init(struct sql *sql, sqlite3 *db)
{
    return sql_prepare(sql, db, text_of, STATEMENT_COUNT);
}

void sql_clear(struct sql *sql)
{
    for (int i = 0; i < sql->count; i++) {
        sqlite3_finalize(sql->statement[i]);
    }
    *sql = (struct sql){0};
}

int sql_bind(sqlite3_stmt *statement, const struct sql_value *values)
{
    int code = SQLITE_OK, at = 0;
    for (; values && values->type && code == SQLITE_OK; values++) {
        at++;
        if (values->type == SQLITE_INTEGER) {
            code = sqlite3_bind_int64(statement, at, values->as.integer);
        } else if (values->type == SQLITE_FLOAT) {
            code = sqlite3_bind_double(statement, at, values->as.real);
        } else if (values->type == SQLITE_TEXT) {
            code = sqlite3_bind_text(statement, at, values->as.data, -1, SQLITE_STATIC);
        } else if (values->type == SQLITE_BLOB) {
            code = sqlite3_bind_blob64(statement, at, values->as.data, values->size, SQLITE_STATIC);
        } else {
            code = sqlite3_bind_null(statement, at);
        }
    }
    bool all = at == sqlite3_bind_parameter_count(statement);
    return code == SQLITE_OK && !all ? SQLITE_RANGE : code;
}

bool column_run(sqlite3_stmt *row, int column, uint8_t *ret_run)
{
    const void *run = sqlite3_column_blob(row, column);
    bool sound = run && sqlite3_column_bytes(row, column) == RUN_BYTES;
    memset(ret_run, 0, RUN_BYTES);
    if (sound) {
        memcpy(ret_run, run, RUN_BYTES);
    }
    return sound;
}

int column_inflate(sqlite3_stmt *row, int column, uint64_t bytes, uint8_t **ret_plain)
{
    const void *data = sqlite3_column_blob(row, column);
    return blob_inflate(data, (size_t)sqlite3_column_bytes(row, column), bytes, ret_plain);
}

int sql_ask(sqlite3 *db, const char *text, int64_t *ret_number)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, text, -1, &statement, NULL);
    code = code ? code : sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        *ret_number = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

struct sql_query query_begin(const struct sql *sql, unsigned statement,
                             const struct sql_value *values)
{
    sqlite3_stmt *prepared = sql->statement[statement];
    return (struct sql_query){.statement = prepared, .code = sql_bind(prepared, values)};
}

int query_row(struct sql_query *query)
{
    if (query->code != SQLITE_OK) {
        return query->code;
    }
    int code = sqlite3_step(query->statement);
    return code == SQLITE_ROW || code == SQLITE_DONE
               ? code
               : sqlite3_extended_errcode(sqlite3_db_handle(query->statement));
}

void query_end(struct sql_query *query)
{
    sqlite3_reset(query->statement); /* repeats the error of the step */
    sqlite3_clear_bindings(query->statement);
}

static int sql_run_out(struct sql_query *query)
{
    int code;
    do {
        code = query_row(query);
    } while (code == SQLITE_ROW);
    query_end(query);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

int sql_run(const struct sql *sql, unsigned statement, const struct sql_value *values)
{
    struct sql_query query = query_begin(sql, statement, values);
    return sql_run_out(&query);
}

int sql_number(const struct sql *sql, unsigned statement, const struct sql_value *values,
               int64_t *ret_number)
{
    struct sql_query query = query_begin(sql, statement, values);
    int code = query_row(&query);
    if (code == SQLITE_ROW) {
        *ret_number = sqlite3_column_int64(query.statement, 0);
        code = sql_run_out(&query); /* RETURNING writes with the first row, but is to be run out */
    } else {
        query_end(&query);
    }
    return code;
}

int sql_find(const struct sql *sql, unsigned get, unsigned put, const struct sql_value *values,
             int64_t *ret_number)
{
    int code = sql_number(sql, get, values, ret_number);
    return code == SQLITE_DONE ? sql_number(sql, put, values, ret_number) : code;
}

int sql_begin(const struct sql *sql)
{
    return sql_run(sql, STATEMENT_BEGIN, NULL);
}

int sql_end(const struct sql *sql, int code)
{
    code = code ? code : sql_run(sql, STATEMENT_COMMIT, NULL);
    /* Some errors have rolled back already. */
    if (code != SQLITE_OK && !sqlite3_get_autocommit(sql->db)) {
        sql_run(sql, STATEMENT_ROLLBACK, NULL);
    }
    return code;
}
