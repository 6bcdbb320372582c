/* SPDX-License-Identifier: MIT */
/* Questions and answers, with a daemon that answers well, badly, late or not at all. */
#include "tests/unit/cli/fake.h"
#include "tests/unit/mpk_text.h"

#include "clients/cli/base/field.h"
#include "clients/cli/base/rpc.h"
#include "clients/cli/base/system.h"

/* The parameters come back as the result. */
static void echo(const struct fake *fake, const char *method, uint64_t id,
                 const msgpack_object *params, struct mpk_writer *reply)
{
    char job[64];
    (void)fake;
    field_text(params, "job", job, sizeof job);
    fake_put_ok(reply, id);
    mpk_text(reply, "{'method': '%s', 'job': '%s'}", method, job);
}

static void rpc_refuse(const struct fake *fake, const char *method, uint64_t id,
                       const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)params;
    fake_put_error(reply, id, "job_unknown", "no such job\n\xc2\x9b\xc3\xa9");
}

static void be_silent(const struct fake *fake, const char *method, uint64_t id,
                      const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)method, (void)id, (void)params, (void)reply;
}

/* The answer to another question only. */
static void answer_another(const struct fake *fake, const char *method, uint64_t id,
                           const msgpack_object *params, struct mpk_writer *reply)
{
    echo(fake, method, id + 1, params, reply);
}

/* Sends bytes that are no answer, by the name of the question. */
static void answer_bytes(const struct fake *fake, const char *method, uint64_t id,
                         const msgpack_object *params, struct mpk_writer *reply)
{
    (void)fake, (void)id, (void)params;
    if (strcmp(method, "garbage") == 0) {
        msgpack_sbuffer_write(&reply->buffer, "\xc1\xc1", 2);
    } else if (strcmp(method, "text") == 0) {
        mpk_text(reply, "'HTTP/1.1 400 Bad Request'");
    } else {
        mpk_text(reply, strcmp(method, "short") == 0 ? "[1]" : "['x', 'x', 'x', 'x']");
    }
}

static struct fake fake;
static struct rpc rpc;

static void open_to(fake_answer *answer, int timeout_ms)
{
    fake_start(&fake, answer);
    assert_int_equal(rpc_open(fake.endpoint, NULL, timeout_ms, &rpc), RPC_OK);
}

static int close_both(void **state)
{
    (void)state;
    rpc_close(&rpc);
    fake_stop(&fake);
    return 0;
}

/* Begins with open_to. */
#define RPC_TEST(name) TEST_WITH(name, NULL, close_both)

static void assert_echo(const char *method, const char *job)
{
    OWNED(rpc_reply_clear) struct rpc_reply reply;
    OWNED(mpk_writer_clear) struct mpk_writer params;
    char text[64];
    mpk_writer_init(&params);
    mpk_text(&params, "{'job': '%s'}", job);
    assert_int_equal(rpc_call(&rpc, method, &params, &reply), RPC_OK);
    field_text(reply.result, "method", text, sizeof text);
    assert_string_equal(text, method);
    field_text(reply.result, "job", text, sizeof text);
    assert_string_equal(text, job);
}

RPC_TEST(method_and_parameters_arrive)
{
    open_to(echo, 60000);
    assert_echo("summary", "gpt-small");
    assert_echo("flush", "a job with a name beyond the small-message size of ZeroMQ");
}

RPC_TEST(parameters_may_be_left_out)
{
    struct rpc_reply reply;
    open_to(echo, 60000);
    assert_int_equal(rpc_call(&rpc, "ping", NULL, &reply), RPC_OK);
    assert_int_equal(mpk_pairs(reply.result) + mpk_items(reply.result), 2);
    rpc_reply_clear(&reply);
}

RPC_TEST(a_refusal_carries_its_code_and_clean_text)
{
    struct rpc_reply reply;
    open_to(rpc_refuse, 60000);
    assert_int_equal(rpc_call(&rpc, "summary", NULL, &reply), RPC_REFUSED);
    assert_string_equal(reply.code, "job_unknown");
    assert_string_equal(reply.message, "no such job??\xc3\xa9");
}

/* Takes the next answer, waiting for it. */
static uint64_t take_next(struct rpc_reply *reply)
{
    zmq_pollitem_t item = {.socket = rpc.socket, .events = ZMQ_POLLIN};
    uint64_t id = 0;
    assert_int_equal(zmq_poll(&item, 1, 60000), 1);
    assert_int_equal(rpc_take(&rpc, reply, &id), RPC_OK);
    return id;
}

RPC_TEST(several_questions_may_be_on_their_way)
{
    struct rpc_reply reply;
    uint64_t asked[2];
    char text[64];
    open_to(echo, 60000);
    assert_int_equal(rpc_take(&rpc, &reply, &asked[0]), RPC_UNREACHABLE); /* none yet */
    assert_int_equal(rpc_send(&rpc, "ping", NULL, &asked[0]), RPC_OK);
    assert_int_equal(rpc_send(&rpc, "jobs", NULL, &asked[1]), RPC_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take_next(&reply), asked[i]);
        field_text(reply.result, "method", text, sizeof text);
        assert_string_equal(text, i == 0 ? "ping" : "jobs");
        rpc_reply_clear(&reply);
    }
    assert_echo("summary", "gpt-small"); /* and one that is waited for */
}

RPC_TEST(a_refusal_that_was_not_waited_for_has_its_id)
{
    struct rpc_reply reply;
    uint64_t asked, id = 0;
    open_to(rpc_refuse, 60000);
    assert_int_equal(rpc_send(&rpc, "live", NULL, &asked), RPC_OK);
    zmq_pollitem_t item = {.socket = rpc.socket, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_poll(&item, 1, 60000), 1);
    assert_int_equal(rpc_take(&rpc, &reply, &id), RPC_REFUSED);
    assert_int_equal(id, asked);
    assert_string_equal(reply.code, "job_unknown");
}

RPC_TEST(silence_ends_at_the_deadline)
{
    struct rpc_reply reply;
    open_to(be_silent, 50);
    assert_int_equal(rpc_call(&rpc, "ping", NULL, &reply), RPC_UNREACHABLE);
}

TEST(nobody_there_ends_at_the_deadline)
{
    OWNED(rpc_close) struct rpc lone;
    struct rpc_reply reply;
    assert_int_equal(rpc_open("ipc:///tmp/attnd-nobody-is-here", NULL, 50, &lone), RPC_OK);
    assert_int_equal(rpc_call(&lone, "ping", NULL, &reply), RPC_UNREACHABLE);
}

RPC_TEST(an_answer_to_another_question_is_skipped)
{
    struct rpc_reply reply;
    open_to(answer_another, 100);
    assert_int_equal(rpc_call(&rpc, "ping", NULL, &reply), RPC_UNREACHABLE);
}

RPC_TEST(what_is_no_answer_is_broken)
{
    static const char *const methods[] = {"garbage", "text", "short", "strings"};
    struct rpc_reply reply;
    open_to(answer_bytes, 60000);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        assert_int_equal(rpc_call(&rpc, methods[i], NULL, &reply), RPC_BROKEN);
    }
}

TEST(an_endpoint_must_be_one)
{
    struct rpc lone;
    assert_int_equal(rpc_open("localhost", NULL, 50, &lone), RPC_ENDPOINT);
    assert_int_equal(rpc_open("tcp://127.0.0.1:port", NULL, 50, &lone), RPC_ENDPOINT);
}

TEST(a_frame_beyond_the_limit_is_not_taken)
{
    const struct socket_option patience[] = {{ZMQ_RCVTIMEO, 100}, {ZMQ_LINGER, 0}};
    void *context = zmq_ctx_new(), *pull, *push;
    char endpoint[64], frame[2000] = "";
    size_t length = sizeof endpoint;
    int size = -1;
    assert_int_equal(socket_open(context, ZMQ_PULL, patience, 2, 1000, &pull), 0);
    assert_int_equal(socket_open(context, ZMQ_PUSH, patience, 2, 1000, &push), 0);
    assert_int_equal(zmq_bind(pull, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(pull, ZMQ_LAST_ENDPOINT, endpoint, &length), 0);
    assert_int_equal(zmq_connect(push, endpoint), 0);
    assert_int_equal(zmq_send(push, frame, 1001, 0), 1001);
    for (int i = 0; i < 100 && size < 0; i++) { /* what the lost connection had is lost too */
        zmq_send(push, frame, 1000, ZMQ_DONTWAIT);
        size = zmq_recv(pull, frame, sizeof frame, 0);
    }
    assert_int_equal(size, 1000);
    zmq_close(pull);
    zmq_close(push);
    zmq_ctx_term(context);
}
