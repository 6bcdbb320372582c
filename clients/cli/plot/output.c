/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/output.h"

#include "clients/cli/arrays/write_all.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* As a file that is made by open() would have. */
static mode_t usual_mode(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

/* What is no regular file, such as /dev/stdout or a pipe, is written to and not replaced. */
static int write_directly(const char *path, const struct bytes *file)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write_all(fd, file->data, file->size);
    return close(fd) != 0 && rc == 0 ? -errno : rc;
}

static int write_beside(const char *path, char *temporary, const struct bytes *file)
{
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write_all(fd, file->data, file->size);
    if (rc == 0 && fchmod(fd, usual_mode()) != 0)
        rc = -errno;
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    if (rc != 0)
        unlink(temporary);
    return rc;
}

int output_write(const char *path, const struct bytes *file)
{
    char temporary[OUTPUT_PATH_MAX + 8];
    struct stat there;
    if (stat(path, &there) == 0 && S_ISDIR(there.st_mode))
        return -EISDIR;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode))
        return write_directly(path, file);
    if (snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path) >= (int)sizeof(temporary))
        return -ENAMETOOLONG;
    return write_beside(path, temporary, file);
}

int output_write_standard(const struct bytes *file, bool binary)
{
    return binary && isatty(STDOUT_FILENO) ? -ENOTSUP
                                           : write_all(STDOUT_FILENO, file->data, file->size);
}

int output_make_folders(const char *path)
{
    char folder[OUTPUT_PATH_MAX];
    if (snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder))
        return -ENAMETOOLONG;
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(folder, 0777) != 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    return 0;
}

static size_t append(char *path, size_t used, const char *text, size_t length)
{
    size_t room = OUTPUT_PATH_MAX - 1 - used, taken = length < room ? length : room;
    memcpy(path + used, text, taken);
    path[used + taken] = '\0';
    return used + taken;
}

int output_expand(const char *pattern, const char *layer, const char *head,
                  char ret_path[OUTPUT_PATH_MAX])
{
    size_t used = 0;
    *ret_path = '\0';
    while (*pattern) {
        if (strncmp(pattern, "{layer}", 7) == 0) {
            used = append(ret_path, used, layer, strlen(layer));
            pattern += 7;
        } else if (strncmp(pattern, "{head}", 6) == 0) {
            used = append(ret_path, used, head, strlen(head));
            pattern += 6;
        } else {
            used = append(ret_path, used, pattern++, 1);
        }
    }
    return used < OUTPUT_PATH_MAX - 1 ? 0 : -1;
}
