/* SPDX-License-Identifier: MIT */
/* log: the numbers that a training reported itself, such as its loss. The store keeps few enough of
 * them (STORE_POINTS_MAX) to give them all, and `points` asks for fewer. Fewer points keep what a
 * curve is looked at for, its jumps and what is not finite, as the store does (write.c). */
#include "daemon/history/find.h"
#include "daemon/history/params.h"
#include "daemon/store/store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct log_point {
    uint64_t number[3]; /* step, epoch, time_ns */
    double value;       /* NaN: was not finite */
};

/* Returns how many there are, or an error. */
static int log_read(struct query *query, uint64_t log_id, struct log_point *ret_points)
{
    sqlite3_stmt *statement;
    uint64_t from = query->params.from < INT64_MAX ? query->params.from : INT64_MAX;
    int count = 0;
    int code =
        query_open(query,
                   "SELECT step, epoch, time_ns, value FROM log_points WHERE log_id = ?1"
                   " AND step >= ?3 ORDER BY step LIMIT ?2",
                   &statement, SQL(sql_u64(log_id), sql_u64(STORE_POINTS_MAX), sql_u64(from)));
    while (!code && (code = query_next(query, statement)) == 1) {
        struct log_point *point = &ret_points[count++];
        for (int i = 0; i < 3; i++) {
            point->number[i] = column_u64(statement, i);
        }
        point->value = sqlite3_column_type(statement, 3) == SQLITE_NULL
                           ? NAN
                           : sqlite3_column_double(statement, 3);
        code = 0;
    }
    sqlite3_finalize(statement);
    return code ? code : count;
}

/* The points of a bucket that stay, in this order where there is no room for all. */
enum stays { FIRST, LAST, FIRST_BROKEN, LARGEST, SMALLEST, LAST_BROKEN, STAYS_COUNT };

static void log_find_stays(const struct log_point *points, uint32_t from, uint32_t to,
                           uint32_t ret_stays[STAYS_COUNT])
{
    uint32_t *stays = ret_stays;
    for (int i = 0; i < STAYS_COUNT; i++) {
        stays[i] = from;
    }
    stays[LAST] = to - 1;
    bool any = false, any_broken = false;
    for (uint32_t i = from; i < to; i++) {
        double value = points[i].value;
        if (!isfinite(value)) {
            stays[FIRST_BROKEN] = any_broken ? stays[FIRST_BROKEN] : i;
            stays[LAST_BROKEN] = i;
            any_broken = true;
        } else {
            stays[LARGEST] = any && value <= points[stays[LARGEST]].value ? stays[LARGEST] : i;
            stays[SMALLEST] = any && value >= points[stays[SMALLEST]].value ? stays[SMALLEST] : i;
            any = true;
        }
    }
}

/* Marks those that stay of each of as many buckets, at most `most` of one. Returns how many. */
static uint32_t log_mark(const struct log_point *points, uint32_t count, uint32_t buckets,
                         uint64_t most, bool *ret_marked)
{
    uint32_t marked = 0;
    memset(ret_marked, 0, count * sizeof *ret_marked);
    for (uint32_t b = 0; b < buckets; b++) {
        uint32_t stays[STAYS_COUNT], from = (uint32_t)((uint64_t)b * count / buckets);
        log_find_stays(points, from, (uint32_t)((uint64_t)(b + 1) * count / buckets), stays);
        uint64_t here = 0;
        for (int i = 0; i < STAYS_COUNT && here < most; i++) {
            here += !ret_marked[stays[i]];
            ret_marked[stays[i]] = true;
        }
        marked += (uint32_t)here;
    }
    return marked;
}

/* Where the question limits them, leaves as the store does the first, last, smallest and largest of
 * each of some buckets, and the first and last that are not finite. Returns how many. */
static uint32_t choose_points(const struct query *query, struct log_point *points, uint32_t count)
{
    uint64_t most = query->params.points;
    bool marked[STORE_POINTS_MAX];
    if (!(query->params.given & PARAM_POINTS) || count <= most) {
        return count;
    }
    /* As many buckets as there is room for; of one those that come first in the order. */
    uint32_t buckets = 1, too_many = (uint32_t)most;
    while (too_many - buckets > 1) {
        uint32_t middle = buckets + (too_many - buckets) / 2;
        if (log_mark(points, count, middle, most, marked) <= most) {
            buckets = middle;
        } else {
            too_many = middle;
        }
    }
    log_mark(points, count, buckets, most, marked);
    uint32_t left = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (marked[i]) {
            points[left++] = points[i];
        }
    }
    return left;
}

int history_log(struct query *query)
{
    struct found_run run;
    sqlite3_stmt *statement;
    int code = find_run(query, query->params.job, query->params.run, &run);
    if (code) {
        return code;
    }
    struct log_point *points = calloc(STORE_POINTS_MAX, sizeof *points);
    if (!points) {
        return ERR_MEMORY;
    }
    /* The names in the order in which they were first reported. */
    code = query_open(query,
                      "SELECT log_id, name FROM logs WHERE run_id = ?1 ORDER BY log_id"
                      " LIMIT ?2",
                      &statement, SQL(sql_u64(run.id), sql_u64(STORE_NAMES_MAX)));
    mpk_put_map(query->result, 3);
    put_run(query, &run);
    struct mpk_open series = mpk_open(query->result, "series");
    while (!code && (code = query_next(query, statement)) == 1) {
        int found = log_read(query, column_u64(statement, 0), points);
        code = found < 0 ? found : 0;
        if (!code) {
            uint32_t count = choose_points(query, points, (uint32_t)found);
            static const char *const keys[] = {"step", "epoch", "time_ns"};
            mpk_put_map(query->result, 5);
            put_text(query, "name", column_text(statement, 1));
            for (int i = 0; i < 3; i++) {
                mpk_pair_array(query->result, keys[i], count);
                for (uint32_t p = 0; p < count; p++) {
                    mpk_put_u64(query->result, points[p].number[i]);
                }
            }
            mpk_pair_array(query->result, "value", count);
            for (uint32_t p = 0; p < count; p++) {
                mpk_put_f64(query->result, points[p].value);
            }
        }
    }
    mpk_close_array(query->result, &series);
    sqlite3_finalize(statement);
    free(points);
    return code;
}
