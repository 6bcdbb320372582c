/* SPDX-License-Identifier: MIT */
/* store_repair: copies what can be read of a damaged history into a new file. */
#ifndef DAEMON_STORE_REPAIR_H
#define DAEMON_STORE_REPAIR_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct repair_found {
    uint64_t windows;      /* in the copy */
    uint64_t lost_windows; /* whose row, or all numbers, cannot be read */
    uint64_t lost_rows;    /* of other tables: numbers, maps, alerts of windows that are there */
};

/* Makes the file `copy`, of this version of the schema, from the one at `path`, which nobody writes
 * meanwhile; its first page is written when that is damaged. `ends` (NULL: never) is called a few
 * times per second and ends it early: SQLITE_INTERRUPT. Returns an SQLite code; unless it is
 * SQLITE_OK there is no copy. */
int repair_copy(const char *path, const char *copy, int (*ends)(void *data), void *data,
                struct repair_found *ret_found);

#endif
