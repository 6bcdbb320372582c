/* SPDX-License-Identifier: MIT */
/* The reader's side: a SUB socket. */
#include "clients/c/include/attn/attn.h"

#include "clients/c/src/drain.h"
#include "proto/mpk.h"
#include "clients/c/src/result.h"
#include "clients/c/src/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* Results that wait for attn_subscriber_next. */
#define RESULTS_MAX       1000
#define RESULTS_BYTES_MAX (UINT64_C(256) << 20)

struct attn_subscriber {
    void *context;
    struct link link; /* the drain's */
    struct drain drain;
};

void attn_subscriber_options_default(attn_subscriber_options *ret_options)
{
    *ret_options = (attn_subscriber_options){.prefix = "summary/"};
}

static int subscriber_set_up(attn_subscriber *subscriber, const attn_subscriber_options *options)
{
    static const struct socket_option socket_options[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_TCP_KEEPALIVE_IDLE, 5},
        {ZMQ_TCP_KEEPALIVE_INTVL, 5},
        {ZMQ_TCP_KEEPALIVE_CNT, 2},
        {ZMQ_RECONNECT_IVL, 100},
        {ZMQ_RECONNECT_IVL_MAX, 2000},
    };
    struct link_target target;
    int rc = link_name(options->endpoint, options->address, ADDRESS_PUBLISH, LINK_LOOK_EVERY_MS,
                       &target);

    if (rc) {
        return rc;
    }
    subscriber->context = socket_context_new();
    if (!subscriber->context) {
        return ATTN_E_MEMORY;
    }
    rc = link_open(&subscriber->link, subscriber->context, ZMQ_SUB, socket_options,
                   sizeof socket_options / sizeof socket_options[0],
                   (int64_t)mpk_result_limits.bytes, &target);
    if (!rc && zmq_setsockopt(subscriber->link.socket, ZMQ_SUBSCRIBE, options->prefix,
                              strlen(options->prefix)) != 0) {
        rc = ATTN_E_TRANSPORT;
    }
    return rc ? rc
              : drain_start(&subscriber->drain, subscriber->context, &subscriber->link, RESULTS_MAX,
                            RESULTS_BYTES_MAX);
}

int attn_subscriber_new(const attn_subscriber_options *options, attn_subscriber **ret_subscriber)
{
    attn_subscriber_options defaults;
    attn_subscriber *subscriber;
    int rc;

    attn_subscriber_options_default(&defaults);
    if (!options) {
        options = &defaults;
    }
    if (!ret_subscriber || !options->prefix) {
        return ATTN_E_ARGUMENT;
    }
    subscriber = calloc(1, sizeof *subscriber);
    if (!subscriber) {
        return ATTN_E_MEMORY;
    }
    rc = subscriber_set_up(subscriber, options);
    if (rc) {
        attn_subscriber_free(&subscriber);
    } else {
        *ret_subscriber = subscriber;
    }
    return rc;
}

void attn_subscriber_free(attn_subscriber **subscriber)
{
    if (!subscriber || !*subscriber) {
        return;
    }
    drain_stop(&(*subscriber)->drain);
    link_close(&(*subscriber)->link);
    if ((*subscriber)->context) {
        socket_context_free((*subscriber)->context);
    }
    free(*subscriber);
    *subscriber = NULL;
}

/* Waits until something can be received. Returns 0, ATTN_E_TIMEOUT or ATTN_E_TRANSPORT. */
static int subscriber_wait_until(void *socket, int timeout_ms)
{
    zmq_pollitem_t item = {.socket = socket, .events = ZMQ_POLLIN};
    uint64_t deadline = socket_now_ms() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);

    for (;;) {
        uint64_t now = socket_now_ms();
        long left = timeout_ms < 0 ? -1 : now < deadline ? (long)(deadline - now) : 0;
        int rc = zmq_poll(&item, 1, left);

        if (rc > 0 || (rc < 0 && errno != EINTR)) {
            return rc > 0 ? 0 : ATTN_E_TRANSPORT;
        }
        if (left == 0) {
            return ATTN_E_TIMEOUT;
        }
    }
}

static int subscriber_receive_frame(struct drain *drain, zmq_msg_t *frame)
{
    int rc;

    do {
        rc = zmq_msg_recv(frame, drain->socket, ZMQ_DONTWAIT);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return ATTN_E_TRANSPORT;
    }
    drain_taken(drain, frame);
    return 0;
}

/* Receives a whole message: its first two frames, and the number of all. */
static int subscriber_receive(struct drain *drain, zmq_msg_t *topic, zmq_msg_t *body,
                              unsigned *ret_frames)
{
    zmq_msg_t extra;
    int rc = subscriber_receive_frame(drain, topic);
    bool more = !rc && zmq_msg_more(topic);

    *ret_frames = 1;
    zmq_msg_init(&extra);
    while (!rc && more) {
        zmq_msg_t *frame = ++*ret_frames == 2 ? body : &extra;

        rc = subscriber_receive_frame(drain, frame);
        more = !rc && zmq_msg_more(frame);
    }
    zmq_msg_close(&extra);
    return rc;
}

int attn_subscriber_next(attn_subscriber *subscriber, int timeout_ms, attn_result **ret_result)
{
    zmq_msg_t topic, body;
    unsigned frames;
    int rc = subscriber_wait_until(subscriber->drain.socket, timeout_ms);

    if (rc) {
        return rc;
    }
    zmq_msg_init(&topic);
    zmq_msg_init(&body);
    rc = subscriber_receive(&subscriber->drain, &topic, &body, &frames);
    if (!rc) {
        rc = frames == 2 ? result_new(zmq_msg_data(&topic), zmq_msg_size(&topic), &body, ret_result)
                         : ATTN_E_MESSAGE;
    }
    zmq_msg_close(&topic);
    zmq_msg_close(&body);
    return rc;
}
