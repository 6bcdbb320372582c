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

/* The handles exist from here on, whatever it returns. */
static int zsock_start(struct zsock *zsock)
{
    zsock->open_handles = 4;
    uv_prepare_init(zsock->loop, &zsock->prepare);
    uv_check_init(zsock->loop, &zsock->check);
    uv_idle_init(zsock->loop, &zsock->idle);
    zsock->poll.data = zsock->prepare.data = zsock->check.data = zsock->idle.data = zsock;
    uv_prepare_start(&zsock->prepare, on_prepare);
    uv_check_start(&zsock->check, on_check);
    return uv_poll_start(&zsock->poll, UV_READABLE, on_poll);
}

int zsock_init(struct zsock *zsock, uv_loop_t *loop, void *socket, zsock_reader read, void *data)
{
    *zsock = (struct zsock){.socket = socket, .data = data, .read = read, .loop = loop};
    int rc = init_poll(zsock, loop);
    return rc != 0 ? rc : zsock_start(zsock);
}

static void zsock_open_again(struct zsock *zsock)
{
    zsock->socket = zsock->open(zsock->data);
    if (zsock->socket && init_poll(zsock, zsock->loop) == 0) {
        zsock_start(zsock);
    } else if (zsock->socket) {
        zmq_close(zsock->socket);
        zsock->socket = NULL;
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct zsock *zsock = handle->data;
    if (--zsock->open_handles > 0) {
        return;
    }
    zmq_close(zsock->socket);
    zsock->socket = NULL;
    if (zsock->on_closed) {
        zsock->on_closed(zsock);
    } else {
        zsock_open_again(zsock);
    }
}

static void zsock_close_handles(struct zsock *zsock)
{
    if (uv_is_closing((uv_handle_t *)&zsock->poll)) {
        return;
    }
    uv_close((uv_handle_t *)&zsock->poll, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->check, on_handle_closed);
    uv_close((uv_handle_t *)&zsock->idle, on_handle_closed);
}

void zsock_renew(struct zsock *zsock, zsock_opener open)
{
    const int at_once = 0;
    zsock->open = open;
    if (zsock->open_handles == 0) {
        zsock_open_again(zsock);
        return;
    }
    zmq_setsockopt(zsock->socket, ZMQ_LINGER, &at_once, sizeof at_once);
    zsock_close_handles(zsock);
}

void zsock_close(struct zsock *zsock, void (*on_closed)(struct zsock *zsock))
{
    zsock->on_closed = on_closed;
    if (zsock->open_handles == 0) {
        on_closed(zsock);
    } else {
        zsock_close_handles(zsock);
    }
}
