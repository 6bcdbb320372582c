/* SPDX-License-Identifier: MIT */
/* Totals are counted when a file is opened, and kept from then on: a status costs no scan. They
 * change after a commit only, as do `lost` and the id.
 *
 * Every opening of a file but its first leaves numbers out, up to the time of day in nanoseconds:
 * two lives of one history, as one that was restored from a backup has, or one whose last commits
 * were lost with the power, begin at other numbers, and the later one at greater ones. Nothing of
 * this has to be known of the life before, nor to be on the disk when the first row is sent.
 *
 * crash_point: outbox_taken, outbox_again and outbox_pruned before their commits. */
#include "daemon/store/outbox.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/store/store_internal.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Rows of one transaction here: nobody waits for more. */
#define SLICE 256
/* Pages and indexes of a row in the file beyond its body, about. */
#define ROW_BYTES 2048
/* In the year 2079. */
#define CLOCK_NS_MAX (COUNT_MAX / 4 * 3)

static int outbox_number(const struct sql *sql, enum statement statement, int64_t *number)
{
    int code = sql_number(sql, statement, NULL, number);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

static int outbox_set(const struct sql *sql, enum statement statement, int64_t number)
{
    return sql_run(sql, statement, SQL(sql_i64(number)));
}

static int outbox_sum(const struct sql *sql, enum statement statement, uint64_t *ret_rows,
                      uint64_t *ret_bytes)
{
    struct sql_query query = query_begin(sql, statement, NULL);
    int code = query_row(&query);
    if (code == SQLITE_ROW) {
        *ret_rows = column_u64(query.statement, 0);
        *ret_bytes = column_u64(query.statement, 1);
    }
    query_end(&query);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

/* Opening */

/* How many numbers to leave out: multiples of FLEET_JUMP. A clock that is behind the numbers, or
 * far from any year of use, says nothing: then it is left to chance, and there is room for millions
 * of times. */
static uint64_t outbox_jump(uint64_t newest)
{
    uint64_t now = clock_wall_ns();
    uint16_t chance = 0;
    if (now < CLOCK_NS_MAX && now > newest + FLEET_JUMP) {
        return (now - newest) / FLEET_JUMP * FLEET_JUMP;
    }
    if (getrandom(&chance, sizeof chance, 0) != (ssize_t)sizeof chance) {
        chance = (uint16_t)now;
    }
    return (UINT64_C(1) + chance) * FLEET_JUMP;
}

static int outbox_begin(const struct sql *sql, int64_t *ret_node, struct outbox_range *ret_skipped)
{
    struct outbox_range skipped = {1, 0};
    int64_t node = 0, newest = 0;
    int code = outbox_number(sql, STATEMENT_GET_NODE, &node);
    bool is_new = code == SQLITE_OK && !node;
    if (is_new) {
        node = 0; /* none */
        while (!node) {
            if (getrandom(&node, sizeof node, 0) != (ssize_t)sizeof node) {
                node = (int64_t)clock_wall_ns();
            }
        }
        code = outbox_set(sql, STATEMENT_SET_NODE, node);
    }
    code = code ? code : sql_run(sql, STATEMENT_BEGIN_SEQ, NULL);
    if (code == SQLITE_OK && !is_new) {
        code = outbox_number(sql, STATEMENT_GET_SEQ, &newest);
    }
    if (code == SQLITE_OK && !is_new) {
        uint64_t jump = outbox_jump((uint64_t)newest);
        skipped = (struct outbox_range){(uint64_t)newest + 1, (uint64_t)newest + jump};
        code = outbox_set(sql, STATEMENT_JUMP_SEQ, (int64_t)jump);
    }
    *ret_node = node;
    *ret_skipped = skipped;
    return code;
}

int outbox_open(struct store *store)
{
    struct outbox *outbox = &store->outbox;
    const struct sql *sql = &store->db.sql;
    struct outbox_totals totals = {0};
    struct outbox_range skipped;
    int64_t node = 0, lost = 0;
    if (!outbox->on || outbox->is_open) {
        return SQLITE_OK;
    }
    int code = db_mark(&store->db);
    code = code ? code : sql_begin(sql);
    code = code ? code : sql_end(sql, outbox_begin(sql, &node, &skipped));
    code = code ? code : outbox_number(sql, STATEMENT_GET_OUTBOX_LOST, &lost);
    code = code ? code : outbox_sum(sql, STATEMENT_SUM_OUTBOX, &totals.rows, &totals.bytes);
    code =
        code ? code : outbox_sum(sql, STATEMENT_SUM_UNSENT, &totals.unsent, &totals.unsent_bytes);
    if (code != SQLITE_OK) {
        return code;
    }
    outbox->is_open = true;
    outbox->opened++;
    outbox->totals = totals;
    outbox->skipped_first = skipped.first;
    outbox->skipped_last = skipped.last;
    outbox->lost = (uint64_t)lost;
    for (int i = 0; i < FLEET_ID_BYTES; i++) {
        outbox->node[i] = (uint8_t)((uint64_t)node >> (8 * (FLEET_ID_BYTES - 1 - i)));
    }
    if (outbox->wake) {
        outbox->wake(outbox->data);
    }
    return SQLITE_OK;
}

void outbox_add(struct store *store, const struct outbox_totals *added)
{
    struct outbox_totals *totals = &store->outbox.totals;
    totals->rows += added->rows;
    totals->bytes += added->bytes;
    totals->unsent += added->rows;
    totals->unsent_bytes += added->bytes;
    if (store->outbox.wake) {
        store->outbox.wake(store->outbox.data);
    }
}

uint64_t outbox_file_bytes(const struct store *store)
{
    return store->outbox.totals.bytes + ROW_BYTES * store->outbox.totals.rows;
}

void outbox_set_wake(struct store *store, void (*wake)(void *data), void *data)
{
    pthread_mutex_lock(&store->db_lock);
    store->outbox.wake = wake;
    store->outbox.data = data;
    pthread_mutex_unlock(&store->db_lock);
}

/* For the thread that sends */

/* Locks the database; NULL, and not locked, when it is not this opening any more. */
static const struct sql *outbox_lock(struct store *store, uint64_t opened)
{
    const struct outbox *outbox = &store->outbox;
    pthread_mutex_lock(&store->db_lock);
    if (outbox->is_open && outbox->opened == opened && store->db.sql.db && !store_is_off(store)) {
        return &store->db.sql;
    }
    pthread_mutex_unlock(&store->db_lock);
    return NULL;
}

static void outbox_unlock(struct store *store)
{
    pthread_mutex_unlock(&store->db_lock);
}

int outbox_status(struct store *store, struct outbox_status *ret_status)
{
    const struct outbox *outbox = &store->outbox;
    struct outbox_status status = {.opened = 0};
    int code = SQLITE_CANTOPEN;
    pthread_mutex_lock(&store->db_lock);
    if (outbox->is_open && store->db.sql.db && !store_is_off(store)) {
        status.opened = outbox->opened;
        status.rows = outbox->totals.rows;
        status.bytes = outbox->totals.bytes;
        status.unsent = outbox->totals.unsent;
        status.unsent_bytes = outbox->totals.unsent_bytes;
        status.lost = outbox->lost;
        status.trouble = store->told_code ? sqlite3_errstr(store->told_code) : NULL;
        status.skipped = (struct outbox_range){outbox->skipped_first, outbox->skipped_last};
        memcpy(status.node, outbox->node, FLEET_ID_BYTES);
        int64_t now_s = store_clock_stamp(&store->clock);
        int64_t newest = 0, stored = now_s, first = 0;
        code = outbox_number(&store->db.sql, STATEMENT_GET_SEQ, &newest);
        struct sql_query query = query_begin(&store->db.sql, STATEMENT_GET_FIRST_UNSENT, NULL);
        int found = query_row(&query);
        if (found == SQLITE_ROW) {
            first = sqlite3_column_int64(query.statement, 0);
            stored = sqlite3_column_int64(query.statement, 1);
        }
        query_end(&query);
        status.newest = (uint64_t)newest;
        status.taken = first > 0 ? (uint64_t)first - 1 : (uint64_t)newest;
        status.oldest_unsent_s = now_s > stored ? now_s - stored : 0;
        code = found == SQLITE_ROW || found == SQLITE_DONE ? code : found;
    }
    outbox_unlock(store);
    if (code != SQLITE_OK) {
        return ERR_HISTORY_UNREAD;
    }
    *ret_status = status;
    return 0;
}

/* The row that the statement is at. Returns 1 or ERR_MEMORY. */
static int outbox_copy(sqlite3_stmt *statement, struct outbox_row *row)
{
    size_t size = (size_t)sqlite3_column_bytes(statement, 3);
    const void *body = sqlite3_column_blob(statement, 3);
    if (size > row->capacity) {
        uint8_t *grown = realloc(row->body, size);
        if (!grown) {
            return ERR_MEMORY;
        }
        row->body = grown;
        row->capacity = size;
    }
    if (size > 0 && !body) {
        return ERR_MEMORY;
    }
    row->seq = column_u64(statement, 0);
    row->turn = column_u64(statement, 1);
    column_run(statement, 2, row->run);
    row->size = size;
    if (size > 0) {
        memcpy(row->body, body, size);
    }
    return 1;
}

int outbox_next(struct store *store, uint64_t opened, uint64_t after, struct outbox_row *row)
{
    const struct sql *sql = outbox_lock(store, opened);
    if (!sql) {
        return ERR_HISTORY_UNREAD;
    }
    struct sql_query query = query_begin(sql, STATEMENT_GET_NEXT_OUT, SQL(sql_u64(after)));
    int code = query_row(&query), found = code == SQLITE_DONE ? 0 : ERR_HISTORY_UNREAD;
    if (code == SQLITE_ROW) {
        found = outbox_copy(query.statement, row);
    }
    query_end(&query);
    outbox_unlock(store);
    return found;
}

void outbox_row_clear(struct outbox_row *row)
{
    free(row->body);
    *row = (struct outbox_row){.body = NULL};
}

/* Begins a transaction; without it the database is unlocked. Returns whether it is begun. */
static bool outbox_change(struct store *store)
{
    int code = db_mark(&store->db);
    code = code ? code : sql_begin(&store->db.sql);
    if (code != SQLITE_OK) {
        outbox_unlock(store);
    }
    return code == SQLITE_OK;
}

/* Commits unless `code` is an error; then what has been counted holds. Unlocks. Returns whether it
 * is committed. */
static bool outbox_commit(struct store *store, int code, const struct outbox_totals *totals,
                          uint64_t lost)
{
    code = sql_end(&store->db.sql, code);
    if (code == SQLITE_OK) {
        store->outbox.totals = *totals;
        store->outbox.lost = lost;
    }
    outbox_unlock(store);
    return code == SQLITE_OK;
}

int outbox_take(struct store *store, uint64_t opened, const struct outbox_taken *taken,
                size_t count)
{
    const struct sql *sql = outbox_lock(store, opened);
    if (!sql || !outbox_change(store)) {
        return ERR_HISTORY_UNREAD;
    }
    struct outbox_totals totals = store->outbox.totals;
    int64_t now_s = store_clock_stamp(&store->clock);
    int code = SQLITE_OK;
    for (size_t i = 0; i < count && code == SQLITE_OK; i++) {
        int64_t bytes = -1;
        code = sql_number(
            sql, STATEMENT_TAKE_OUT,
            SQL(sql_i64(now_s > 0 ? now_s : 1), sql_u64(taken[i].seq), sql_u64(taken[i].turn)),
            &bytes);
        if (code == SQLITE_OK) {
            totals.unsent--;
            totals.unsent_bytes -= (uint64_t)bytes;
        }
        code = code == SQLITE_DONE ? SQLITE_OK : code; /* it has gone, or is to be sent again */
    }
    crash_point("outbox_taken");
    return outbox_commit(store, code, &totals, store->outbox.lost) ? 0 : ERR_HISTORY_UNREAD;
}

/* Rows of one slice, read before they are changed. */
struct outbox_slice {
    struct {
        uint64_t seq, bytes;
        bool taken;
    } row[SLICE];
    int count;
};

/* Fills the slice with rows, as many as it has room for: the statement's last value. */
static int outbox_read_slice(const struct sql *sql, enum statement statement,
                             const struct sql_value *values, struct outbox_slice *slice)
{
    struct sql_query query = query_begin(sql, statement, values);
    sqlite3_stmt *row = query.statement;
    int code;
    for (slice->count = 0; (code = query_row(&query)) == SQLITE_ROW && slice->count < SLICE;
         slice->count++) {
        slice->row[slice->count].seq = column_u64(row, 0);
        slice->row[slice->count].bytes = column_u64(row, 1);
        slice->row[slice->count].taken = sqlite3_column_int64(row, 2) != 0;
    }
    query_end(&query);
    return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : code;
}

int outbox_again(struct store *store, uint64_t opened, struct outbox_range *range,
                 struct outbox_range *ret_gone, int gone_max)
{
    struct outbox_slice slice;
    int64_t newest = 0;
    int gone = 0;
    const struct sql *sql = outbox_lock(store, opened);
    if (!sql || !outbox_change(store)) {
        return ERR_HISTORY_UNREAD;
    }
    struct outbox_totals totals = store->outbox.totals;
    int code = outbox_number(sql, STATEMENT_GET_SEQ, &newest);
    uint64_t next = range->first > 0 ? range->first : 1;
    uint64_t last = range->last < (uint64_t)newest ? range->last : (uint64_t)newest;
    if (code == SQLITE_OK) {
        code = outbox_read_slice(sql, STATEMENT_EACH_OUT,
                                 SQL(sql_u64(next), sql_u64(last), sql_i64(SLICE)), &slice);
    }
    for (int i = 0; code == SQLITE_OK && i < slice.count; i++) {
        uint64_t seq = slice.row[i].seq;
        if (seq > next && gone == gone_max) {
            last = next - 1; /* the rest in another call */
            break;
        }
        if (seq > next) {
            ret_gone[gone++] = (struct outbox_range){next, seq - 1};
        }
        next = seq + 1;
        if (slice.row[i].taken) {
            code = outbox_set(sql, STATEMENT_AGAIN_OUT, (int64_t)seq);
            totals.unsent++;
            totals.unsent_bytes += slice.row[i].bytes;
        }
    }
    if (code == SQLITE_OK && slice.count < SLICE && next <= last && gone < gone_max) {
        ret_gone[gone++] = (struct outbox_range){next, last};
        next = last + 1;
    }
    bool all = next > (range->last < (uint64_t)newest ? range->last : (uint64_t)newest);
    crash_point("outbox_again");
    if (!outbox_commit(store, code, &totals, store->outbox.lost)) {
        return ERR_HISTORY_UNREAD;
    }
    range->first = all && range->last < UINT64_MAX ? range->last + 1 : next;
    return gone;
}

/* The oldest that may go: taken before a time; or, beyond the bound, taken at all, and last those
 * that were not. */
static int outbox_find_old(const struct sql *sql, int64_t before_s, bool full,
                           struct outbox_slice *slice)
{
    int code = outbox_read_slice(sql, STATEMENT_EACH_OLD_OUT,
                                 SQL(sql_i64(full ? INT64_MAX : before_s), sql_i64(SLICE)), slice);
    if (code == SQLITE_OK && slice->count == 0 && full) {
        code = outbox_read_slice(sql, STATEMENT_EACH_UNSENT_OUT, SQL(sql_i64(SLICE)), slice);
    }
    return code;
}

bool outbox_prune(struct store *store, uint64_t opened, uint64_t keep_s, uint64_t bytes_max)
{
    struct outbox_slice slice;
    const struct sql *sql = outbox_lock(store, opened);
    if (!sql) {
        return false;
    }
    struct outbox_totals totals = store->outbox.totals;
    uint64_t lost = store->outbox.lost;
    bool full = totals.bytes > bytes_max;
    int64_t before_s = 0;
    if (store_clock_is_believed(&store->clock)) {
        before_s = store_clock_stamp(&store->clock) - (int64_t)keep_s;
    }
    int code = outbox_find_old(sql, before_s, full, &slice), removed = 0;
    if (code != SQLITE_OK || slice.count == 0) {
        outbox_unlock(store);
        return false;
    }
    if (!outbox_change(store)) {
        return false;
    }
    for (int i = 0; i < slice.count && code == SQLITE_OK; i++) {
        if (full && totals.bytes <= bytes_max) {
            break;
        }
        code = outbox_set(sql, STATEMENT_DROP_OUT, (int64_t)slice.row[i].seq);
        code = code ? code : outbox_set(sql, STATEMENT_DROP_OUT_BODY, (int64_t)slice.row[i].seq);
        totals.rows--;
        totals.bytes -= slice.row[i].bytes;
        removed++;
        if (!slice.row[i].taken) {
            totals.unsent--;
            totals.unsent_bytes -= slice.row[i].bytes;
            lost++;
        }
    }
    if (code == SQLITE_OK && lost != store->outbox.lost) {
        code = outbox_set(sql, STATEMENT_SET_OUTBOX_LOST, (int64_t)lost);
    }
    crash_point("outbox_pruned");
    return outbox_commit(store, code, &totals, lost) && removed > 0 &&
           (totals.bytes > bytes_max || slice.count == SLICE);
}
