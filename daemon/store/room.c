/* SPDX-License-Identifier: MIT */
/* A disk that is full lets small transactions through while large ones fail, so trouble comes and
 * goes. The log has it once: its end is told after a calm, which doubles each time that trouble was
 * back soon. */
#include "daemon/store/store_internal.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"

/* How often a disk that was full is tried, and with how many bytes at most. */
#define ROOM_EVERY_NS  UINT64_C(1000000000)
#define ROOM_BYTES_MAX (UINT64_C(1) << 20)
/* How long there is no trouble before it is over. */
#define TRIED_CALMS 5 /* and if nothing has been written yet */
#define CALM_MIN_NS UINT64_C(1000000000)
#define CALM_MAX_NS UINT64_C(600000000000)

void room_tell_end(struct store *store, uint64_t now)
{
    if (store->told_code != SQLITE_OK && store->trouble == SQLITE_OK &&
        now >= store->calm_until_ns) {
        log_event(LOG_WARNING, "history_recovered", LOG_NUM("dropped", store->trouble_dropped));
        store->told_code = SQLITE_OK;
        store->trouble_dropped = 0;
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
