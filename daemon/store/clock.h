/* SPDX-License-Identifier: MIT */
/* store_clock: decides whether this machine's clock is trusted when windows are removed by age.
 *
 * A machine may start with a clock that is wrong by years. Nothing is removed by age before a
 * window has been stored at a time that fits: not further than STORE_CLOCK_GAP_S from the newest
 * time that is known to be right, which is kept in the database, plus what has passed since by a
 * clock that nobody sets. history.trust_clock says that the clock is right. Store thread, and
 * whoever opens. */
#ifndef DAEMON_STORE_CLOCK_H
#define DAEMON_STORE_CLOCK_H

#include "daemon/store/sql.h"

#define STORE_CLOCK_GAP_S (30 * 86400)

/* Times are seconds: since 1970, or since boot. */
struct store_clock {
    int64_t known_s, known_boot_s; /* the newest time that is known to be right, by both clocks */
    int64_t written_s;             /* what the database has of it; 0: nobody looked */
    bool trusted;                  /* history.trust_clock */
    bool fitted;                   /* a window has been stored at a time that fits */
    bool doubted;                  /* it has been logged that one did not */
};

/* Reads what the database knows. Returns an SQLite code. */
int store_clock_open(struct store_clock *clock, const struct sql *sql, bool trusted);

/* The time that goes with what is stored now: while the clock is doubted one that is not before
 * that of what was stored earlier, so that it is not taken for old when the clock is right again.
 */
int64_t store_clock_stamp(const struct store_clock *clock);
/* Something is stored, with windows or without, in the transaction that is open. Returns an SQLite
 * code. */
int store_clock_note(struct store_clock *clock, const struct sql *sql, bool windows);
/* Whether what is old by the clock is old. */
bool store_clock_is_believed(const struct store_clock *clock);

#endif
