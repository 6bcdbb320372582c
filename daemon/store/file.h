/* SPDX-License-Identifier: MIT */
/* store_file: finds the history's file, checks its owner, and renames a damaged one. Before and
 * apart from SQLite. */
#ifndef DAEMON_STORE_FILE_H
#define DAEMON_STORE_FILE_H

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

/* Room for a sentence why there is no history. */
#define STORE_REASON_MAX (PATH_MAX + 256)
/* Room for a path, with room left for what is appended. */
#define STORE_PATH_MAX (PATH_MAX - 64)

/* Writes why there is none at this path. Returns -1. */
int store_file_refuse(char *reterr_reason, const char *path, const char *why);
/* history.path, or the default when `configured` is "". Returns 0, or -1 with a reason. */
int store_file_path(const char *configured, char ret_path[STORE_PATH_MAX],
                    char reterr_reason[STORE_REASON_MAX]);

/* Makes the directories (0700), refuses what cannot be a history, and locks PATH.lock (flock),
 * which stays there. A file that is no database is refused unless it has been a history before,
 * which the lock file shows; then it is corrupt. Returns the lock, to be closed, or -1 with a
 * reason. */
int store_file_lock(const char *path, char reterr_reason[STORE_REASON_MAX]);

/* Makes PATH unless it is there, for its owner alone (0600) whatever the umask, and takes the
 * rights of others from it and from PATH-wal and PATH-shm. A failure is logged. */
void store_file_close_to_others(const char *path);

/* Renames PATH, PATH-wal and PATH-shm to PATH.corrupt-<time> and so on; the time is UTC, and a
 * number follows when the name is taken. Returns 0 with the new path, or -1 with a reason. */
int store_file_set_aside(const char *path, char ret_path[PATH_MAX],
                         char reterr_reason[STORE_REASON_MAX]);

/* The identity of the file PATH-wal; zeros when there is none. */
struct store_log_id {
    dev_t device;
    ino_t inode;
};
struct store_log_id store_file_log_id(const char *path);

/* Removes PATH-wal and PATH-shm when the former is still the one of `id`: beside another database
 * SQLite would write that log's pages into it. */
void store_file_drop_log(const char *path, struct store_log_id id);

#endif
