/* SPDX-License-Identifier: MIT */
#include "daemon/service_notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define INSIST_S 1

/* Returns 0 or an errno. */
static int service_notify_set_address(struct service_notify *notify, const char *path)
{
    size_t length = strlen(path);
    if (path[0] != '/' && path[0] != '@') {
        return EAFNOSUPPORT;
    }
    if (length < 2 || length >= sizeof notify->address.sun_path) {
        return EINVAL;
    }
    notify->address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(notify->address.sun_path, path, length);
    notify->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (path[0] == '@') {
        notify->address.sun_path[0] = '\0'; /* every byte of an abstract name counts */
    } else {
        notify->size++;
    }
    return 0;
}

int service_notify_open(struct service_notify *notify, const char *path)
{
    const struct timeval patience = {.tv_sec = INSIST_S};
    *notify = (struct service_notify){.fd = -1};
    if (!path || !*path) {
        return 0;
    }
    int code = service_notify_set_address(notify, path);
    if (code) {
        return code;
    }
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->fd < 0) {
        return errno;
    }
    setsockopt(notify->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return 0;
}

void service_notify_close(struct service_notify *notify)
{
    if (notify->fd >= 0) {
        close(notify->fd);
    }
    notify->fd = -1;
}

static bool send_lines(const struct service_notify *notify, const char *lines, int flags)
{
    ssize_t sent;
    if (notify->fd < 0) {
        return false;
    }
    do {
        sent = sendto(notify->fd, lines, strlen(lines), flags | MSG_NOSIGNAL,
                      (const struct sockaddr *)&notify->address, notify->size);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

bool service_notify_say(const struct service_notify *notify, const char *lines)
{
    return send_lines(notify, lines, MSG_DONTWAIT);
}

bool service_notify_insist(const struct service_notify *notify, const char *lines)
{
    return send_lines(notify, lines, 0);
}
