/* SPDX-License-Identifier: MIT */
/* An ipc:// path whose socket file is left over from a killed daemon is free to take: ZeroMQ
 * unlinks and binds. It would also do that to the socket of a daemon that runs, which would then
 * starve silently; therefore we try to connect first, and refuse when somebody answers. */
#include "endpoint.h"

#include "activation.h"
#include "config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

/* Peers that vanish without closing are noticed after VANISHED_MS, by the kernel's probes. Not by
 * ZeroMQ's heartbeats: when a connection breaks while its queue is full, libzmq 4.3.4 gives its
 * descriptor up and keeps the rest, and the next ping aborts the process (timer_event in its
 * stream_engine_base.cpp). */
#define PROBE_AFTER_S    5
#define PROBE_INTERVAL_S 5
#define PROBES           2
#define VANISHED_MS      15000
#define HANDSHAKE_MS     5000

enum io_thread { THREAD_IN, THREAD_OUT, THREAD_COUNT };

static bool ipc_answers(const char *endpoint)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = endpoint + strlen("ipc://");
    if (strncmp(endpoint, "ipc://", strlen("ipc://")) != 0 ||
        strlen(path) >= sizeof address.sun_path)
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    memcpy(address.sun_path, path, strlen(path) + 1);
    bool answers = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return answers;
}

static const char *advice(int error)
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

static void *fail(void *socket, const struct endpoint_options *options, int error, char *reterr)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "%s: cannot bind %s: %s%s", options->key, options->endpoint,
             zmq_strerror(error), advice(error));
    if (socket)
        zmq_close(socket);
    return NULL;
}

static int set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int set_probes(void *socket)
{
    int rc = set_int(socket, ZMQ_TCP_KEEPALIVE, 1);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_IDLE, PROBE_AFTER_S);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_INTVL, PROBE_INTERVAL_S);
    rc |= set_int(socket, ZMQ_TCP_KEEPALIVE_CNT, PROBES);
    rc |= set_int(socket, ZMQ_TCP_MAXRT,
                  VANISHED_MS); /* the same while something is unacknowledged */
    return rc;
}

/* Publishers of ours are XPUB; everything else takes in. */
static int set_thread(void *socket, int type)
{
    uint64_t thread = UINT64_C(1) << (type == ZMQ_XPUB ? THREAD_OUT : THREAD_IN);
    return zmq_setsockopt(socket, ZMQ_AFFINITY, &thread, sizeof thread);
}

static int set_limits(void *socket, const struct endpoint_options *options)
{
    int rc = set_int(socket, ZMQ_LINGER, options->linger_ms);
    rc |= set_thread(socket, options->type);
    rc |=
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &options->max_message, sizeof options->max_message);
    rc |= set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    rc |= set_probes(socket);
    if (options->receive_queue)
        rc |= set_int(socket, ZMQ_RCVHWM, options->receive_queue);
    if (options->send_queue)
        rc |= set_int(socket, ZMQ_SNDHWM, options->send_queue);
    return rc;
}

static void read_bound(void *socket, char *endpoint)
{
    char bound[ENDPOINT_MAX];
    size_t size = sizeof bound;
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size) == 0)
        strcpy(endpoint, bound);
}

/* The socket that a service manager opened for this key's section, or -1. */
static int take_handed_over(const struct endpoint_options *options)
{
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(options->key, "."), options->key);
    return activation_take(name, options->endpoint);
}

/* ZeroMQ takes over a descriptor when it binds, and only then. */
static int bind_socket(void *socket, const struct endpoint_options *options, int fd)
{
    if (fd >= 0 && set_int(socket, ZMQ_USE_FD, fd) != 0)
        return -1;
    return zmq_bind(socket, options->endpoint);
}

void *endpoint_context_new(void)
{
    void *context = zmq_ctx_new();
    if (context)
        zmq_ctx_set(context, ZMQ_IO_THREADS, THREAD_COUNT);
    return context;
}

void *endpoint_bind(void *zmq_context, const struct endpoint_options *options, char *reterr)
{
    int fd = take_handed_over(options);
    if (fd < 0 && ipc_answers(options->endpoint))
        return fail(NULL, options, EADDRINUSE, reterr);
    void *socket = zmq_socket(zmq_context, options->type);
    if (!socket)
        return fail(NULL, options, zmq_errno(), reterr);
    if (set_limits(socket, options) != 0 || bind_socket(socket, options, fd) != 0)
        return fail(socket, options, zmq_errno(), reterr);
    read_bound(socket, options->endpoint);
    return socket;
}
