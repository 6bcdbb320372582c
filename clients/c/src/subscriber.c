/* SPDX-License-Identifier: MIT */
/* The reader's side: a SUB socket. */

#include "clients/c/src/drain.h"
#include "clients/c/src/result.h"
#include "clients/c/src/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    rc = link_subscribe(&subscriber->link, subscriber->context, options->prefix,
                        (int64_t)mpk_result_limits.bytes, &target);
    return rc ? rc
              : drain_start(&subscriber->drain, subscriber->context, &subscriber->link, RESULTS_MAX,
                            RESULTS_BYTES_MAX);
}

int attn_subscriber_new(const attn_subscriber_options *options, attn_subscriber **ret_subscriber)
{
    attn_subscriber_options defaults;
    attn_subscriber *subscriber;
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
    int rc = subscriber_set_up(subscriber, options);
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
    socket_context_free((*subscriber)->context);
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

int attn_subscriber_next(attn_subscriber *subscriber, int timeout_ms, attn_result **ret_result)
{
    zmq_msg_t frames[2]; /* topic, body */
    int rc = subscriber_wait_until(subscriber->drain.socket, timeout_ms);
    if (rc) {
        return rc;
    }
    uint32_t count = drain_receive(&subscriber->drain, frames, 2);
    if (count == 0) {
        return ATTN_E_TRANSPORT;
    }
    rc = count == 2 ? result_new(zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0]), &frames[1],
                                 ret_result)
                    : ATTN_E_MESSAGE;
    for (uint32_t i = 0; i < count && i < 2; i++) {
        zmq_msg_close(&frames[i]);
    }
    return rc;
}
