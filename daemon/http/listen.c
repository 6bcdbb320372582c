/* SPDX-License-Identifier: MIT */
#include "daemon/http/listen.h"

#include "config/config.h"
#include "daemon/base/endpoint.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 512

static const char ipc_scheme[] = "ipc://";

static int listen_fail(const char *endpoint, const char *reason, char *reterr)
{
    const char *advice = "";
    if (errno == EADDRINUSE) {
        advice = "; is another attnd running? stop it, or choose another with --set "
                 "http.endpoint=..., or --set http.enabled=false";
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "http.endpoint: cannot bind %s: %s%s", endpoint, reason,
             advice);
    return -1;
}

/* Returns -1, with errno as it was. */
static int listen_close(int fd)
{
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int listen_open_socket(const struct sockaddr *address, socklen_t size)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, address, size) == 0 && listen(fd, BACKLOG) == 0) {
        return fd;
    }
    return listen_close(fd);
}

/* The port is at the same place in an address of either family. */
static void listen_read_bound(int fd, const char *host, char *endpoint)
{
    struct sockaddr_in address = {.sin_port = 0};
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    snprintf(endpoint, ENDPOINT_MAX, strchr(host, ':') ? "tcp://[%.200s]:%u" : "tcp://%.200s:%u",
             host, ntohs(address.sin_port));
}

/* A file that an attnd which was killed has left makes room. */
static int listen_at_path(const char *endpoint, char *reterr)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = endpoint + strlen(ipc_scheme);
    struct stat status;
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
    } else if (endpoint_answers(endpoint)) {
        errno = EADDRINUSE;
    } else {
        strcpy(address.sun_path, path);
        if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode)) {
            unlink(path);
        }
        int fd = listen_open_socket((const struct sockaddr *)&address, sizeof address);
        if (fd >= 0 && chmod(path, endpoint_mode(path)) == 0) {
            return fd;
        }
        if (fd >= 0) {
            listen_close(fd);
        }
    }
    return listen_fail(endpoint, strerror(errno), reterr);
}

int http_listen(char *endpoint, char *reterr)
{
    if (strncmp(endpoint, ipc_scheme, strlen(ipc_scheme)) == 0) {
        return listen_at_path(endpoint, reterr);
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *address = NULL;
    char host[ENDPOINT_MAX], port[8];
    errno = 0;
    /* "tcp://host:port" to host and port; "*" is any address, port "*" is 0. */
    static const char scheme[] = "tcp://";
    const char *colon = strrchr(endpoint, ':');
    if (strncmp(endpoint, scheme, strlen(scheme)) != 0 || strlen(colon + 1) > 5) {
        return listen_fail(endpoint, "HTTP needs tcp://host:port or ipc://path", reterr);
    }
    const char *from = endpoint + strlen(scheme);
    size_t length = (size_t)(colon - from);
    if (length >= 2 && from[0] == '[' && from[length - 1] == ']') {
        from++;
        length -= 2;
    }
    snprintf(host, ENDPOINT_MAX, "%.*s", (int)length, from);
    snprintf(port, 8, "%s", strcmp(colon + 1, "*") == 0 ? "0" : colon + 1);
    int rc = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &hints, &address);
    if (rc != 0) {
        return listen_fail(endpoint, gai_strerror(rc), reterr);
    }
    int fd = listen_open_socket(address->ai_addr, address->ai_addrlen), error = errno;
    freeaddrinfo(address);
    errno = error;
    if (fd < 0) {
        return listen_fail(endpoint, strerror(errno), reterr);
    }
    listen_read_bound(fd, host, endpoint);
    return fd;
}
