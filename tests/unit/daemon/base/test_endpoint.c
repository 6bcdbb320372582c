/* SPDX-License-Identifier: MIT */
/* Guards of attnd from asserts of libzmq: the options of its sockets, and where numbers begin. */
#include "tests/unit/unit.h"

#include "config/config.h"
#include "daemon/base/endpoint.h"

#include <unistd.h>
#include <zmq.h>

static int option_of(void *socket, int option)
{
    int value;
    size_t size = sizeof value;
    assert_int_equal(zmq_getsockopt(socket, option, &value, &size), 0);
    return value;
}

/* Binds a socket as attnd does, and checks that nothing limits its receive queue, and that it
 * lingers or pings, never both. */
static void check_guards(int type, int linger_ms)
{
    char endpoint[ENDPOINT_MAX] = "tcp://127.0.0.1:*", error[CONFIG_ERROR_MAX];
    struct endpoint_file file = {0};
    void *context = endpoint_context_new();
    const struct endpoint_options options = {.key = "x",
                                             .endpoint = endpoint,
                                             .type = type,
                                             .max_message = 1024,
                                             .linger_ms = linger_ms,
                                             .ret_file = &file};
    void *socket = endpoint_bind(context, &options, error);
    assert_non_null(socket);
    assert_int_equal(option_of(socket, ZMQ_RCVHWM), 0);
    assert_int_equal(option_of(socket, ZMQ_LINGER), linger_ms);
    assert_true(linger_ms == 0 || option_of(socket, ZMQ_HEARTBEAT_IVL) == 0);
    assert_true((type == ZMQ_SUB) == (option_of(socket, ZMQ_HEARTBEAT_IVL) > 0));
    zmq_close(socket);
    zmq_ctx_term(context);
}

TEST(no_receive_queue_has_a_limit_and_no_socket_that_lingers_pings)
{
    check_guards(ZMQ_SUB, 0);
    check_guards(ZMQ_XPUB, 1000);
    check_guards(ZMQ_ROUTER, 1000);
    check_guards(ZMQ_REP, 1000);
}

TEST(a_seed_says_nothing_of_the_numbers_of_peers)
{
    srand(1);
    int first = rand(), second = rand();
    srand(1);
    assert_false(rand() == first && rand() == second);
}
