/* SPDX-License-Identifier: MIT */
/* store_db: the one connection that writes the history, from lock to clean mark. Store thread, and
 * whoever opens and closes while there is no thread. */
#ifndef DAEMON_STORE_DB_H
#define DAEMON_STORE_DB_H

#include "daemon/store/file.h"
#include "daemon/store/sql.h"

#include <stdatomic.h>

struct store_db {
    char path[STORE_PATH_MAX];
    int lock;
    struct sql sql;       /* sql.db NULL: not open */
    atomic_int log_pages; /* in the write-ahead log after the last commit, of whichever thread */
    struct store_log_id log;
    bool marked;             /* as not clean */
    bool is_damaged;         /* it is to be checked when it is opened next */
    uint64_t corrupt;        /* databases set aside */
    uint64_t lost_windows;   /* of them, that could not be read */
    int (*ends)(void *data); /* whether to leave off a repair: repair_copy; NULL: never */
    void *ends_data;
};

/* Locks, opens, migrates, checks after an unclean stop. A corrupt database is set aside, and what
 * can be read of it is in the one that is open. Returns 0, or -1 with a reason, then there is
 * nothing to close. */
int db_open(struct store_db *db, const char *configured_path, char reterr_reason[STORE_REASON_MAX]);
/* Whether an error means that the file is at fault, and another one would do better. An error that
 * says neither this nor that has the file checked. */
bool db_is_corrupt(const struct store_db *db, int code);
/* Sets the database aside and goes on in one that has what can be read of it, or in a new one.
 * Returns 0, or -1 with a reason, then it is closed. */
int db_replace(struct store_db *db, char reterr_reason[STORE_REASON_MAX]);
/* The same, but without such a copy all stays as it was: then -1 with a reason. */
int db_repair(struct store_db *db, char reterr_reason[STORE_REASON_MAX]);
/* Whether the path leads to another file than the open one, or to none. */
bool db_is_gone(sqlite3 *connection);
/* Lets go of the file that is open, and opens what the path leads to now, as db_open does. Returns
 * 0, or -1 with a reason, then it is closed. */
int db_reopen(struct store_db *db, char reterr_reason[STORE_REASON_MAX]);
/* Marks as clean, or as not clean when it is damaged, and closes; without effect when it is closed.
 */
void db_close(struct store_db *db);

/* Opens a connection that only reads, and waits for nobody who writes: for one thread, any one.
 * Returns an SQLite code; on failure nothing is open. */
int db_open_reader(const char *path, struct sql *ret_sql);
void db_close_reader(struct sql *sql);

/* Marks as not clean: before the first change. Returns an SQLite code. */
int db_mark(struct store_db *db);
/* Whether this number of bytes can be written: writes and forgets them. Returns an SQLite code. */
int db_try_room(struct store_db *db, int64_t bytes);
/* Writes the log's pages to the database. Returns an SQLite code. */
int db_checkpoint(struct store_db *db);

#endif
