/* SPDX-License-Identifier: MIT */
#include "daemon/store/clock.h"

#include "daemon/base/log.h"

#include <stdlib.h>
#include <time.h>

/* How often what is known is written down, at most. */
#define WRITE_EVERY_S 60

static int64_t boot_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec;
}

/* The time it must be at least, if nobody knows how long attnd was not running. */
static int64_t least_s(const struct store_clock *clock)
{
    return clock->known_s + boot_s() - clock->known_boot_s;
}

static bool store_clock_fits(const struct store_clock *clock, int64_t now_s)
{
    return llabs(now_s - least_s(clock)) <= STORE_CLOCK_GAP_S;
}

int store_clock_open(struct store_clock *clock, const struct sql *sql, bool trusted)
{
    int64_t known_s = 0;
    int code = sql_number(sql, STATEMENT_GET_CLOCK, NULL, &known_s);
    *clock = (struct store_clock){
        .known_s = known_s ? known_s : time(NULL), /* it is empty: nothing can be too old */
        .known_boot_s = boot_s(),
        .trusted = trusted,
    };
    return code;
}

int64_t store_clock_stamp(const struct store_clock *clock)
{
    int64_t now_s = time(NULL), least = least_s(clock);
    return clock->trusted || store_clock_fits(clock, now_s) || now_s > least ? now_s : least;
}

int store_clock_note(struct store_clock *clock, const struct sql *sql, bool windows)
{
    int64_t now_s = time(NULL);
    if (windows && (clock->trusted || store_clock_fits(clock, now_s))) {
        clock->known_s = now_s;
        clock->known_boot_s = boot_s();
        clock->fitted = true;
        clock->doubted = false;
    } else if (windows) {
        if (!clock->doubted) {
            log_event(LOG_WARNING, "history_clock_doubted",
                      LOG_STR("reason", "this machine's clock is more than 30 days from the newest "
                                        "window: nothing is removed by age"),
                      LOG_NUM("now_s", (uint64_t)now_s),
                      LOG_NUM("newest_s", (uint64_t)clock->known_s),
                      LOG_STR("advice", "if the clock is right, set history.trust_clock"));
        }
        clock->doubted = true;
    }
    if (llabs(clock->known_s - clock->written_s) < WRITE_EVERY_S) {
        return SQLITE_OK;
    }
    clock->written_s = clock->known_s;
    return sql_run(sql, STATEMENT_SET_CLOCK, SQL(sql_i64(clock->known_s)));
}

bool store_clock_is_believed(const struct store_clock *clock)
{
    return clock->trusted || (clock->fitted && store_clock_fits(clock, time(NULL)));
}
