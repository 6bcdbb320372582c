/* SPDX-License-Identifier: MIT */
/* The regression that zsock exists for: many messages behind one wake-up. */
#include "tests/unit/unit.h"

#include "daemon/base/zsock.h"

#include <pthread.h>
#include <zmq.h>

#define MESSAGES 20000

struct zsock_fixture {
    uv_loop_t loop;
    uv_timer_t give_up;
    struct zsock zsock;
    void *zmq;
    char endpoint[64];
    int received;
    bool closed;
};

static void zsock_on_closed(struct zsock *zsock)
{
    ((struct zsock_fixture *)zsock->data)->closed = true;
}

static void zsock_finish(struct zsock_fixture *f)
{
    zsock_close(&f->zsock, zsock_on_closed);
    uv_close((uv_handle_t *)&f->give_up, NULL);
}

static void on_give_up(uv_timer_t *timer)
{
    zsock_finish(timer->data);
}

static void on_message(struct zsock *zsock)
{
    struct zsock_fixture *f = zsock->data;
    char byte;
    if (zmq_recv(zsock->socket, &byte, 1, ZMQ_DONTWAIT) == 1 && ++f->received == MESSAGES) {
        zsock_finish(f);
    }
}

static void *zsock_send_all(void *data)
{
    struct zsock_fixture *f = data;
    void *push = zmq_socket(f->zmq, ZMQ_PUSH);
    if (zmq_connect(push, f->endpoint) == 0) {
        for (int i = 0; i < MESSAGES; i++) {
            zmq_send(push, "x", 1, 0);
        }
    }
    zmq_close(push);
    return NULL;
}

TEST(every_message_arrives)
{
    struct zsock_fixture f = {.received = 0};
    pthread_t sender;
    size_t size = sizeof f.endpoint;
    f.zmq = zmq_ctx_new();
    void *pull = zmq_socket(f.zmq, ZMQ_PULL);
    assert_int_equal(zmq_bind(pull, "tcp://127.0.0.1:*"), 0);
    zmq_getsockopt(pull, ZMQ_LAST_ENDPOINT, f.endpoint, &size);
    uv_loop_init(&f.loop);
    uv_timer_init(&f.loop, &f.give_up);
    f.give_up.data = &f;
    uv_timer_start(&f.give_up, on_give_up, 60000, 0);
    assert_int_equal(zsock_init(&f.zsock, &f.loop, pull, on_message, &f), 0);
    pthread_create(&sender, NULL, zsock_send_all, &f);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    pthread_join(sender, NULL);
    assert_int_equal(f.received, MESSAGES);
    assert_true(f.closed);
    assert_int_equal(uv_loop_close(&f.loop), 0);
    zmq_ctx_term(f.zmq);
}
