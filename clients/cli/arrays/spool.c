/* SPDX-License-Identifier: MIT */
/* Files of arrays are read where they are wanted, from the end too, which a pipe cannot do. The
 * copy is a file and not memory: the kernel may write it out when memory is short. */

#include "clients/cli/arrays/array_internal.h"
#include "clients/cli/arrays/write_all.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_nameless(char *reterr)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    folder = folder && *folder ? folder : "/tmp";
    snprintf(path, sizeof path, "%.4000s/attnctl-XXXXXX", folder);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        return array_fail(reterr, "cannot make a file in %.200s: %s", folder, strerror(errno));
    }
    unlink(path);
    return fd;
}

static int spool_copy(int fd, char *reterr)
{
    static char block[1 << 16];
    uint64_t copied = 0;
    for (ssize_t got; (got = read(STDIN_FILENO, block, sizeof block)) != 0;) {
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return array_fail(reterr, "%s", strerror(errno));
        }
        copied += (uint64_t)got;
        if (copied > SPOOL_MAX) {
            return array_fail(reterr, "larger than %d GiB: give a file", (int)(SPOOL_MAX >> 30));
        }
        int rc = write_all(fd, block, (size_t)got);
        if (rc != 0) {
            return array_fail(reterr, "cannot be kept in a temporary file: %s", strerror(-rc));
        }
    }
    return 0;
}

int spool_input(int *ret_fd, char *reterr)
{
    struct stat stat;
    if (isatty(STDIN_FILENO)) {
        return array_fail(reterr, "standard input is a terminal: give a file or a pipe");
    }
    if (fstat(STDIN_FILENO, &stat) != 0) {
        return array_fail(reterr, "%s", strerror(errno));
    }
    if (!S_ISREG(stat.st_mode)) {
        int fd = open_nameless(reterr);
        if (fd < 0) {
            return -1;
        }
        if (spool_copy(fd, reterr) != 0) {
            close(fd);
            return -1;
        }
        *ret_fd = fd;
        return 0;
    }
    *ret_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    return *ret_fd < 0 ? array_fail(reterr, "%s", strerror(errno)) : 0;
}
