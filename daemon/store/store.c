/* SPDX-License-Identifier: MIT */
/* A batch's way: store_submit queues it. The thread waits until the oldest has waited for
 * history.commit, or COMMIT_BYTES or PROMISES_WORTH have come together, takes all of them, writes
 * them in one transaction, frees them, and counts them as stored or dropped. The memory of a batch
 * counts against its share of ingest.budget until it is freed.
 *
 * After each commit there is time for the rest: chunks of layers that have windows enough, thinning
 * out their states, retention, moving the log into the database. Each is a transaction of its own;
 * when TURN_NS is over, or enough is queued, the next commit comes first. None of it is lost by
 * putting it off.
 *
 * Trouble: a corrupt database is repaired, or replaced (db_replace), and the batches in hand are
 * written to the new one. With any other error (a full disk) they are dropped, and the next ones
 * are tried again; but those with something that was promised wait, with all behind them, until
 * there is room; when attnd ends they are tried once more. When a new database cannot be had,
 * history is off until attnd starts again.
 *
 * crash_point: store_begin, store_before_commit, store_after_commit; store_chunk, store_retention
 * and store_deleting before their commits. */
#include "daemon/store/store.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/grow.h"
#include "proto/err.h"
#include "daemon/base/log.h"
#include "daemon/store/store_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TURN_NS      UINT64_C(250000000)
#define AGE_EVERY_NS UINT64_C(60000000000)
/* The log is moved into the database, which is when the disk is waited for, when it has LOG_PAGES
 * or after LOG_EVERY_NS: a power failure costs no more. */
#define LOG_PAGES    4096
#define LOG_EVERY_NS UINT64_C(10000000000)

/* Off */

static void set_off(struct store *store, const char *event)
{
    log_event(LOG_ERROR, event, LOG_STR("reason", store->reason));
    atomic_store_explicit(&store->off, true, memory_order_release);
}

const char *store_path(const struct store *store, const char **ret_reason)
{
    if (!store_is_off(store)) {
        return store->db.path;
    }
    *ret_reason = store->reason;
    return NULL;
}

uint64_t store_lost(const struct store *store)
{
    return atomic_load(&store->lost) + stats_get(store->stats, COUNT_STORE_REPLACED);
}

/* Batches at their end */

/* Takes out of the list those that are held: they wait for the disk, or, at the end, are tried a
 * second time. */
static struct store_batch *store_take_held(struct store_batch **batches, bool stopping)
{
    struct store_batch *held = NULL, **end = &held;
    while (*batches) {
        struct store_batch *batch = *batches;
        if (!batch->held || (stopping && batch->tried)) {
            batches = &batch->next;
            continue;
        }
        *batches = batch->next;
        batch->tried = true;
        batch->next = NULL;
        *end = batch;
        end = &batch->next;
    }
    return held;
}

/* Committing */

/* Layers and tracks are remembered until their chunk is made. Out of memory it is forgotten: it
 * comes again with more windows. */
static void store_on_full(void *data, struct store_place which)
{
    struct store *store = data;
    if (grow(&store->full, store->full_count, &store->full_capacity, sizeof *store->full)) {
        store->full[store->full_count++] = which;
    }
}

static int store_write_all(struct store *store, const struct store_batch *batches)
{
    struct outbox_totals out = {0};
    const struct store_writer writer = {
        &store->db.sql, store_clock_stamp(&store->clock), store->stats, store_on_full, store, &out};
    uint64_t began_ns = clock_thread_ns();
    bool windows = false;
    int code = sql_begin(&store->db.sql);
    if (code != SQLITE_OK) {
        return code;
    }
    crash_point("store_begin");
    for (const struct store_batch *b = batches; b && code == SQLITE_OK; b = b->next) {
        code = write_batch(&writer, b);
        windows = windows || b->precious;
    }
    code = code ? code : store_clock_note(&store->clock, &store->db.sql, windows);
    crash_point("store_before_commit");
    code = sql_end(&store->db.sql, code);
    crash_point("store_after_commit");
    if (code == SQLITE_OK && out.rows > 0) {
        outbox_add(store, &out);
    }
    atomic_fetch_add(&store->saving_ns, windows ? 0 : clock_thread_ns() - began_ns);
    return code;
}

/* After the database has been opened. */
static void store_on_open(struct store *store)
{
    store->full_count = 0;
    /* Finds what was not chunked when attnd stopped; the rest comes again with more windows. */
    struct sql_query query =
        query_begin(&store->db.sql, STATEMENT_EACH_RECENT, SQL(sql_u64(chunk_windows(1))));
    while (query_row(&query) == SQLITE_ROW) {
        store_on_full(store, (struct store_place){sqlite3_column_int64(query.statement, 0),
                                                  sqlite3_column_int64(query.statement, 1)});
    }
    query_end(&query);
    int code = store_clock_open(&store->clock, &store->db.sql, store->trust_clock);
    if (code != SQLITE_OK) {
        log_event(LOG_WARNING, "history_clock_unknown", LOG_STR("reason", sqlite3_errstr(code)));
    }
    store->size_due = true; /* the bound may have been lowered */
    int64_t hidden;
    store->hidden_due =
        sql_number(&store->db.sql, STATEMENT_GET_HIDDEN_RUN, NULL, &hidden) == SQLITE_OK;
    store->outbox.is_open = false;
    code = outbox_open(store);
    if (code != SQLITE_OK) {
        log_event(LOG_WARNING, "outbox_not_open", LOG_STR("reason", sqlite3_errstr(code)));
    }
}

static void store_count_replaced(struct store *store, uint64_t times)
{
    stats_add(store->stats, COUNT_STORE_REPLACED, times);
    stats_add(store->stats, COUNT_STORE_UNREADABLE, store->db.lost_windows);
    store->db.lost_windows = 0;
}

/* Runs that go on save everything anew: COUNT_STORE_REPLACED tells them. */
static void store_begin_anew(struct store *store)
{
    store_count_replaced(store, 1);
    atomic_store(&store->damage, DAMAGE_NONE);
    store_on_open(store);
}

/* Another database in place of a corrupt one. Returns whether there is one. */
static bool store_replace(struct store *store)
{
    if (db_replace(&store->db, store->reason)) {
        set_off(store, "history_lost");
        return false;
    }
    store_begin_anew(store);
    return true;
}

/* Somebody removed the file, or put another one in its place: what is written to the old one nobody
 * would see again. The file that is there now may be of no use, or there may be no room for a new
 * one: then that is trouble, and it is tried again. Returns an SQLite code. */
static int look_for_file(struct store *store)
{
    char reason[STORE_REASON_MAX];
    bool is_open = store->db.sql.db;
    if (is_open && !db_is_gone(store->db.sql.db)) {
        return SQLITE_OK;
    }
    if (is_open) {
        log_event(LOG_ERROR, "history_gone", LOG_STR("path", store->db.path),
                  LOG_STR("reason", "the file was removed or replaced; a new one is begun, or the "
                                    "one that is there goes on"));
    }
    if (db_reopen(&store->db, reason)) {
        if (is_open) {
            log_event(LOG_ERROR, "history_not_begun", LOG_STR("reason", reason));
        }
        return SQLITE_CANTOPEN;
    }
    store_begin_anew(store);
    return SQLITE_OK;
}

/* Damage that somebody met who reads. */
static void store_repair(struct store *store)
{
    char reason[STORE_REASON_MAX] = "that was tried before";
    bool again = store->repaired;
    store->repaired = true;
    if (!again && store->db.sql.db && !db_repair(&store->db, reason)) {
        store_begin_anew(store);
        return;
    }
    log_event(LOG_ERROR, "history_not_repaired", LOG_STR("reason", reason));
    atomic_store(&store->damage, DAMAGE_STAYS);
}

static void count_written(struct store *store, uint64_t records)
{
    stats_add(store->stats, COUNT_STORED, records);
    store->size_due = true;
    room_found(store, records > 0);
}

/* Returns an SQLite code. */
static int store_commit(struct store *store, const struct store_batch *batches)
{
    bool believed = store_clock_is_believed(&store->clock);
    int code = look_for_file(store);
    if (code != SQLITE_OK) {
        return code;
    }
    code = db_mark(&store->db);
    code = code ? code : outbox_open(store);
    code = code ? code : store_write_all(store, batches);
    store->age_due = store->age_due || (!believed && store_clock_is_believed(&store->clock));
    if (code != store->trouble && db_is_corrupt(&store->db, code) && store_replace(store)) {
        code = store_write_all(store, batches);
    }
    return code;
}

/* The rest */

static int make_chunk(struct store *store)
{
    struct store_place which = store->full[0];
    struct chunk_made made;
    int code = chunk_make(&store->db.sql, which, &made);
    if (made.unreadable) {
        log_event(LOG_WARNING, "history_state_unreadable", LOG_NUM("windows", made.unreadable));
        store_note_damage(store);
    }
    bool thinned = code == SQLITE_OK && made.windows;
    while (thinned && code == SQLITE_OK) {
        code = chunk_thin(&store->db.sql, which, store->keep_states, &thinned);
    }
    if (code != SQLITE_OK || !made.more) {
        memmove(store->full, store->full + 1, --store->full_count * sizeof *store->full);
    }
    return code;
}

static int retain(struct store *store, bool *due,
                  int (*step)(const struct sql *, const struct retention_rule *, int64_t,
                              struct retention_done *))
{
    struct retention_done done;
    store->rule.apart = outbox_file_bytes(store);
    int code = step(&store->db.sql, &store->rule, store_clock_stamp(&store->clock), &done);
    *due = code == SQLITE_OK && done.more;
    if (code == SQLITE_OK) {
        stats_add(store->stats, COUNT_STORE_REMOVED, done.windows);
    }
    return code;
}

static bool is_log_due(const struct store *store, uint64_t now)
{
    return store->db.log_pages >= LOG_PAGES ||
           (store->db.log_pages > 0 && now >= store->log_next_ns);
}

static bool is_room_due(const struct store *store, uint64_t now)
{
    return store->trouble != SQLITE_OK && !store_is_off(store) && now >= store->room_next_ns;
}

/* Returns whether there was something to do. */
static bool store_do_one(struct store *store, uint64_t now)
{
    int code;
    if (is_room_due(store, now)) {
        /* The disk was full, or failed: is there room again? Nobody may have anything to write. */
        code = look_for_file(store);
        code = code ? code : db_try_room(&store->db, (int64_t)store->trouble_bytes);
        if (code == SQLITE_OK) {
            count_written(store, 0);
        } else {
            room_tell_wait(store);
        }
    } else if (!store->db.sql.db) {
        return false;
    } else if (is_log_due(store, now)) {
        store->log_next_ns = now + LOG_EVERY_NS;
        code = db_checkpoint(&store->db);
    } else if (store->full_count > 0) {
        code = make_chunk(store);
    } else if (store->hidden_due) {
        code = retain(store, &store->hidden_due, retention_of_hidden);
    } else if (store->size_due) {
        code = retain(store, &store->size_due, retention_by_size);
    } else if (store->age_due) {
        code = retain(store, &store->age_due, retention_by_age);
    } else {
        return false;
    }
    /* An error of what can wait is left to the next commit to report, unless the file is at fault.
     */
    if (store->db.sql.db && db_is_corrupt(&store->db, code)) {
        store_replace(store);
    }
    return true;
}

/* Returns whether there is more. */
static bool store_do_rest(struct store *store)
{
    uint64_t now = clock_monotonic_ns(), end = now + TURN_NS;
    if (now >= store->age_next_ns) {
        store->age_due = store_clock_is_believed(&store->clock);
        store->age_next_ns = now + AGE_EVERY_NS;
    }
    room_tell_end(store, now);
    for (; store_do_one(store, now); now = clock_monotonic_ns()) {
        pulse_beat(&store->pulse);
        if (now >= end || store_is_busy(store)) {
            return true;
        }
    }
    return false;
}

/* The thread */

/* Queue locked: batches wait for the disk to have room again. Whoever stops does not. */
static bool store_waits_for_disk(const struct store *store)
{
    return store->queue.first && store->queue.first->tried && store->trouble != SQLITE_OK &&
           !store->stopping && !store_is_off(store);
}

/* Queue locked: takes what is due, as much as one transaction should have, or NULL. */
static struct store_batch *take_due(struct store *store, uint64_t now)
{
    if (!store->queue.first || store_waits_for_disk(store) ||
        (!store->stopping && !store_is_enough(store) &&
         now < store->queue.first->queued_ns + store->commit_ns)) {
        return NULL;
    }
    struct store_batch *taken = store->queue.first, *end = taken;
    uint64_t bytes = end->bytes, promised = end->promises.bytes;
    store->changes -= end->is_change;
    while (end->next && bytes < COMMIT_BYTES) {
        end = end->next;
        bytes += end->bytes;
        promised += end->promises.bytes;
        store->changes -= end->is_change;
    }
    store->promised_bytes -= promised;
    store->queue.first = end->next;
    if (!end->next) {
        store->queue.last = &store->queue.first;
    }
    end->next = NULL;
    store->queued_bytes -= bytes;
    store->writing = taken;
    return taken;
}

/* Errors that go away: with others a batch would never be written, and hold up all behind it. */
static bool store_may_recover(int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_NOMEM:
    case SQLITE_PERM:
        return true;
    default:
        return false;
    }
}

/* The database locked: commits, frees and counts, in this order, so that a reader of the count
 * finds room in the queue. */
static void store_finish(struct store *store, struct store_batch *taken)
{
    int code = store_is_off(store) ? SQLITE_CANTOPEN : store_commit(store, taken);
    bool off = store_is_off(store);
    bool waits = code != SQLITE_OK && !off && store_may_recover(code);
    pthread_mutex_lock(&store->lock);
    struct store_batch *held = waits ? store_take_held(&taken, store->stopping) : NULL;
    change_finish(store, taken, off ? SQLITE_CANTOPEN : code);
    store->writing = NULL; /* whoever looks for a run finds it in the queue, or in the database */
    if (held) {
        /* Queue locked: they are the oldest again. */
        struct store_batch **end = &held;
        for (; *end; end = &(*end)->next) {
            store->queued_bytes += (*end)->bytes;
            store->promised_bytes += (*end)->promises.bytes;
        }
        *end = store->queue.first;
        store->queue.first = held;
        if (!*end) {
            store->queue.last = end;
        }
    }
    pthread_mutex_unlock(&store->lock);
    /* `code` is 0 when their promises are kept, or nobody can ever keep them. */
    uint64_t records = 0, bytes = 0;
    for (struct store_batch *batch = taken; batch && store->settle; batch = batch->next) {
        if (batch->promises.first) {
            promises_mark(&batch->promises, code == SQLITE_OK || off ? 0 : ERR_AGAIN);
            store->settle(store->settle_data, &batch->promises);
        }
    }
    while (taken) {
        struct store_batch *next = taken->next;
        store->hidden_due = store->hidden_due || taken->drops;
        records += taken->records;
        bytes += taken->bytes;
        if (code != SQLITE_OK) {
            room_drop(store, taken);
        }
        batch_free(&taken);
        taken = next;
    }
    pthread_mutex_lock(&store->lock);
    store->held_bytes -= bytes;
    pthread_mutex_unlock(&store->lock);
    if (code == SQLITE_OK) {
        count_written(store, records);
    } else {
        room_lost(store, records, bytes, code);
    }
}

/* When the next thing is to be done that does not come with a batch. The log has pages only after
 * something was written, so an idle attnd wakes up for its age alone. */
static uint64_t next_time(const struct store *store)
{
    uint64_t next = atomic_load(&store->damage) == DAMAGE_MET ? 0 : store->age_next_ns;
    if (store->db.log_pages > 0 && store->log_next_ns < next) {
        next = store->log_next_ns;
    }
    if (room_next(store) < next) {
        next = room_next(store);
    }
    return next;
}

static void *store_main(void *data)
{
    struct store *store = data;
    bool more = true; /* what became too old while attnd was not running */
    pthread_setname_np(pthread_self(), "attnd-store");
    pthread_mutex_lock(&store->lock);
    while (!store->stopping || store->queue.first) {
        pulse_beat(&store->pulse);
        uint64_t now = clock_monotonic_ns();
        struct store_batch *taken = take_due(store, now);
        if (taken || more || now >= next_time(store)) {
            pthread_mutex_unlock(&store->lock);
            stall_point("store");
            pthread_mutex_lock(&store->db_lock);
            if (atomic_load(&store->damage) == DAMAGE_MET) {
                store_repair(store);
            }
            if (taken) {
                store_finish(store, taken);
            }
            more = store_do_rest(store);
            pthread_mutex_unlock(&store->db_lock);
            pthread_mutex_lock(&store->lock);
        } else {
            /* Queue locked. */
            uint64_t when = next_time(store);
            if (store->queue.first && !store_waits_for_disk(store) &&
                store->queue.first->queued_ns + store->commit_ns < when) {
                when = store->queue.first->queued_ns + store->commit_ns;
            }
            const struct timespec until = {.tv_sec = (time_t)(when / 1000000000),
                                           .tv_nsec = (long)(when % 1000000000)};
            pthread_cond_timedwait(&store->wake, &store->lock, &until);
        }
    }
    pthread_mutex_unlock(&store->lock);
    room_tell_stop(store);
    return NULL;
}

/* Start and end */

static int store_ends_repair(void *data)
{
    struct store *store = data;
    pulse_beat(&store->pulse);
    pthread_mutex_lock(&store->lock);
    int ends = store->stopping;
    pthread_mutex_unlock(&store->lock);
    return ends;
}

static int store_start(struct store *store, const struct config *config)
{
    if (db_open(&store->db, config->history_path.text, store->reason)) {
        return -1;
    }
    store_count_replaced(store, store->db.corrupt);
    store->db.ends = store_ends_repair;
    store->db.ends_data = store;
    store_on_open(store);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&store->thread, NULL, store_main, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    store->thread_runs = rc == 0;
    if (rc) {
        snprintf(store->reason, sizeof store->reason, "its thread cannot be started: %s",
                 strerror(rc));
        db_close(&store->db);
    }
    return rc ? -1 : 0;
}

int store_new(const struct config *config, struct stats *stats, struct store **ret_store)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store) {
        return ERR_MEMORY;
    }
    store->commit_ns = config->history_commit;
    store->queue_bytes = config_records_bytes(config);
    store->keep_states = config->history_states;
    store->rule = (struct retention_rule){.age_s = config->history_max_age / 1000000000,
                                          .bytes = config->history_max_size};
    store->trust_clock = config->history_trust_clock;
    store->stats = stats;
    store->outbox.on = config->fleet_role != CONFIG_ROLE_OFF; /* a hub asks for the id */
    store->queue.last = &store->queue.first;
    store->db.lock = -1;
    /* Threads meet through these; they cannot fail for default attributes on Linux. */
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&store->wake, &attributes);
    pthread_cond_init(&store->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->db_lock, NULL);
    if (!config->history_enabled) {
        snprintf(store->reason, sizeof store->reason, "history.enabled is false");
        atomic_store(&store->off, true);
    } else if (store_start(store, config)) {
        set_off(store, "history_off");
    } else {
        log_event(LOG_INFO, "history_open", LOG_STR("path", store->db.path));
    }
    *ret_store = store;
    return 0;
}

const struct pulse *store_pulse(const struct store *store)
{
    return store->thread_runs ? &store->pulse : NULL;
}

void store_free(struct store **store_p)
{
    struct store *store = *store_p;
    if (!store) {
        return;
    }
    pthread_mutex_lock(&store->lock);
    store->stopping = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
    if (store->thread_runs) {
        pthread_join(store->thread, NULL);
    }
    db_close_reader(&store->reader);
    store->db.is_damaged = atomic_load(&store->damage) != DAMAGE_NONE;
    db_close(&store->db);
    free(store->full);
    pthread_cond_destroy(&store->wake);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->db_lock);
    free(store);
    *store_p = NULL;
}
