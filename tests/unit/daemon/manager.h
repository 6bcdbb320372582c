/* SPDX-License-Identifier: MIT */
/* manager: the side of a service manager that hears: a datagram socket with a name. */
#ifndef TESTS_UNIT_DAEMON_MANAGER_H
#define TESTS_UNIT_DAEMON_MANAGER_H

#include "tests/unit/unit.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct manager {
    int fd;
    char name[64]; /* as NOTIFY_SOCKET has it */
    char heard[512];
};

/* A name that nobody else has; abstract ones need no file. */
static inline void manager_open(struct manager *manager, const char *kind)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(manager->name, sizeof manager->name, "%s-%d", kind, (int)getpid());
    size_t length = strlen(manager->name);
    memcpy(address.sun_path, manager->name, length);
    if (address.sun_path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    assert_int_equal(bind(manager->fd, (const struct sockaddr *)&address, size), 0);
}

static inline void manager_close(struct manager *manager)
{
    close(manager->fd);
    if (manager->name[0] == '/') {
        unlink(manager->name);
    }
}

/* The next datagram, or NULL when there is none. */
static inline const char *manager_hear(struct manager *manager)
{
    ssize_t size = recv(manager->fd, manager->heard, sizeof manager->heard - 1, 0);
    if (size < 0) {
        return NULL;
    }
    manager->heard[size] = '\0';
    return manager->heard;
}

#endif
