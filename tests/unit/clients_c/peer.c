/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/clients_c/peer.h"

static void peer_set(void *socket, int option, int value)
{
    assert_int_equal(zmq_setsockopt(socket, option, &value, sizeof value), 0);
}

struct peer peer_open(int type, const char *endpoint, int receive_hwm)
{
    struct peer peer = {.context = zmq_ctx_new()};
    size_t len = sizeof peer.endpoint;

    assert_non_null(peer.context);
    peer.socket = zmq_socket(peer.context, type);
    assert_non_null(peer.socket);
    peer_set(peer.socket, ZMQ_LINGER, 0);
    if (receive_hwm > 0) {
        peer_set(peer.socket, ZMQ_RCVHWM, receive_hwm);
        peer_set(peer.socket, ZMQ_RCVBUF, 65536);
    }
    assert_int_equal(zmq_bind(peer.socket, endpoint ? endpoint : "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(peer.socket, ZMQ_LAST_ENDPOINT, peer.endpoint, &len), 0);
    return peer;
}

void peer_close(struct peer *peer)
{
    if (peer->socket) {
        zmq_close(peer->socket);
        zmq_ctx_term(peer->context);
    }
    *peer = (struct peer){0};
}

void peer_subscribe(const struct peer *peer, const char *prefix)
{
    assert_int_equal(zmq_setsockopt(peer->socket, ZMQ_SUBSCRIBE, prefix, strlen(prefix)), 0);
}

void peer_unsubscribe(const struct peer *peer, const char *prefix)
{
    assert_int_equal(zmq_setsockopt(peer->socket, ZMQ_UNSUBSCRIBE, prefix, strlen(prefix)), 0);
}

void peer_service(const struct peer *peer)
{
    int events;
    size_t len = sizeof events;

    assert_int_equal(zmq_getsockopt(peer->socket, ZMQ_EVENTS, &events, &len), 0);
}

static void peer_check(struct received *received)
{
    size_t sizes[PEER_FRAMES_MAX];
    const char *key;

    assert_true(received->count >= 2);
    assert_int_equal(header_decode(zmq_msg_data(&received->frames[1]),
                                   zmq_msg_size(&received->frames[1]), &received->header, &key),
                     0);
    assert_int_equal(topic_check(&received->header, zmq_msg_data(&received->frames[0]),
                                 zmq_msg_size(&received->frames[0])),
                     0);
    for (unsigned i = 2; i < received->count; i++) {
        sizes[i - 2] = zmq_msg_size(&received->frames[i]);
    }
    assert_int_equal(header_check_frames(&received->header, sizes, received->count - 2), 0);
}

bool peer_receive(const struct peer *peer, int wait_ms, struct received *ret_received)
{
    bool more = true;

    ret_received->count = 0;
    peer_set(peer->socket, ZMQ_RCVTIMEO, wait_ms);
    while (more) {
        zmq_msg_t *frame = &ret_received->frames[ret_received->count];

        assert_true(ret_received->count < PEER_FRAMES_MAX);
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, peer->socket, 0) < 0) {
            assert_int_equal(ret_received->count, 0); /* never half a message */
            return false;
        }
        ret_received->count++;
        more = zmq_msg_more(frame);
    }
    peer_check(ret_received);
    return true;
}

void received_free(struct received *received)
{
    for (unsigned i = 0; i < received->count; i++) {
        zmq_msg_close(&received->frames[i]);
    }
    header_clear(&received->header);
    received->count = 0;
}

void peer_send(const struct peer *peer, const struct frame *frames)
{
    for (; frames->data; frames++) {
        assert_true(zmq_send(peer->socket, frames->data, frames->len,
                             frames[1].data ? ZMQ_SNDMORE : 0) >= 0);
    }
}
