/* SPDX-License-Identifier: MIT */
/* A reader with keys, whose link connects in ZeroMQ's place. */
#include "tests/unit/proto/support.h"

#include "clients/c/src/link.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

/* A port that is taken, and that nobody listens at. */
static int link_take_port(char ret_endpoint[ADDRESS_MAX])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    snprintf(ret_endpoint, ADDRESS_MAX, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    return fd;
}

static void link_hear(void *data, const char *sentence)
{
    (void)data;
    fail_msg("%s", sentence);
}

/* With keys, and somebody who is told of them. */
static struct link_target link_to(const char *endpoint)
{
    struct link_target target = {
        .which = ADDRESS_PUBLISH, .look_every_ms = LINK_LOOK_EVERY_MS, .tell = link_hear};
    char secret[KEY_LENGTH + 1];

    snprintf(target.endpoint, sizeof target.endpoint, "%s", endpoint);
    assert_int_equal(zmq_curve_keypair(target.keys.server, secret), 0);
    assert_int_equal(zmq_curve_keypair(secret, target.keys.secret), 0);
    return target;
}

/* Goes on until the link has begun another connection; returns when that began at the earliest. */
static uint64_t link_reconnect(struct link *link)
{
    uint64_t connections = link->connections, before = 0;

    while (link->connections == connections) {
        before = socket_now_ms();
        assert_int_equal(link_wait(link, 1000), 0);
    }
    return before;
}

TEST(an_attnd_that_is_away_is_tried_as_zeromq_would_and_its_keys_once_a_second)
{
    char endpoint[ADDRESS_MAX];
    int fd = link_take_port(endpoint);
    void *context = zmq_ctx_new();
    struct link_target target = link_to(endpoint);
    struct link link;

    assert_int_equal(link_subscribe(&link, context, "", -1, &target), 0);
    for (uint64_t knock_ms = link.knock_ms; link.connections < 5; knock_ms = link.knock_ms) {
        link_reconnect(&link);
        assert_true(link.look_ms <= socket_now_ms() + 100);
        assert_true(link.knock_ms == knock_ms || link.knock_ms >= knock_ms + LINK_LOOK_EVERY_MS);
    }
    link.refused = true; /* as when attnd had said so */
    link_reconnect(&link);
    assert_true(link_reconnect(&link) + LINK_LOOK_EVERY_MS <= link.look_ms);
    link_close(&link);
    zmq_ctx_term(context);
    close(fd);
}

TEST(keys_are_not_shown_to_a_unix_socket)
{
    void *context = zmq_ctx_new();
    struct link_target target = link_to("ipc:///tmp/no-such-attnd");
    struct link link;

    assert_int_equal(link_subscribe(&link, context, "", -1, &target), 0);
    assert_null(link.monitor); /* ZeroMQ connects again by itself */
    link_close(&link);
    zmq_ctx_term(context);
}

TEST(a_receive_queue_has_no_limit)
{
    void *context = zmq_ctx_new();
    struct link_target target = link_to("ipc:///tmp/no-such-attnd");
    struct link link;
    int limit = -1, pings = -1;
    size_t size = sizeof limit;

    assert_int_equal(link_subscribe(&link, context, "", -1, &target), 0);
    assert_int_equal(zmq_getsockopt(link.socket, ZMQ_RCVHWM, &limit, &size), 0);
    assert_int_equal(zmq_getsockopt(link.socket, ZMQ_HEARTBEAT_IVL, &pings, &size), 0);
    assert_int_equal(limit, 0);
    assert_int_equal(pings, 0);
    link_close(&link);
    zmq_ctx_term(context);
}
