/* SPDX-License-Identifier: MIT */
/* The numbers that a training reports, such as its loss: a row each, as they come one by one.
 *
 * A training may report at every step for weeks, and a curve has no use for more points than a
 * screen has columns. So there are at most STORE_POINTS_MAX of a name, evenly spread over its
 * steps: of steps that agree but for the lowest `shift` bits the newest stays, and `shift` grows
 * when there are too many. A run that is replayed finds its points, and changes none. */
#include "daemon/store/internal.h"

#include "daemon/base/stats.h"

/* No step has more bits. */
#define SHIFT_MAX 62

struct points_log {
    int64_t log_id, shift, points;
};

/* SQLITE_DONE: it would be one name too many. */
static int points_find(const struct store_writer *writer, int64_t run_id, const char *name,
                       struct points_log *ret_log)
{
    struct sql_query query = query_begin(writer->sql, STATEMENT_GET_LOG);
    query_i64(&query, run_id);
    query_text(&query, name);
    int code = query_row(&query);
    if (code == SQLITE_ROW) {
        *ret_log = (struct points_log){sqlite3_column_int64(query.statement, 0),
                                       sqlite3_column_int64(query.statement, 1),
                                       sqlite3_column_int64(query.statement, 2)};
    }
    query_end(&query);
    if (code != SQLITE_DONE) {
        return code == SQLITE_ROW ? SQLITE_OK : code;
    }
    *ret_log = (struct points_log){.points = 0};
    query = query_begin(writer->sql, STATEMENT_PUT_LOG);
    query_i64(&query, run_id);
    query_text(&query, name);
    query_i64(&query, STORE_NAMES_MAX);
    return query_number(&query, &ret_log->log_id);
}

/* Adds to *points the rows that a statement has added or, with -1, removed. */
static int points_run(const struct store_writer *writer, struct sql_query *query, int sign,
                      int64_t *points)
{
    int code = query_run(query);
    if (code == SQLITE_OK) {
        *points += (int64_t)sign * sqlite3_changes(writer->sql->db);
    }
    return code;
}

static int points_put(const struct store_writer *writer, struct points_log *log,
                      const struct store_point *point)
{
    uint64_t bits = (UINT64_C(1) << log->shift) - 1;
    struct sql_query query = query_begin(writer->sql, STATEMENT_DROP_POINTS);
    query_i64(&query, log->log_id);
    query_u64(&query, point->step & ~bits);
    query_u64(&query, point->step);
    int code = points_run(writer, &query, -1, &log->points);
    if (code != SQLITE_OK) {
        return code;
    }
    query = query_begin(writer->sql, STATEMENT_PUT_POINT);
    query_i64(&query, log->log_id);
    query_u64(&query, point->step);
    query_u64(&query, point->epoch);
    query_u64(&query, point->time_ns);
    query_f64(&query, point->value);
    query_u64(&query, point->step | bits);
    return points_run(writer, &query, 1, &log->points);
}

int points_write(const struct store_writer *writer, int64_t run_id, const struct store_point *point)
{
    struct points_log log;
    int code = points_find(writer, run_id, point->name, &log);
    if (code == SQLITE_DONE) {
        stats_add(writer->stats, COUNT_LOG_REFUSED, 1);
        return SQLITE_OK;
    }
    if (code != SQLITE_OK || log.shift < 0 || log.shift > SHIFT_MAX) {
        return code;
    }
    const struct points_log before = log;
    code = points_put(writer, &log, point);
    while (code == SQLITE_OK && log.points > STORE_POINTS_MAX && log.shift < SHIFT_MAX) {
        log.shift++;
        struct sql_query query = query_begin(writer->sql, STATEMENT_JOIN_POINTS);
        query_i64(&query, log.log_id);
        query_i64(&query, (INT64_C(1) << log.shift) - 1);
        code = points_run(writer, &query, -1, &log.points);
    }
    if (code != SQLITE_OK || (log.points == before.points && log.shift == before.shift)) {
        return code;
    }
    struct sql_query query = query_begin(writer->sql, STATEMENT_SET_LOG);
    query_i64(&query, log.points);
    query_i64(&query, log.shift);
    query_i64(&query, log.log_id);
    return query_run(&query);
}
