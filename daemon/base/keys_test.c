/* SPDX-License-Identifier: MIT */
#include "daemon/base/keys_internal.h"

#include "config/config.h"
#include "daemon/base/clock.h"
#include "proto/key.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

/* How long a socket may take to refuse the test; it takes milliseconds. */
#define TEST_MS 30000

/* The socket type that such a one talks to. */
static int keys_peer(int type)
{
    return type == ZMQ_SUB ? ZMQ_PUB : type == ZMQ_XPUB ? ZMQ_SUB : ZMQ_DEALER;
}

/* A frame of an event; a signal may come while it is read. */
static int keys_read_event(void *monitor, char ret_frame[ENDPOINT_MAX])
{
    int length;
    do {
        length = zmq_recv(monitor, ret_frame, ENDPOINT_MAX, 0);
    } while (length < 0 && zmq_errno() == EINTR);
    return length;
}

/* Waits for the end of a handshake. Returns its event, 0 when none came. */
static int keys_handshake(void *monitor)
{
    uint64_t until_ns = clock_monotonic_ns() + TEST_MS * UINT64_C(1000000);
    zmq_pollitem_t item = {.socket = monitor, .events = ZMQ_POLLIN};
    while (clock_monotonic_ns() < until_ns) {
        char frame[ENDPOINT_MAX];
        uint16_t event = 0;
        if (zmq_poll(&item, 1, TEST_MS / 100) <= 0) {
            continue;
        }
        if (keys_read_event(monitor, frame) >= (int)sizeof event) {
            memcpy(&event, frame, sizeof event);
        }
        keys_read_event(monitor, frame); /* the address */
        if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH || event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            return event;
        }
    }
    return 0;
}

int keys_knock(int type, const char *endpoint, const char *server, const char *public,
               const char *secret)
{
    char reachable[ENDPOINT_MAX];
    void *context = zmq_ctx_new();
    void *socket = context ? zmq_socket(context, keys_peer(type)) : NULL;
    void *monitor = context ? zmq_socket(context, ZMQ_PAIR) : NULL;
    int event = 0;
    /* An address to connect to, of what is bound: any address of this machine is its own, too. */
    static const char *const any[][2] = {{"tcp://0.0.0.0:", "tcp://127.0.0.1:"},
                                         {"tcp://[::]:", "tcp://[::1]:"}};
    snprintf(reachable, ENDPOINT_MAX, "%s", endpoint);
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(any[i][0]);
        if (strncmp(endpoint, any[i][0], length) == 0) {
            snprintf(reachable, ENDPOINT_MAX, "%s%s", any[i][1], endpoint + length);
        }
    }
    if (socket && monitor) {
        /* The socket of a stranger. */
        const int none = 0;
        int rc = zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
        rc |= zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server, KEY_LENGTH + 1);
        rc |= zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, KEY_LENGTH + 1);
        rc |= zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret, KEY_LENGTH + 1);
        rc |= zmq_socket_monitor(socket, "inproc://test", ZMQ_EVENT_ALL);
        rc |= zmq_connect(monitor, "inproc://test");
        rc |= zmq_connect(socket, reachable);
        event = rc == 0 ? keys_handshake(monitor) : 0;
    }
    if (socket) {
        zmq_close(socket);
    }
    if (monitor) {
        zmq_close(monitor);
    }
    while (context && zmq_ctx_term(context) != 0 && zmq_errno() == EINTR) {
        /* a signal has come: it has not ended yet */
    }
    return event;
}
