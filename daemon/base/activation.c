/* SPDX-License-Identifier: MIT */
#include "daemon/base/activation.h"

#include "config/config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3
/* More than there are names. */
#define SOCKETS_MAX 16
#define NAME_SIZE   32

static const char *const names[] = {"ingest", "publish", "control", "tap", "reliable", "http"};
#define NAMES (sizeof names / sizeof names[0])

/* 0 unless it was this process that they were handed to; -1 for what is no number. */
static int count_sockets(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    char *end;
    if (!pid || !count || strtol(pid, NULL, 10) != (long)getpid()) {
        return 0;
    }
    long sockets = strtol(count, &end, 10);
    return *count && !*end && sockets >= 0 && sockets <= SOCKETS_MAX ? (int)sockets : -1;
}

/* The name of socket `index`, of names between colons; "" when there is none. */
static void read_name(int index, char name[NAME_SIZE])
{
    const char *from = getenv("LISTEN_FDNAMES");
    for (; from && index > 0; index--) {
        from = strchr(from, ':');
        from = from ? from + 1 : NULL;
    }
    snprintf(name, NAME_SIZE, "%.*s", from ? (int)strcspn(from, ":") : 0, from ? from : "");
}

/* The address as endpoints are written. Returns whether it can be one. */
static bool read_ip(const struct sockaddr *address, socklen_t size, char *endpoint)
{
    char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[8];
    if (getnameinfo(address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return false;
    }
    snprintf(endpoint, ENDPOINT_MAX,
             address->sa_family == AF_INET6 ? "tcp://[%s]:%s" : "tcp://%s:%s", host, port);
    return true;
}

static bool read_address(int fd, char *endpoint)
{
    union {
        struct sockaddr any;
        struct sockaddr_un path;
        struct sockaddr_storage room;
    } address = {.any.sa_family = AF_UNSPEC};
    socklen_t size = sizeof address;
    if (getsockname(fd, &address.any, &size) != 0) {
        return false;
    }
    if (address.any.sa_family == AF_UNIX) {
        /* A path, or a name that is in no file system: '@' stands for its first byte. */
        size_t length = size - offsetof(struct sockaddr_un, sun_path);
        if (size <= offsetof(struct sockaddr_un, sun_path)) {
            return false;
        }
        if (address.path.sun_path[0] == '\0') {
            snprintf(endpoint, ENDPOINT_MAX, "ipc://@%.*s", (int)length - 1,
                     address.path.sun_path + 1);
        } else {
            snprintf(endpoint, ENDPOINT_MAX, "ipc://%.*s", (int)length, address.path.sun_path);
        }
        return true;
    }
    return (address.any.sa_family == AF_INET || address.any.sa_family == AF_INET6) &&
           read_ip(&address.any, size, endpoint);
}

static int read_option(int fd, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

static int activation_find(const char *name)
{
    char other[NAME_SIZE];
    int count = count_sockets();
    for (int i = 0; i < count; i++) {
        read_name(i, other);
        if (strcmp(other, name) == 0) {
            return FIRST_FD + i;
        }
    }
    return -1;
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < NAMES; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Why this socket cannot be used, or NULL. */
static const char *complaint(int fd, const char *name, bool tcp_allowed)
{
    char endpoint[ENDPOINT_MAX];
    if (!is_known(name)) {
        return "its name is none of ingest, publish, control, tap, reliable, http";
    }
    if (activation_find(name) != fd) {
        return "its name was given to another one before";
    }
    if (read_option(fd, SO_TYPE) != SOCK_STREAM || read_option(fd, SO_ACCEPTCONN) != 1) {
        return "it is no socket that listens (ListenStream=, Accept=no)";
    }
    if (!read_address(fd, endpoint)) {
        return "its address is neither TCP nor a path";
    }
    bool is_tcp = strncmp(endpoint, "tcp://", strlen("tcp://")) == 0;
    bool is_http = strcmp(name, "http") == 0;
    if (is_tcp && !is_http && !tcp_allowed) {
        return "over TCP anybody could speak to attnd: give its unit a path (ListenStream=), or "
               "configure keys, or set insecure: true";
    }
    return NULL;
}

int activation_check(bool tcp_allowed, char *reterr)
{
    char name[NAME_SIZE];
    int count = count_sockets();
    if (count < 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "LISTEN_FDS: '%.32s': not a number from 0 to %d",
                 getenv("LISTEN_FDS"), SOCKETS_MAX);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        read_name(i, name);
        const char *why = complaint(FIRST_FD + i, name, tcp_allowed);
        if (why) {
            snprintf(reterr, CONFIG_ERROR_MAX, "socket %d of LISTEN_FDS, '%s': %s", i + 1, name,
                     why);
            return -1;
        }
        fcntl(FIRST_FD + i, F_SETFL, O_NONBLOCK); /* of a socket neither fails */
        fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
    }
    return 0;
}

int activation_take(const char *name, char *endpoint)
{
    int fd = activation_find(name);
    return fd >= 0 && read_address(fd, endpoint) ? fd : -1;
}
