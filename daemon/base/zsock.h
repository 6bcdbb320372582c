/* SPDX-License-Identifier: MIT */
/* zsock: a ZeroMQ socket on a libuv loop.
 *
 * ZeroMQ's descriptor is edge-triggered in meaning: it becomes readable when the socket's command
 * mailbox goes from empty to non-empty, and every send, receive or look at ZMQ_EVENTS uses that
 * signal up. libuv polls for levels. A callback that reads one message per wake-up therefore stalls
 * for ever with messages waiting. So before each poll (prepare) we look at ZMQ_EVENTS ourselves: if
 * there is something to read, an idle handle keeps the poll from sleeping; after the poll (check)
 * we read a bounded number of messages, so that one busy socket cannot starve the rest of the loop.
 * The descriptor is polled only to wake up.
 *
 * Loop thread only. */
#ifndef DAEMON_BASE_ZSOCK_H
#define DAEMON_BASE_ZSOCK_H

#include <stdbool.h>
#include <uv.h>

struct zsock;

/* Something is to be read: receive one message, with ZMQ_DONTWAIT. */
typedef void (*zsock_reader)(struct zsock *zsock);
/* Opens a socket in the place of one that is closed; NULL when that fails. */
typedef void *(*zsock_opener)(void *data);

struct zsock {
    void *socket; /* the ZeroMQ socket; owned once zsock_init succeeded; NULL: see zsock_renew */
    void *data;   /* the user's */
    zsock_reader read;
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_loop_t *loop;
    int open_handles;
    zsock_opener open;
    void (*on_closed)(struct zsock *zsock);
};

/* Takes the bound socket over. Returns 0 or libuv's error (then the caller keeps the socket). */
int zsock_init(struct zsock *zsock, uv_loop_t *loop, void *socket, zsock_reader read, void *data);

/* Closes the socket, with all its connections, and takes the one that `open` returns in its place
 * when libuv has let go of it. When there is none, `socket` is NULL, which ZeroMQ refuses to send
 * to, until zsock_renew is called again. */
void zsock_renew(struct zsock *zsock, zsock_opener open);

/* Stops reading; the ZeroMQ socket is closed in the last close callback, never before libuv has let
 * go of its descriptor. `on_closed` is called after that, from the loop, and may free the zsock. */
void zsock_close(struct zsock *zsock, void (*on_closed)(struct zsock *zsock));

#endif
