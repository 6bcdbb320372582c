/* SPDX-License-Identifier: MIT */
#include "daemon/base/zsock.h"

#include <zmq.h>

/* Messages read per turn of the loop: enough to keep up, few enough that other handles get their
 * turn. */
#define READS_PER_TURN 64

static bool zsock_readable(const struct zsock *zsock)
{
    int events = 0;
    size_t size = sizeof events;
    return zmq_getsockopt(zsock->socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* its being active is what counts: the poll does not sleep */
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)poll, (void)status, (void)events; /* woken up: the check handle reads */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct zsock *zsock = prepare->data;
    if (zsock_readable(zsock)) {
        uv_idle_start(&zsock->idle, on_idle);
    } else {
        uv_idle_stop(&zsock->idle);
    }
}

static void on_check(uv_check_t *check)
{
    struct zsock *zsock = check->data;
    for (int i = 0; i < READS_PER_TURN && zsock_readable(zsock); i++) {
        zsock->read(zsock);
    }
}

static int init_poll(struct zsock *zsock, uv_loop_t *loop)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(zsock->socket, ZMQ_FD, &fd, &size) != 0) {
        return UV_EINVAL;
    }
    return uv_poll_init(loop, &zsock->poll, fd);
}

int zsock_init(struct zsock *zsock, uv_loop_t *loop, void *socket, zsock_reader read, void *data)
{
    *zsock = (struct zsock){.socket = socket, .data = data, .read = read, .open_handles = 4};
    int rc = init_poll(zsock, loop);
    if (rc != 0) {
        return rc;
    }
    uv_prepare_init(loop, &zsock->prepare);
    uv_check_init(loop, &zsock->check);
    uv_idle_init(loop, &zsock->idle);
    zsock->poll.data = zsock->prepare.data = zsock->check.data = zsock->idle.data = zsock;
    uv_prepare_start(&zsock->prepare, on_prepare);
    uv_check_start(&zsock->check, on_check);
    return uv_poll_start(&zsock->poll, UV_READABLE, on_poll);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct zsock *zsock = handle->data;
    if (--zsock->open_handles > 0) {
        return;
    }
    zmq_close(zsock->socket);
    zsock->on_closed(zsock);
}

void zsock_close(struct zsock *zsock, void (*on_closed)(struct zsock *zsock))
{
    zsock->on_closed = on_closed;
    uv_close((uv_handle_t *)&zsock->poll, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->check, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->idle, on_handle_closed);
}
