/* SPDX-License-Identifier: MIT */
#include "daemon/http/page_url.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void page_url(const char *endpoint, char ret_url[PAGE_URL_MAX])
{
    static const char scheme[] = "tcp://";
    static const char *const any[][2] = {
        {"*:", "127.0.0.1:"}, {"0.0.0.0:", "127.0.0.1:"}, {"[::]:", "[::1]:"}};
    *ret_url = '\0';
    if (strncmp(endpoint, scheme, strlen(scheme)) != 0) {
        return;
    }
    const char *host = "", *rest = endpoint + strlen(scheme);
    for (size_t i = 0; i < sizeof any / sizeof any[0]; i++) {
        if (strncmp(rest, any[i][0], strlen(any[i][0])) == 0) {
            host = any[i][1];
            rest += strlen(any[i][0]);
            break;
        }
    }
    snprintf(ret_url, PAGE_URL_MAX, "http://%s%s/", host, rest);
}

static int page_url_path(const char *directory, const char *name, char ret_path[PATH_MAX])
{
    if (snprintf(ret_path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX) {
        return 0;
    }
    errno = ENAMETOOLONG;
    return -1;
}

/* The mode does not depend on the umask: everybody who may enter the directory may read the
 * file. */
static int page_url_fill(int fd, const char *directory, const char *url)
{
    char line[PAGE_URL_MAX + 1];
    struct stat entered;
    if (stat(directory, &entered) != 0) {
        return -1;
    }
    int length = snprintf(line, sizeof line, "%s\n", url);
    mode_t mode = 0600 | (entered.st_mode & 0010 ? 0040 : 0) | (entered.st_mode & 0001 ? 0004 : 0);
    if (fchmod(fd, mode) != 0) {
        return -1;
    }
    ssize_t written = write(fd, line, (size_t)length);
    if (written >= 0 && written < length) {
        errno = ENOSPC;
    }
    return written == length ? 0 : -1;
}

int page_url_write(const char *directory, const char *endpoint)
{
    char url[PAGE_URL_MAX], path[PATH_MAX], fresh[PATH_MAX];
    page_url(endpoint, url);
    if (!*url) {
        page_url_remove(directory);
        return 0;
    }
    if (page_url_path(directory, "page", path) != 0 ||
        page_url_path(directory, "page.new", fresh) != 0) {
        return -1;
    }
    unlink(fresh); /* of an attnd that was killed */
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return -1;
    }
    int rc = page_url_fill(fd, directory, url);
    if (close(fd) != 0) {
        rc = -1;
    }
    rc = rc ? rc : rename(fresh, path);
    if (rc != 0) {
        int error = errno;
        unlink(fresh);
        errno = error;
    }
    return rc;
}

bool page_url_left(const char *directory, char ret_endpoint[ENDPOINT_MAX])
{
    char path[PATH_MAX], line[64] = "";
    unsigned port;
    int fd = page_url_path(directory, "page", path) == 0
                 ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
                 : -1;
    if (fd < 0) {
        return false;
    }
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    if (length <= 0 || sscanf(line, "http://127.0.0.1:%5u/", &port) != 1 || !port || port > 65535) {
        return false;
    }
    snprintf(ret_endpoint, ENDPOINT_MAX, "tcp://127.0.0.1:%u", port);
    return true;
}

bool page_url_is_there(const char *directory)
{
    char path[PATH_MAX];
    return page_url_path(directory, "page", path) == 0 && access(path, F_OK) == 0;
}

void page_url_remove(const char *directory)
{
    char path[PATH_MAX];
    if (page_url_path(directory, "page", path) == 0) {
        unlink(path);
    }
}
