/* SPDX-License-Identifier: MIT */
/* Several attnd may run on one machine, and a killed one leaves its socket files behind. So a place
 * counts only when a connection is accepted there; it is closed at once, which ZeroMQ takes for a
 * peer that changed its mind. */
#include "proto/address.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SERVICE_DIRECTORY "/run/attnd"

const char *const address_socket_name[ADDRESS_COUNT] = {
    [ADDRESS_INGEST] = "ingest", [ADDRESS_PUBLISH] = "publish",   [ADDRESS_CONTROL] = "control",
    [ADDRESS_TAP] = "tap",       [ADDRESS_RELIABLE] = "reliable",
};

__attribute__((format(printf, 2, 3))) static int address_fail(char *reterr, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reterr, ADDRESS_REASON_MAX, format, arguments);
    va_end(arguments);
    return -1;
}

static int ipc_endpoint(const char *directory, enum address_socket which, char *ret_endpoint,
                        char *reterr)
{
    struct sockaddr_un limit;
    size_t length = strlen(directory);
    while (length > 1 && directory[length - 1] == '/') {
        length--;
    }
    /* The longest name counts for all, so that a directory works as a whole or not at all. */
    if (length + strlen("/reliable") >= sizeof limit.sun_path) {
        return address_fail(reterr,
                            "'%.200s': too long: a directory of sockets has at most %zu bytes",
                            directory, sizeof limit.sun_path - strlen("/reliable") - 1);
    }
    snprintf(ret_endpoint, ADDRESS_MAX, "ipc://%.*s/%s", (int)length, directory,
             address_socket_name[which]);
    return 0;
}

int address_endpoint(const char *address, enum address_socket which, char ret_endpoint[ADDRESS_MAX],
                     char reterr[ADDRESS_REASON_MAX])
{
    if (*address == '/') {
        return ipc_endpoint(address, which, ret_endpoint, reterr);
    }
    if (strncmp(address, "tcp://", strlen("tcp://")) == 0) {
        const char *colon = strrchr(address, ':');
        const char *host = address + strlen("tcp://");
        unsigned long port = 0;
        char *end = NULL;
        if (colon > host && colon[1] >= '0' && colon[1] <= '9') {
            port = strtoul(colon + 1, &end, 10);
        }
        if (!end || *end || port == 0 || port > UINT16_MAX - ADDRESS_COUNT + 1) {
            return address_fail(reterr, "'%.200s': not tcp://host:port with a port from 1 to %d",
                                address, UINT16_MAX - ADDRESS_COUNT + 1);
        }
        int length = snprintf(ret_endpoint, ADDRESS_MAX, "%.*s:%lu", (int)(colon - address),
                              address, port + which);
        return length < ADDRESS_MAX ? 0 : address_fail(reterr, "'%.200s...': too long", address);
    }
    if (strstr(address, "://")) {
        return address_fail(reterr,
                            "'%.200s': an address is a directory or tcp://host:port (one socket is "
                            "named by an endpoint)",
                            address);
    }
    if (strchr(address, ':')) {
        return address_fail(reterr, "'%.200s': write tcp://%.200s", address, address);
    }
    return address_fail(reterr, "'%.200s': a directory is written in full, from /", address);
}

void address_places(uid_t uid, const char *runtime_dir, struct address_places *ret_places)
{
    char(*directory)[ADDRESS_MAX] = ret_places->directory;
    int count = 0;
    if (runtime_dir && *runtime_dir == '/' &&
        snprintf(directory[0], ADDRESS_MAX, "%s/attnd", runtime_dir) < ADDRESS_MAX) {
        count = 1;
    }
    snprintf(directory[count], ADDRESS_MAX, "/run/user/%u/attnd", (unsigned)uid);
    if (count == 0 || strcmp(directory[0], directory[1]) != 0) {
        count++;
    }
    snprintf(directory[count++], ADDRESS_MAX, "/tmp/attnd-%u", (unsigned)uid);
    snprintf(directory[count++], ADDRESS_MAX, SERVICE_DIRECTORY);
    ret_places->count = count;
}

void address_default(uid_t uid, const char *runtime_dir, char ret_directory[ADDRESS_MAX])
{
    int length = ADDRESS_MAX;
    if (runtime_dir && *runtime_dir == '/') {
        length = snprintf(ret_directory, ADDRESS_MAX, "%s/attnd", runtime_dir);
    }
    if (length >= ADDRESS_MAX) {
        snprintf(ret_directory, ADDRESS_MAX, "/tmp/attnd-%u", (unsigned)uid);
    }
}

int address_is_trusted(const char *directory, uid_t uid, char reterr[ADDRESS_REASON_MAX])
{
    struct stat status;
    bool is_service = strcmp(directory, SERVICE_DIRECTORY) == 0;
    if (lstat(directory, &status) != 0) {
        return errno == ENOENT ? -ENOENT
                               : address_fail(reterr, "%s: %s", directory, strerror(errno));
    }
    if (!S_ISDIR(status.st_mode)) {
        return address_fail(reterr, "%s: not a directory", directory);
    }
    if (!is_service && status.st_uid != uid && status.st_uid != 0) {
        return address_fail(reterr, "%s: belongs to user %u", directory, (unsigned)status.st_uid);
    }
    if (status.st_mode & (is_service ? S_IWOTH : S_IWGRP | S_IWOTH)) {
        return address_fail(reterr, "%s: others can write to it (mode %04o)", directory,
                            (unsigned)(status.st_mode & 07777));
    }
    return 0;
}

int address_knock(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int error = 0;
    if (strlen(path) >= sizeof address.sun_path) {
        return ENAMETOOLONG;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0 && errno != EAGAIN) {
        error = errno; /* EAGAIN: somebody listens, and is busy */
    }
    close(fd);
    return error;
}

/* Returns 0 with the endpoint when somebody answers there, -ENOENT when nobody does, or -1 with a
 * reason that the user should know. */
static int try_place(const char *directory, enum address_socket which, char *ret_endpoint,
                     char *reterr)
{
    char endpoint[ADDRESS_MAX];
    /* A path that no socket can have is the reason, whether or not the directory is there. */
    int rc = ipc_endpoint(directory, which, endpoint, reterr);
    if (rc == 0) {
        rc = address_is_trusted(directory, geteuid(), reterr);
    }
    if (rc != 0) {
        return rc;
    }
    int error = address_knock(endpoint + strlen("ipc://"));
    if (error == ENOENT || error == ECONNREFUSED) {
        return -ENOENT;
    }
    if (error != 0) {
        return address_fail(reterr, "%s: %s", directory, strerror(error));
    }
    memcpy(ret_endpoint, endpoint, sizeof endpoint);
    return 0;
}

int address_search(const char *runtime_dir, enum address_socket which,
                   char ret_endpoint[ADDRESS_MAX], char reterr[ADDRESS_REASON_MAX])
{
    struct address_places places;
    char list[ADDRESS_REASON_MAX / 2] = "", reasons[ADDRESS_PLACES_MAX * 304] = "";
    size_t listed = 0, reasoned = 0;
    address_places(geteuid(), runtime_dir, &places);
    for (int i = 0; i < places.count; i++) {
        char reason[ADDRESS_REASON_MAX];
        int rc = try_place(places.directory[i], which, ret_endpoint, reason);
        if (rc == 0) {
            return 0;
        }
        listed += (size_t)snprintf(list + listed, sizeof list - listed, "%s%.100s", i ? ", " : "",
                                   places.directory[i]);
        if (rc == -1) {
            reasoned +=
                (size_t)snprintf(reasons + reasoned, sizeof reasons - reasoned, "; %.300s", reason);
        }
    }
    return address_fail(reterr, "no attnd answers in %s%s", list, reasons);
}

int address_find(const char *address, enum address_socket which, char ret_endpoint[ADDRESS_MAX],
                 char reterr[ADDRESS_REASON_MAX])
{
    if (!address || !*address) {
        address = getenv("ATTND_ADDRESS");
    }
    if (address && *address) {
        return address_endpoint(address, which, ret_endpoint, reterr);
    }
    return address_search(getenv("XDG_RUNTIME_DIR"), which, ret_endpoint, reterr);
}
