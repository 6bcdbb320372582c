/* SPDX-License-Identifier: MIT */
/* A disk that is full lets small transactions through while large ones fail, so trouble comes and
 * goes. The log has it once: its end is told after a calm, which doubles each time that trouble was
 * back soon. */
#include "daemon/store/store_internal.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"

#include <stdio.h>
#include <string.h>

/* How often a disk that was full is tried, and with how many bytes at most. */
#define ROOM_EVERY_NS  UINT64_C(1000000000)
#define ROOM_BYTES_MAX (UINT64_C(1) << 20)
/* How long there is no trouble before it is over. */
#define TRIED_CALMS 5 /* and if nothing has been written yet */
#define CALM_MIN_NS UINT64_C(1000000000)
#define CALM_MAX_NS UINT64_C(600000000000)

void room_drop(struct store *store, const struct store_batch *batch)
{
    struct room_run *runs = store->trouble_run;
    uint32_t i = 0;
    while (i < store->trouble_runs && (memcmp(runs[i].run, batch->run_id, RUN_BYTES) != 0 ||
                                       strcmp(runs[i].job, batch->job) != 0)) {
        i++;
    }
    if (i == STORE_ROOM_RUNS) {
        return;
    }
    if (i == store->trouble_runs) {
        store->trouble_runs++;
        runs[i] = (struct room_run){.windows = 0};
        snprintf(runs[i].job, sizeof runs[i].job, "%s", batch->job);
        memcpy(runs[i].run, batch->run_id, RUN_BYTES);
    }
    runs[i].records += batch->records;
    for (const struct record *r = batch->first; r; r = r->next) {
        runs[i].windows += r->kind == RECORD_WINDOW;
    }
}

/* The trouble is over, or attnd ends. */
static void room_tell_dropped(struct store *store)
{
    for (uint32_t i = 0; i < store->trouble_runs; i++) {
        const struct room_run *run = &store->trouble_run[i];
        char hex[2 * RUN_BYTES + 1];
        run_hex(run->run, hex);
        log_event(LOG_WARNING, "history_not_written", LOG_STR("job", run->job), LOG_STR("run", hex),
                  LOG_NUM("windows", run->windows), LOG_NUM("records", run->records));
    }
    store->told_code = SQLITE_OK;
    store->trouble_dropped = 0;
    store->trouble_runs = 0;
}

void room_tell_end(struct store *store, uint64_t now)
{
    if (store->told_code != SQLITE_OK && store->trouble == SQLITE_OK &&
        now >= store->calm_until_ns) {
        log_event(LOG_WARNING, "history_recovered", LOG_NUM("dropped", store->trouble_dropped));
        room_tell_dropped(store);
    }
}

void room_tell_stop(struct store *store)
{
    room_tell_end(store, UINT64_MAX);
    if (store->told_code != SQLITE_OK) {
        log_event(LOG_ERROR, "history_not_recovered", LOG_STR("path", store->db.path),
                  LOG_STR("reason", sqlite3_errstr(store->trouble)),
                  LOG_NUM("dropped", store->trouble_dropped));
        room_tell_dropped(store);
    }
}

const char *store_trouble(const struct store *store)
{
    int code = atomic_load(&store->trouble);
    return code == SQLITE_OK ? NULL : sqlite3_errstr(code);
}

void room_tell_wait(struct store *store)
{
    store->room_next_ns = clock_monotonic_ns() + ROOM_EVERY_NS;
    if (store->wait) {
        store->wait(store->wait_data, store_trouble(store));
    }
}

void room_lost(struct store *store, uint64_t records, uint64_t bytes, int code)
{
    store->trouble_dropped += records;
    if (store->told_code == SQLITE_OK) {
        uint64_t now = clock_monotonic_ns();
        bool is_back = store->calm_ns > 0 && now < store->calm_until_ns + CALM_MAX_NS;
        uint64_t longer = 2 * store->calm_ns;
        store->calm_ns = !is_back ? CALM_MIN_NS : longer < CALM_MAX_NS ? longer : CALM_MAX_NS;
        store->told_code = code;
        log_event(LOG_ERROR, "history_trouble", LOG_STR("path", store->db.path),
                  LOG_STR("reason", sqlite3_errstr(code)), LOG_NUM("code", (uint64_t)code));
    }
    store->trouble = code;
    store->trouble_bytes = bytes < ROOM_BYTES_MAX ? bytes : ROOM_BYTES_MAX;
    /* Last: a reader that sees the counts sees the trouble, too. */
    atomic_fetch_add(&store->lost, records);
    stats_add(store->stats, COUNT_STORE_DROPPED, records);
    room_tell_wait(store);
}

void room_found(struct store *store, bool is_kept)
{
    if (store->trouble != SQLITE_OK) {
        uint64_t calm = is_kept ? store->calm_ns : TRIED_CALMS * store->calm_ns;
        store->trouble = SQLITE_OK;
        store->calm_until_ns = clock_monotonic_ns() + calm;
    }
}

uint64_t room_next(const struct store *store)
{
    bool in_trouble = store->trouble != SQLITE_OK && !store_is_off(store);
    bool is_calm = store->told_code != SQLITE_OK && store->trouble == SQLITE_OK;
    return in_trouble ? store->room_next_ns : is_calm ? store->calm_until_ns : UINT64_MAX;
}
