/* SPDX-License-Identifier: MIT */
/* An ipc:// path whose socket file is left over from a killed daemon is free to take: ZeroMQ
 * unlinks and binds. It would also do that to the socket of a daemon that runs, which would then
 * starve silently; therefore we try to connect first, and refuse when somebody answers.
 *
 * A socket whose file has gone is bound once more, beside what it is bound to: ZeroMQ's unbinding
 * is asynchronous and could take the new one away. */
#include "daemon/base/endpoint.h"

#include "daemon/base/activation.h"
#include "daemon/base/clock.h"
#include "config/config.h"
#include "daemon/base/log.h"
#include "proto/address.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

/* The receive queue has no limit: memory is bounded by reading all the time, and libzmq (4.3.4 and
 * 4.3.5) can end a process whose queue has one (README.md, "Asserts of libzmq"). Peers that vanish
 * without closing are noticed after VANISHED_MS, by the kernel's probes. */
#define NO_LIMIT         0
#define PROBE_AFTER_S    5
#define PROBE_INTERVAL_S 5
#define PROBES           2
#define VANISHED_MS      15000
#define HANDSHAKE_MS     5000
/* attnd pings trainers, from a socket that does not linger, and a trainer that misses the pings
 * takes attnd to hang. Trainers send none: a socket of theirs lingers (README.md, as above). */
#define PING_EVERY_MS 1000
#define PING_LIVES_MS 3000
/* The limit of a frame is also that of the frames of a handshake with keys: at most 257 bytes and a
 * peer's metadata. */
#define HANDSHAKE_BYTES 1024
/* How long a socket that takes the place of another one waits for it. */
#define AGAIN_NS UINT64_C(2000000000)

enum io_thread { THREAD_IN, THREAD_OUT, THREAD_COUNT };

/* The path of an ipc:// endpoint in the file system, or NULL. */
static const char *endpoint_file_of(const char *endpoint)
{
    size_t scheme = strlen("ipc://");
    return strncmp(endpoint, "ipc://", scheme) == 0 && endpoint[scheme] != '@' ? endpoint + scheme
                                                                               : NULL;
}

bool endpoint_answers(const char *endpoint)
{
    const char *path = endpoint_file_of(endpoint);
    return path && address_knock(path) == 0;
}

mode_t endpoint_mode(const char *path)
{
    char directory[ENDPOINT_MAX];
    struct stat status;
    const char *slash = strrchr(path, '/');
    snprintf(directory, sizeof directory, "%.*s", slash ? (int)(slash - path) : 1,
             slash ? path : ".");
    bool for_group =
        stat(directory, &status) == 0 && (status.st_mode & S_IXGRP) && !(status.st_mode & S_IRWXO);
    return for_group ? 0660 : 0600;
}

static void know_file(struct endpoint_file *file, const char *endpoint)
{
    const char *path = endpoint_file_of(endpoint);
    struct stat status;
    if (!path) {
        return;
    }
    chmod(path, endpoint_mode(path)); /* it was made for this user alone: main has set the umask */
    atomic_store(&file->inode, lstat(path, &status) == 0 ? (uint64_t)status.st_ino : UINT64_MAX);
}

bool endpoint_is_lost(const char *endpoint, const struct endpoint_file *file)
{
    const char *path = endpoint_file_of(endpoint);
    uint64_t inode = atomic_load(&file->inode);
    struct stat now;
    return inode && !(path && lstat(path, &now) == 0 && now.st_ino == inode);
}

void endpoint_keep(void *socket, const char *endpoint, struct endpoint_file *file)
{
    if (!endpoint_is_lost(endpoint, file)) {
        return;
    }
    int error = endpoint_answers(endpoint) ? EADDRINUSE : 0;
    if (!error && zmq_bind(socket, endpoint) != 0) {
        error = zmq_errno();
    }
    if (!error) {
        know_file(file, endpoint);
        file->failures = 0;
        log_event(LOG_WARNING, "socket_bound_again", LOG_STR("key", file->key),
                  LOG_STR("endpoint", endpoint));
    } else if (log_is_round(file->failures++)) {
        log_event(LOG_WARNING, "socket_lost", LOG_STR("key", file->key),
                  LOG_STR("endpoint", endpoint), LOG_STR("reason", zmq_strerror(error)));
    }
}

static const char *endpoint_advice(int error)
{
    switch (error) {
    case EADDRINUSE:
        return "; is another attnd running? stop it, or choose another endpoint with --set";
    case EACCES:
    case EPERM:
        return "; choose an endpoint this user may bind, with --set";
    case ENOENT:
        return "; create the directory first";
    case EADDRNOTAVAIL:
    case ENODEV:
        return "; the host is not an address of this machine";
    default:
        return "";
    }
}

static void *endpoint_fail(void *socket, const struct endpoint_options *options, int error,
                           char *reterr)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "%s: cannot bind %s: %s%s", options->key, options->endpoint,
             zmq_strerror(error), endpoint_advice(error));
    if (socket) {
        zmq_close(socket);
    }
    return NULL;
}

static int set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int set_limits(void *socket, const struct endpoint_options *options)
{
    /* Answers are as large as results, and as many as clients ask for: messages of trainers do not
     * wait for either. */
    bool out = options->type == ZMQ_XPUB || options->answers;
    uint64_t thread = UINT64_C(1) << (out ? THREAD_OUT : THREAD_IN);
    int rc = set_int(socket, ZMQ_LINGER, options->linger_ms);
    rc |= zmq_setsockopt(socket, ZMQ_AFFINITY, &thread, sizeof thread);
    rc |=
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &options->max_message, sizeof options->max_message);
    rc |= set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE, 1);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_IDLE, PROBE_AFTER_S);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_INTVL, PROBE_INTERVAL_S);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_CNT, PROBES);
    /* The same while something is unacknowledged. */
    rc |= set_int(socket, ZMQ_TCP_MAXRT, VANISHED_MS);
    rc |= set_int(socket, ZMQ_RCVHWM, NO_LIMIT);
    if (options->type == ZMQ_SUB) {
        rc |= set_int(socket, ZMQ_HEARTBEAT_IVL, PING_EVERY_MS);
        rc |= set_int(socket, ZMQ_HEARTBEAT_TTL, PING_LIVES_MS);
        /* An answer may wait behind a large tensor. */
        rc |= set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, 0);
    }
    if (options->send_queue) {
        rc |= set_int(socket, ZMQ_SNDHWM, options->send_queue);
    }
    return rc;
}

bool endpoint_is_secured(const struct keyring *keys, const char *endpoint)
{
    return keys && strncmp(endpoint, "tcp://", strlen("tcp://")) == 0;
}

/* ZeroMQ takes over a descriptor when it binds, and only then. A socket that is closed lets go of
 * its port a moment later. */
static int bind_socket(void *socket, const struct endpoint_options *options, int fd)
{
    uint64_t until_ns = clock_monotonic_ns() + AGAIN_NS;
    int rc;
    if (set_int(socket, ZMQ_USE_FD, fd) != 0) {
        return -1;
    }
    while ((rc = zmq_bind(socket, options->endpoint)) != 0 && options->again &&
           zmq_errno() == EADDRINUSE && clock_monotonic_ns() < until_ns) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return rc;
}

/* Binds a socket that asks for keys at the second address, too, as the owner of the next key: what
 * it is bound to already keeps its options. */
static int endpoint_bind_next(void *socket, const char *name,
                              const struct endpoint_options *options, char *reterr)
{
    char endpoint[ENDPOINT_MAX];
    struct endpoint_options next = *options;
    next.endpoint = endpoint;
    if (!keys_next_endpoint(options->keys, name, endpoint)) {
        return 0;
    }
    if (keys_secure(options->keys, socket, name, KEYS_NEXT) != 0 ||
        bind_socket(socket, &next, -1) != 0) {
        int error = zmq_errno();
        snprintf(reterr, CONFIG_ERROR_MAX, "keys.next_address: cannot bind %s: %s%s", endpoint,
                 zmq_strerror(error), endpoint_advice(error));
        return -1;
    }
    return keys_test(options->keys, name, options->type, endpoint, KEYS_NEXT, reterr);
}

static int endpoint_secure(void *socket, const char *name, const struct endpoint_options *options)
{
    const int64_t handshake = HANDSHAKE_BYTES;
    if (!endpoint_is_secured(options->keys, options->endpoint)) {
        /* Whoever has a socket with a ZAP domain must speak ZMTP 3: the older ones begin so that a
         * request of a browser passes for them. Without keys nobody answers for the domain, and all
         * others get in. */
        const char domain[] = "open";
        bool is_open =
            !options->keys && strncmp(options->endpoint, "tcp://", strlen("tcp://")) == 0;
        return is_open ? zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) : 0;
    }
    int rc = keys_secure(options->keys, socket, name, KEYS_SERVER);
    if (options->max_message < handshake) {
        rc |= zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &handshake, sizeof handshake);
    }
    return rc;
}

void *endpoint_context_new(void)
{
    void *context = zmq_ctx_new();
    if (context) {
        zmq_ctx_set(context, ZMQ_IO_THREADS, THREAD_COUNT);
    }
    return context;
}

void *endpoint_bind(void *zmq_context, const struct endpoint_options *options, char *reterr)
{
    /* The socket that a service manager opened for this key's section, or -1. One that asks for
     * keys may be closed and taken once more. */
    char name[32]; /* "ingest" of "ingest.endpoint" */
    snprintf(name, sizeof name, "%.*s", (int)strcspn(options->key, "."), options->key);
    int fd = activation_take(name, options->endpoint);
    bool secured = endpoint_is_secured(options->keys, options->endpoint);
    fd = fd >= 0 && secured ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : fd;
    if (fd < 0 && endpoint_answers(options->endpoint)) {
        return endpoint_fail(NULL, options, EADDRINUSE, reterr);
    }
    void *socket = zmq_socket(zmq_context, options->type);
    if (!socket) {
        return endpoint_fail(NULL, options, zmq_errno(), reterr);
    }
    if (set_limits(socket, options) != 0 || endpoint_secure(socket, name, options) != 0 ||
        bind_socket(socket, options, fd) != 0) {
        return endpoint_fail(socket, options, zmq_errno(), reterr);
    }
    char bound[ENDPOINT_MAX];
    size_t size = sizeof bound;
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size) == 0) {
        strcpy(options->endpoint, bound);
    }
    /* A socket that strangers can reach must have turned one away before it is used. */
    if (secured && (keys_test(options->keys, name, options->type, options->endpoint, KEYS_SERVER,
                              reterr) != 0 ||
                    endpoint_bind_next(socket, name, options, reterr) != 0)) {
        zmq_close(socket);
        return NULL;
    }
    options->ret_file->key = options->key;
    if (fd < 0) {
        know_file(options->ret_file, options->endpoint);
    }
    return socket;
}
