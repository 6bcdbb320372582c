/* SPDX-License-Identifier: MIT */
#include "daemon/store/sql.h"

#include <math.h>

static const char *const text_of[STATEMENT_COUNT] = {
#define STATEMENT(symbol, text) [STATEMENT_##symbol] = text,
#include "daemon/store/sql.def"
#undef STATEMENT
};

int sql_init(struct sql *sql, sqlite3 *db)
{
    *sql = (struct sql){.db = db};
    for (int i = 0; i < STATEMENT_COUNT; i++) {
        int code = sqlite3_prepare_v3(db, text_of[i], -1, SQLITE_PREPARE_PERSISTENT,
                                      &sql->statement[i], NULL);
        if (code != SQLITE_OK) {
            sql_clear(sql);
            return code;
        }
    }
    return SQLITE_OK;
}

void sql_clear(struct sql *sql)
{
    for (int i = 0; i < STATEMENT_COUNT; i++) {
        sqlite3_finalize(sql->statement[i]);
    }
    *sql = (struct sql){0};
}

struct sql_query query_begin(const struct sql *sql, enum statement statement)
{
    return (struct sql_query){.statement = sql->statement[statement], .code = SQLITE_OK};
}

static void bound(struct sql_query *query, int code)
{
    if (query->code == SQLITE_OK) {
        query->code = code;
    }
}

void query_i64(struct sql_query *query, int64_t number)
{
    bound(query, sqlite3_bind_int64(query->statement, ++query->at, number));
}

void query_u64(struct sql_query *query, uint64_t number)
{
    query_i64(query, number > INT64_MAX ? INT64_MAX : (int64_t)number);
}

void query_f64(struct sql_query *query, double number)
{
    if (isnan(number)) {
        query_null(query);
    } else {
        bound(query, sqlite3_bind_double(query->statement, ++query->at, number));
    }
}

void query_null(struct sql_query *query)
{
    bound(query, sqlite3_bind_null(query->statement, ++query->at));
}

void query_text(struct sql_query *query, const char *text)
{
    bound(query, sqlite3_bind_text(query->statement, ++query->at, text, -1, SQLITE_STATIC));
}

void query_blob(struct sql_query *query, const void *data, size_t size)
{
    /* A binary of no bytes would be NULL. */
    bound(query, sqlite3_bind_blob64(query->statement, ++query->at, size ? data : "", size,
                                     SQLITE_STATIC));
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

int query_run(struct sql_query *query)
{
    int code;
    do {
        code = query_row(query);
    } while (code == SQLITE_ROW);
    query_end(query);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

int query_number(struct sql_query *query, int64_t *ret_number)
{
    int code = query_row(query);
    if (code == SQLITE_ROW) {
        *ret_number = sqlite3_column_int64(query->statement, 0);
        code = query_run(query); /* RETURNING writes with the first row, but is to be run out */
    } else {
        query_end(query);
    }
    return code;
}

static int run_plain(const struct sql *sql, enum statement statement)
{
    struct sql_query query = query_begin(sql, statement);
    return query_run(&query);
}

int sql_begin(const struct sql *sql)
{
    return run_plain(sql, STATEMENT_BEGIN);
}

int sql_end(const struct sql *sql, int code)
{
    if (code == SQLITE_OK) {
        code = run_plain(sql, STATEMENT_COMMIT);
    }
    /* Some errors have rolled back already. */
    if (code != SQLITE_OK && !sqlite3_get_autocommit(sql->db)) {
        run_plain(sql, STATEMENT_ROLLBACK);
    }
    return code;
}
