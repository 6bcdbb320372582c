/* SPDX-License-Identifier: MIT */
/* An accepted connection has the local address of its listener (as in idle.c), and a cookie that
 * the kernel gives to no other: a descriptor's number may be another connection's at the next look.
 */
#include "daemon/base/stalled.h"

#include "daemon/base/clock.h"
#include "daemon/base/hash.h"

#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct stalled {
    uint64_t cookie;
    uint64_t since_ns, seen_ns;
    int fd;
    UT_hash_handle hh;
};

union stalled_address {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
};

/* An abstract name is "@NAME" in the endpoint. */
static bool stalled_is_at(const union stalled_address *address, socklen_t size,
                          const char *endpoint)
{
    const size_t scheme = strlen("ipc://"), start = offsetof(struct sockaddr_un, sun_path);
    const char *port = strrchr(endpoint, ':');
    bool is_ipc = strncmp(endpoint, "ipc://", scheme) == 0;
    if (address->any.sa_family == AF_UNIX) {
        bool is_abstract = endpoint[0] && endpoint[scheme] == '@';
        const char *name = is_ipc ? endpoint + scheme + is_abstract : "";
        size_t length = strlen(name);
        return is_ipc && size >= start + is_abstract + length &&
               memcmp(address->local.sun_path + is_abstract, name, length) == 0 &&
               (is_abstract || address->local.sun_path[length] == '\0');
    }
    in_port_t local = address->any.sa_family == AF_INET    ? address->inet.sin_port
                      : address->any.sa_family == AF_INET6 ? address->inet6.sin6_port
                                                           : 0;
    return local && !is_ipc && port && atoi(port + 1) == ntohs(local);
}

uint64_t connection_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

bool connection_end(int fd, uint64_t cookie)
{
    bool is_same = connection_cookie(fd) == cookie;
    if (is_same) {
        shutdown(fd, SHUT_RDWR);
    }
    return is_same;
}

/* The cookie of a connection there that takes nothing more; 0: it is none. */
static uint64_t stalled_cookie(int fd, const char *endpoint, const char *other)
{
    union stalled_address address = {.any.sa_family = AF_UNSPEC};
    socklen_t size = sizeof address, listens_size = sizeof(int);
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    int listens = 1;
    if (getsockname(fd, &address.any, &size) != 0 ||
        !(stalled_is_at(&address, size, endpoint) || stalled_is_at(&address, size, other)) ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) != 0 || listens ||
        poll(&room, 1, 0) != 0) {
        return 0;
    }
    return connection_cookie(fd);
}

static void stalled_remember(struct stalled **stalled, uint64_t cookie, int fd, uint64_t now)
{
    struct stalled *one = NULL;
    HASH_FIND(hh, *stalled, &cookie, sizeof cookie, one);
    if (!one) {
        one = calloc(1, sizeof *one);
        if (!one) {
            return;
        }
        one->cookie = cookie;
        one->since_ns = now;
        HASH_ADD(hh, *stalled, cookie, sizeof one->cookie, one);
        if (!one->hh.tbl) {
            free(one);
            return;
        }
    }
    one->fd = fd;
    one->seen_ns = now;
}

void stalled_look(struct stalled **stalled, const char *endpoint, const char *other)
{
    uint64_t now = clock_monotonic_ns();
    struct stalled *one, *next;
    DIR *descriptors = opendir("/proc/self/fd");
    for (struct dirent *entry = descriptors ? readdir(descriptors) : NULL; entry;
         entry = readdir(descriptors)) {
        int fd = entry->d_name[0] == '.' ? -1 : atoi(entry->d_name);
        uint64_t cookie = fd < 0 ? 0 : stalled_cookie(fd, endpoint, other);
        if (cookie) {
            stalled_remember(stalled, cookie, fd, now);
        }
    }
    if (descriptors) {
        closedir(descriptors);
    }
    HASH_ITER(hh, *stalled, one, next)
    {
        if (one->seen_ns != now) {
            HASH_DEL(*stalled, one);
            free(one);
        }
    }
}

unsigned stalled_cut(struct stalled **stalled, uint64_t least_ns)
{
    uint64_t now = clock_monotonic_ns(), longest_ns = 0;
    struct stalled *one, *next;
    unsigned count = 0;
    HASH_ITER(hh, *stalled, one, next)
    {
        longest_ns = now - one->since_ns > longest_ns ? now - one->since_ns : longest_ns;
    }
    HASH_ITER(hh, *stalled, one, next)
    {
        uint64_t since_ns = now - one->since_ns;
        if (since_ns < least_ns || since_ns < longest_ns / 2) {
            continue;
        }
        count += connection_end(one->fd, one->cookie);
        HASH_DEL(*stalled, one);
        free(one);
    }
    return count;
}

void stalled_clear(struct stalled **stalled)
{
    struct stalled *one, *next;
    HASH_ITER(hh, *stalled, one, next)
    {
        HASH_DEL(*stalled, one);
        free(one);
    }
}
