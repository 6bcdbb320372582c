/* SPDX-License-Identifier: MIT */
/* The socket has the settings of PROTOCOL.md, but sends block: with ZMQ_XPUB_NODROP a full pipe
 * makes a message wait, and a time-out makes it look for Ctrl-C now and then. An XPUB drops what
 * nobody has subscribed to, so when a subscription ends, how much came through is not known: that
 * is the end. */
#include "clients/cli/recording/internal.h"

#include "proto/header.h"
#include "clients/cli/base/system.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

/* Messages that wait in ZeroMQ; each is a copy. */
#define SEND_QUEUE 16
/* How often a wait looks for Ctrl-C. */
#define LOOK_MS 100
/* Subscriptions are taken for complete when none has come for this long. */
#define SETTLE_MS 50
/* attnd that takes nothing for this long hangs. A message may take it a minute. */
#define STALL_S 600
/* Larger than any subscription attnd makes: a plan has 1024 bytes. */
#define NOTICE_BYTES_MAX 4096

/* Takes one notice within the time; whether there was one, and whether it ended a subscription. */
static bool sender_take_notice(struct sender *sender, int64_t wait_ms, bool *ret_ended)
{
    char notice[NOTICE_BYTES_MAX];
    zmq_pollitem_t item = {.socket = sender->socket, .events = ZMQ_POLLIN};
    if (wait_ms > 0 && zmq_poll(&item, 1, (long)wait_ms) <= 0) {
        return false;
    }
    int length = zmq_recv(sender->socket, notice, sizeof notice, ZMQ_DONTWAIT);
    if (length < 1 || (size_t)length > sizeof notice) {
        return false;
    }
    prefixes_apply(&sender->wanted, notice, (size_t)length);
    *ret_ended = *ret_ended || notice[0] == 0;
    return true;
}

static enum sender_status await_subscriptions(struct sender *sender, int timeout_ms)
{
    uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000;
    bool ended = false;
    while (!sender_take_notice(sender, LOOK_MS, &ended)) {
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
        if (now_ns() >= deadline) {
            return SENDER_NOBODY;
        }
    }
    while (sender_take_notice(sender, SETTLE_MS, &ended)) {
    }
    return ended ? SENDER_GONE : SENDER_OK;
}

enum sender_status sender_open(const struct rpc *rpc, const char *endpoint, int timeout_ms,
                               struct sender *ret_sender)
{
    static const struct socket_option options[] = {
        {ZMQ_IMMEDIATE, 1},        {ZMQ_XPUB_NODROP, 1},      {ZMQ_SNDHWM, SEND_QUEUE},
        {ZMQ_SNDTIMEO, LOOK_MS},   {ZMQ_HEARTBEAT_IVL, 1000}, {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_HANDSHAKE_IVL, 5000},
    };
    struct sender sender = {.socket = rpc_connect(rpc, ZMQ_XPUB, options,
                                                  sizeof options / sizeof options[0],
                                                  NOTICE_BYTES_MAX, endpoint)};
    if (!sender.socket) {
        return SENDER_ENDPOINT;
    }
    enum sender_status status = await_subscriptions(&sender, timeout_ms);
    if (status == SENDER_OK) {
        *ret_sender = sender;
    } else {
        sender_close(&sender);
    }
    return status;
}

/* One frame, waiting for room. */
static enum sender_status sender_send_frame(void *socket, struct recording_frame frame, int flags)
{
    uint64_t deadline = now_ns() + STALL_S * UINT64_C(1000000000);
    while (zmq_send(socket, frame.data, frame.size, flags) < 0) {
        if (errno == ENOMEM) {
            return SENDER_MEMORY;
        }
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
        if ((errno != EAGAIN && errno != EINTR) || now_ns() >= deadline) {
            return SENDER_GONE;
        }
    }
    return SENDER_OK;
}

/* Topics that no subscription can name are not wanted either. */
static bool sender_is_wanted(const struct sender *sender, struct recording_frame topic)
{
    char text[TOPIC_MAX];
    if (topic.size >= sizeof text) {
        return false;
    }
    memcpy(text, topic.data, topic.size);
    text[topic.size] = '\0';
    return prefixes_match(&sender->wanted, text);
}

enum sender_status sender_send(struct sender *sender, const struct recording_frame *frames,
                               uint32_t count)
{
    /* Whether nobody who had subscribed has gone. */
    bool ended = false;
    while (sender_take_notice(sender, 0, &ended)) {
    }
    enum sender_status status = ended ? SENDER_GONE : SENDER_OK;
    if (status == SENDER_OK && !sender_is_wanted(sender, frames[0])) {
        sender->unwanted++;
        return SENDER_OK;
    }
    for (uint32_t i = 0; i < count && status == SENDER_OK; i++) {
        status = sender_send_frame(sender->socket, frames[i], i + 1 < count ? ZMQ_SNDMORE : 0);
    }
    if (status != SENDER_OK) {
        return status;
    }
    sender->sent++;
    for (uint32_t i = 0; i < count; i++) {
        sender->bytes += frames[i].size;
    }
    return SENDER_OK;
}

enum sender_status sender_pause(struct sender *sender, uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    bool ended = false;
    for (uint64_t now = now_ns(); now < until && !ended; now = now_ns()) {
        uint64_t left_ms = (until - now + 999999) / 1000000;
        sender_take_notice(sender, left_ms < LOOK_MS ? (int64_t)left_ms : LOOK_MS, &ended);
        if (interrupt_came()) {
            return SENDER_INTERRUPTED;
        }
    }
    return ended ? SENDER_GONE : SENDER_OK;
}

void sender_close(struct sender *sender)
{
    if (sender->socket) {
        zmq_close(sender->socket);
    }
    prefixes_clear(&sender->wanted);
    *sender = (struct sender){0};
}
