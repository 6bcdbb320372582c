/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "clients/c/src/drain.h"
#include "tests/unit/clients_c/peer.h"

#include <poll.h>

enum { SENT = 5000, KEPT = 100, BYTES = 1000 };

/* A drain that hears the peer. */
struct hearing {
    struct peer peer;
    void *context;
    struct link link;
    struct drain drain;
};

static void drain_begin(struct hearing *hearing, int messages, uint64_t bytes_max)
{
    static const struct socket_option none[] = {{ZMQ_LINGER, 0}};
    const int no_drop = 1, wait_ms = PEER_WAIT_MS;
    struct link_target target;
    char notice[8];

    hearing->peer = peer_open(ZMQ_XPUB, NULL, 0);
    zmq_setsockopt(hearing->peer.socket, ZMQ_XPUB_NODROP, &no_drop, sizeof no_drop);
    zmq_setsockopt(hearing->peer.socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    hearing->context = zmq_ctx_new();
    assert_int_equal(link_name(hearing->peer.endpoint, NULL, ADDRESS_PUBLISH, 1000, &target), 0);
    assert_int_equal(link_open(&hearing->link, hearing->context, ZMQ_SUB, none, 1, -1, &target), 0);
    assert_int_equal(zmq_setsockopt(hearing->link.socket, ZMQ_SUBSCRIBE, "", 0), 0);
    assert_int_equal(
        drain_start(&hearing->drain, hearing->context, &hearing->link, messages, bytes_max), 0);
    assert_int_equal(zmq_recv(hearing->peer.socket, notice, sizeof notice, 0), 1);
}

static void drain_end(struct hearing *hearing)
{
    drain_stop(&hearing->drain);
    link_close(&hearing->link);
    zmq_ctx_term(hearing->context);
    peer_close(&hearing->peer);
}

static void drain_send_all(struct hearing *hearing)
{
    static const char body[BYTES];
    const struct frame frames[] = {{"t", 1}, {body, sizeof body}, {NULL, 0}};

    for (int i = 0; i < SENT; i++) {
        peer_send(&hearing->peer, frames);
    }
}

static uint64_t await_dropped(struct hearing *hearing, uint64_t count)
{
    for (int i = 0; i < PEER_WAIT_MS && atomic_load(&hearing->drain.dropped) < count; i++) {
        poll(NULL, 0, 1);
    }
    return atomic_load(&hearing->drain.dropped);
}

/* Messages that are there; each has two frames, as it was sent. */
static uint64_t drain_take_all(struct hearing *hearing)
{
    uint64_t messages = 0;
    zmq_msg_t frames[2];

    for (; drain_receive(&hearing->drain, frames, 2) == 2; messages++) {
        assert_int_equal(zmq_msg_size(&frames[0]), 1);
        assert_int_equal(zmq_msg_size(&frames[1]), BYTES);
        zmq_msg_close(&frames[0]);
        zmq_msg_close(&frames[1]);
    }
    return messages;
}

TEST(who_takes_nothing_has_so_many_kept)
{
    OWNED(drain_end) struct hearing hearing;

    drain_begin(&hearing, KEPT, UINT64_MAX);
    drain_send_all(&hearing);
    uint64_t dropped = await_dropped(&hearing, SENT - KEPT);
    assert_in_range(dropped, SENT - KEPT, SENT - KEPT / 2);
    assert_int_equal(drain_take_all(&hearing), SENT - dropped);
    assert_int_equal(atomic_load(&hearing.drain.waiting), 0);
}

TEST(who_takes_nothing_has_so_many_bytes_kept)
{
    OWNED(drain_end) struct hearing hearing;

    drain_begin(&hearing, 0, KEPT * (BYTES + 257));
    drain_send_all(&hearing);
    assert_int_equal(await_dropped(&hearing, SENT - KEPT), SENT - KEPT);
    assert_int_equal(drain_take_all(&hearing), KEPT);
    drain_send_all(&hearing); /* there is room again */
    assert_int_equal(await_dropped(&hearing, 2 * (SENT - KEPT)), 2 * (SENT - KEPT));
}

TEST(an_idle_drain_ends_at_once)
{
    struct hearing hearing;

    drain_begin(&hearing, KEPT, UINT64_MAX);
    drain_end(&hearing);
    drain_stop(&(struct drain){.socket = NULL});
}
