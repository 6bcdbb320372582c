/* SPDX-License-Identifier: MIT */
/* service_notify: sends messages to the service manager, as sd_notify(3) does: datagrams of
 * NAME=VALUE lines to the socket that $NOTIFY_SOCKET names, a path or, with a leading '@', an
 * abstract name. One thread at a time. */
#ifndef DAEMON_SERVICE_NOTIFY_H
#define DAEMON_SERVICE_NOTIFY_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

struct service_notify {
    int fd; /* -1: there is nobody to tell */
    struct sockaddr_un address;
    socklen_t size;
};

/* `path` is the value of $NOTIFY_SOCKET; NULL or empty: nothing is sent, which is no error. Returns
 * 0, or the errno of why nobody can be told. */
int service_notify_open(struct service_notify *notify, const char *path);
void service_notify_close(struct service_notify *notify);

/* Sends one datagram, without waiting: with a full queue it is lost. Returns whether it went out.
 */
bool service_notify_say(const struct service_notify *notify, const char *lines);
/* The same for what must not be lost: waits for room, a second at most. */
bool service_notify_insist(const struct service_notify *notify, const char *lines);

#endif
