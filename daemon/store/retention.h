/* SPDX-License-Identifier: MIT */
/* store_retention: removes windows when the database is too old or too large, one small transaction
 * at a time. Store thread.
 *
 * By age: windows, maps and alerts that were stored more than history.max_age ago, and then runs
 * that were not written to since. By size: first the states of the oldest windows, whose numbers
 * stay; when no state is left beyond those of the newest windows of each layer, the oldest windows
 * themselves, of ended and of running runs alike. Removed rows leave free pages, which are used
 * again; the file shrinks only when it is larger than history.max_size, or a run was deleted. The
 * write-ahead log and the outbox count apart. */
#ifndef DAEMON_STORE_RETENTION_H
#define DAEMON_STORE_RETENTION_H

#include "daemon/store/sql.h"

struct retention_rule {
    uint64_t age_s, bytes;
    uint64_t apart; /* bytes of the file that do not count: the outbox */
};

struct retention_done {
    uint64_t windows; /* removed */
    bool more;        /* there may be more to do: call again */
};

/* Each does one step. Returns an SQLite code; then nothing was done. */
int retention_by_size(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                      struct retention_done *ret_done);
int retention_by_age(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                     struct retention_done *ret_done);
/* Rows of runs that were deleted; when all have gone, gives free pages back to the file system. */
int retention_of_hidden(const struct sql *sql, const struct retention_rule *rule, int64_t now_s,
                        struct retention_done *ret_done);

#endif
