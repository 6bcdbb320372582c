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
    struct sql_query query =
        query_begin(writer->sql, STATEMENT_GET_LOG, SQL(sql_i64(run_id), sql_text(name)));
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
    return sql_number(writer->sql, STATEMENT_PUT_LOG,
                      SQL(sql_i64(run_id), sql_text(name), sql_i64(STORE_NAMES_MAX)),
                      &ret_log->log_id);
}

/* Adds to *points the rows that a statement has added or, with -1, removed. */
static int points_run(const struct store_writer *writer, enum statement statement,
                      const struct sql_value *values, int sign, int64_t *points)
{
    int code = sql_run(writer->sql, statement, values);
    if (code == SQLITE_OK) {
        *points += (int64_t)sign * sqlite3_changes(writer->sql->db);
    }
    return code;
}

static int points_put(const struct store_writer *writer, struct points_log *log,
                      const struct store_point *point)
{
    uint64_t bits = (UINT64_C(1) << log->shift) - 1;
    int code =
        points_run(writer, STATEMENT_DROP_POINTS,
                   SQL(sql_i64(log->log_id), sql_u64(point->step & ~bits), sql_u64(point->step)),
                   -1, &log->points);
    if (code != SQLITE_OK) {
        return code;
    }
    return points_run(writer, STATEMENT_PUT_POINT,
                      SQL(sql_i64(log->log_id), sql_u64(point->step), sql_u64(point->epoch),
                          sql_u64(point->time_ns), sql_f64(point->value),
                          sql_u64(point->step | bits)),
                      1, &log->points);
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
        code = points_run(writer, STATEMENT_JOIN_POINTS,
                          SQL(sql_i64(log.log_id), sql_i64((INT64_C(1) << log.shift) - 1)), -1,
                          &log.points);
    }
    if (code != SQLITE_OK || (log.points == before.points && log.shift == before.shift)) {
        return code;
    }
    return sql_run(writer->sql, STATEMENT_SET_LOG,
                   SQL(sql_i64(log.points), sql_i64(log.shift), sql_i64(log.log_id)));
}
