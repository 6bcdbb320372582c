/* SPDX-License-Identifier: MIT */
#include "daemon/store/file.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int store_file_refuse(char *reterr_reason, const char *path, const char *why)
{
    snprintf(reterr_reason, STORE_REASON_MAX, "%s: %s", path, why);
    return -1;
}

/* Where */

/* Returns whether it fits. */
static bool put_path(char *ret_path, const char *directory, const char *rest)
{
    int length = snprintf(ret_path, STORE_PATH_MAX, "%s%s", directory, rest);
    return length >= 0 && length < STORE_PATH_MAX;
}

/* Variables that are empty or relative count as not set, as the XDG specification says. */
static const char *directory_of(const char *variable)
{
    const char *value = getenv(variable);
    return value && value[0] == '/' ? value : NULL;
}

int store_file_path(const char *configured, char ret_path[STORE_PATH_MAX],
                    char reterr_reason[STORE_REASON_MAX])
{
    const char *state = directory_of("XDG_STATE_HOME"), *home = directory_of("HOME");
    bool fits;
    if (configured[0]) {
        fits = put_path(ret_path, configured, "");
    } else if (state) {
        fits = put_path(ret_path, state, "/attnd/history.db");
    } else if (geteuid() == 0) {
        fits = put_path(ret_path, "/var/lib/attnd/history.db", "");
    } else if (home) {
        fits = put_path(ret_path, home, "/.local/state/attnd/history.db");
    } else {
        return store_file_refuse(
            reterr_reason, "history.path",
            "it is empty, and so are XDG_STATE_HOME and HOME: there is no place for it");
    }
    return fits ? 0 : store_file_refuse(reterr_reason, "history.path", "the path is too long");
}

/* Ownership */

/* Every directory on the way: 0, or -1 with why one cannot be made. */
static int make_directories(const char *path, char reterr_reason[STORE_REASON_MAX])
{
    char part[STORE_PATH_MAX];
    struct stat there;
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t length = (size_t)(slash - path);
        memcpy(part, path, length);
        part[length] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) {
            int error = errno;
            if (stat(part, &there) != 0) {
                return store_file_refuse(reterr_reason, part, strerror(error));
            }
        }
    }
    return 0;
}

static const char magic[16] = "SQLite format 3";

static bool is_database(const char *path)
{
    char start[sizeof magic];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return true; /* SQLite will say what is wrong */
    }
    ssize_t got = read(fd, start, sizeof start);
    close(fd);
    return got <= 0 || (got == (ssize_t)sizeof start && !memcmp(start, magic, sizeof magic));
}

/* Why this file is not to be touched, or NULL. */
static const char *why_not(const char *path, const char *lock_path)
{
    struct stat file;
    if (stat(path, &file)) {
        return NULL;
    }
    if (!S_ISREG(file.st_mode)) {
        return "it is not a regular file";
    }
    if (access(lock_path, F_OK) && !is_database(path)) {
        return "the file is there and is not a database";
    }
    return NULL;
}

int store_file_lock(const char *path, char reterr_reason[STORE_REASON_MAX])
{
    char lock_path[PATH_MAX];
    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    if (make_directories(path, reterr_reason) != 0) {
        return -1;
    }
    const char *why = why_not(path, lock_path);
    if (why) {
        return store_file_refuse(reterr_reason, path, why);
    }
    int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) {
        return store_file_refuse(reterr_reason, lock_path, strerror(errno));
    }
    if (flock(lock, LOCK_EX | LOCK_NB)) {
        int error = errno;
        close(lock);
        return store_file_refuse(reterr_reason, path,
                                 error == EWOULDBLOCK ? "another attnd is using it"
                                                      : strerror(error));
    }
    return lock;
}

/* By names: a descriptor of the file that is closed would end SQLite's locks on it. */
void store_file_close_to_others(const char *path)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    int made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (made >= 0) {
        close(made); /* SQLite gives the two others the mode of this one */
    }
    for (int i = 0; i < 3; i++) {
        char name[PATH_MAX + 8];
        struct stat file;
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        if (stat(name, &file) || !S_ISREG(file.st_mode) || !(file.st_mode & 077)) {
            continue;
        }
        if (chmod(name, file.st_mode & 0700)) {
            log_event(LOG_WARNING, "history_open_to_others", LOG_STR("path", name),
                      LOG_STR("reason", strerror(errno)));
        }
    }
}

/* Aside */

static int rename_if_any(const char *path, const char *to, const char *suffix)
{
    char from[PATH_MAX + 8], into[PATH_MAX + 8];
    snprintf(from, sizeof from, "%s%s", path, suffix);
    snprintf(into, sizeof into, "%s%s", to, suffix);
    return rename(from, into) && errno != ENOENT ? -1 : 0;
}

int store_file_set_aside(const char *path, char ret_path[PATH_MAX],
                         char reterr_reason[STORE_REASON_MAX])
{
    char when[32];
    struct tm utc;
    time_t now = time(NULL);
    gmtime_r(&now, &utc);
    strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &utc);
    snprintf(ret_path, PATH_MAX, "%s.corrupt-%s", path, when);
    for (unsigned i = 2; !access(ret_path, F_OK) && i < 1000; i++) {
        snprintf(ret_path, PATH_MAX, "%s.corrupt-%s-%u", path, when, i);
    }
    /* Its log first: beside another database it would be written into that one. */
    if (rename_if_any(path, ret_path, "-wal") || rename_if_any(path, ret_path, "-shm") ||
        rename_if_any(path, ret_path, "")) {
        return store_file_refuse(reterr_reason, path, "it is corrupt, and cannot be renamed");
    }
    return 0;
}

/* A log whose database has gone */

struct store_log_id store_file_log_id(const char *path)
{
    char name[PATH_MAX + 8];
    struct stat file;
    snprintf(name, sizeof name, "%s-wal", path);
    if (lstat(name, &file)) {
        return (struct store_log_id){0};
    }
    return (struct store_log_id){.device = file.st_dev, .inode = file.st_ino};
}

void store_file_drop_log(const char *path, struct store_log_id id)
{
    struct store_log_id here = store_file_log_id(path);
    char name[PATH_MAX + 8];
    if (id.inode == 0 || here.inode != id.inode || here.device != id.device) {
        return;
    }
    snprintf(name, sizeof name, "%s-wal", path);
    unlink(name);
    snprintf(name, sizeof name, "%s-shm", path);
    unlink(name);
}
