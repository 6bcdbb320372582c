/* SPDX-License-Identifier: MIT */
/* The lock is on the directory itself: it ends with the process, however that ends, and a directory
 * that is made again is another one. A start that locks one that has meanwhile been removed begins
 * anew. */
#include "daemon/base/directory.h"

#include "proto/address.h"
#include "config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* How often it may be removed while it is being taken. */
#define ATTEMPTS 10

__attribute__((format(printf, 2, 3))) static int directory_refuse(char *reterr, const char *format,
                                                                  ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reterr, CONFIG_ERROR_MAX, format, arguments);
    va_end(arguments);
    return -1;
}

bool directory_is_here(const char *path, int fd)
{
    struct stat named, held;
    return lstat(path, &named) == 0 && fstat(fd, &held) == 0 && named.st_dev == held.st_dev &&
           named.st_ino == held.st_ino;
}

/* The default directory is attnd's alone. One that somebody names may be /tmp. */
static int directory_distrust(char *reterr, const char *reason, bool is_default)
{
    return directory_refuse(reterr, "%s: %sgive another --address", reason,
                            is_default ? "remove it, or " : "");
}

/* Returns 0, -EAGAIN when it has been removed meanwhile, or -1 with a sentence. */
static int directory_judge(const char *path, int fd, bool is_default, char *reterr)
{
    char reason[ADDRESS_REASON_MAX];
    struct stat status;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) { /* not every system can */
        return directory_refuse(reterr,
                                "%s: another attnd runs here: stop it, or give this one another "
                                "--address",
                                path);
    }
    int rc = address_is_trusted(path, geteuid(), reason);
    if (rc == -1) {
        return directory_distrust(reterr, reason, is_default);
    }
    if (rc != 0 || !directory_is_here(path, fd) || fstat(fd, &status) != 0) {
        return -EAGAIN;
    }
    if (is_default && (status.st_mode & (S_IRWXG | S_IRWXO))) {
        return directory_refuse(reterr,
                                "%s: others can look into it (mode %04o): chmod 700 it, or give "
                                "another --address",
                                path, (unsigned)(status.st_mode & 07777));
    }
    return 0;
}

int directory_take(const char *path, bool is_default, char *reterr)
{
    char reason[ADDRESS_REASON_MAX];
    for (int i = 0; i < ATTEMPTS; i++) {
        if (mkdir(path, S_IRWXU) != 0 && errno != EEXIST) {
            directory_refuse(reterr, "%s: cannot make this directory: %s%s", path, strerror(errno),
                             errno == ENOENT ? " (its parent is missing)" : "");
            return -ENOENT;
        }
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = errno;
        if (fd < 0 && address_is_trusted(path, geteuid(), reason) == -1) {
            return directory_distrust(reterr, reason, is_default);
        }
        if (fd < 0 && error != ENOENT) {
            return directory_refuse(reterr, "%s: %s", path, strerror(error));
        }
        int rc = fd < 0 ? -EAGAIN : directory_judge(path, fd, is_default, reterr);
        if (rc == 0) {
            return fd;
        }
        if (fd >= 0) {
            close(fd);
        }
        if (rc == -1) {
            return -1;
        }
    }
    return directory_refuse(reterr, "%s: it is removed again and again", path);
}
