/* SPDX-License-Identifier: MIT */
/* The tap over inproc: what a recorder does not read stays in the pipe, so that bytes on their way
 * can be counted, and whether bytes were copied can be told by their address. */
#include "tests/unit/unit.h"

#include "proto/mpk.h"
#include "daemon/base/clock.h"
#include "daemon/ingest/tap.h"

#include <time.h>
#include <zmq.h>

#define KIB 1024
/* A message counts this beside its bytes; at least so much, so that the tests' sums hold. */
#define BUDGET (64 * KIB)

struct tap_fixture {
    uv_loop_t loop;
    struct config config;
    struct stats stats;
    struct tap *tap;
    void *zmq, *recorders[4]; /* which are closed at the end */
    uint32_t recorder_count;
};

static void tap_begin(struct tap_fixture *f)
{
    char error[CONFIG_ERROR_MAX] = "";
    *f = (struct tap_fixture){.zmq = zmq_ctx_new()};
    config_defaults(&f->config);
    strcpy(f->config.tap_endpoint.text, "inproc://tap");
    f->config.publish_budget = 4 * BUDGET;
    uv_loop_init(&f->loop);
    assert_int_equal(tap_new(&f->loop, f->zmq, NULL, &f->config, &f->stats, &f->tap, error), 0);
}

static void close_tap(struct tap_fixture *f)
{
    tap_close(&f->tap);
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

static void tap_end(struct tap_fixture *f)
{
    close_tap(f);
    for (uint32_t i = 0; i < f->recorder_count; i++) {
        zmq_close(f->recorders[i]);
    }
    assert_int_equal(uv_loop_close(&f->loop), 0);
    assert_int_equal(zmq_ctx_term(f->zmq), 0);
}

#define TAP_TEST(name) TEST_IN(name, struct tap_fixture, f, tap_begin, tap_end)

/* Recorders ------------------------------------------------------------------------------------
 */

struct received {
    zmq_msg_t frames[8];
    uint32_t count;
    uint64_t n, dropped, received_ns;
};

static void clear_received(struct received *received)
{
    for (uint32_t i = 0; i < received->count; i++) {
        zmq_msg_close(&received->frames[i]);
    }
    received->count = 0;
}

static uint64_t tap_number(const msgpack_object *map, const char *key)
{
    uint64_t value = UINT64_MAX;
    assert_int_equal(mpk_get_u64(mpk_find(map, key), UINT64_MAX, &value), 0);
    return value;
}

static void tap_read_map(struct received *received)
{
    OWNED(mpk_doc_clear) struct mpk_doc doc;
    zmq_msg_t *map = &received->frames[1];
    assert_int_equal(mpk_parse(zmq_msg_data(map), zmq_msg_size(map), &mpk_header_limits, &doc), 0);
    assert_int_equal(doc.root->via.map.size, 4);
    assert_true(tap_number(doc.root, "v") == 1);
    received->n = tap_number(doc.root, "n");
    received->dropped = tap_number(doc.root, "dropped");
    received->received_ns = tap_number(doc.root, "received_ns");
}

/* Whether something is there, after the loop has had its turns. */
static bool tap_receive(struct tap_fixture *f, void *recorder, struct received *ret_received)
{
    *ret_received = (struct received){.count = 0};
    for (int i = 0; i < 3; i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    for (int more = 1; more;) {
        zmq_msg_t *frame = &ret_received->frames[ret_received->count];
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, recorder, ZMQ_DONTWAIT) < 0) {
            return false;
        }
        more = zmq_msg_more(frame);
        ret_received->count++;
    }
    tap_read_map(ret_received);
    return true;
}

static void *tap_subscribe(struct tap_fixture *f, const char *prefix)
{
    int unlimited = 0;
    void *recorder = zmq_socket(f->zmq, ZMQ_SUB);
    assert_int_equal(zmq_setsockopt(recorder, ZMQ_RCVHWM, &unlimited, sizeof unlimited), 0);
    assert_int_equal(zmq_setsockopt(recorder, ZMQ_SUBSCRIBE, prefix, strlen(prefix)), 0);
    assert_int_equal(zmq_connect(recorder, f->config.tap_endpoint.text), 0);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    return recorder;
}

/* Subscribes to one job and takes the greeting. */
static void *listen_to(struct tap_fixture *f, const char *job)
{
    char prefix[TOPIC_MAX];
    OWNED(clear_received) struct received greeting;
    topic_job("tap", job, prefix);
    void *recorder = tap_subscribe(f, prefix);
    assert_true(tap_receive(f, recorder, &greeting));
    assert_int_equal(greeting.count, 2);
    assert_memory_equal(zmq_msg_data(&greeting.frames[0]), prefix, strlen(prefix));
    f->recorders[f->recorder_count++] = recorder;
    return recorder;
}

/* The next one is of two frames, a greeting, or of five, a message, with this number, and says how
 * many were dropped. */
static void expect_one(struct tap_fixture *f, void *recorder, uint32_t frames, uint64_t n,
                       uint64_t dropped)
{
    OWNED(clear_received) struct received got;
    assert_true(tap_receive(f, recorder, &got));
    assert_int_equal(got.count, frames);
    assert_int_equal(got.n, n);
    assert_int_equal(got.dropped, dropped);
}

static void expect_nothing(struct tap_fixture *f, void *recorder)
{
    struct received got;
    assert_false(tap_receive(f, recorder, &got));
}

/* Messages -------------------------------------------------------------------------------------
 */

static struct message *make_message(const char *job, size_t payload)
{
    struct message *message = calloc(1, sizeof *message);
    char topic[TOPIC_MAX];
    assert_non_null(message);
    strcpy(message->header.job, job);
    size_t sizes[] = {topic_job("event", job, topic), 1, payload};
    for (int i = 0; i < 3; i++) {
        zmq_msg_init_size(&message->frames[i], sizes[i]);
        memset(zmq_msg_data(&message->frames[i]), 'a' + i, sizes[i]);
        message->bytes += sizes[i];
    }
    memcpy(zmq_msg_data(&message->frames[0]), topic, sizes[0]);
    message->frame_count = message->frames_seen = 3;
    message->received_ns = clock_monotonic_ns();
    return message;
}

static void tap_arrive(struct tap_fixture *f, const char *job, size_t payload)
{
    OWNED(message_free) struct message *message = make_message(job, payload);
    tap_message(f->tap, message);
}

static uint64_t tapped(struct tap_fixture *f)
{
    return stats_get(&f->stats, COUNT_TAPPED);
}

static void expect_counts(struct tap_fixture *f, uint64_t passed_on, uint64_t dropped)
{
    assert_int_equal(tapped(f), passed_on);
    assert_int_equal(stats_get(&f->stats, COUNT_TAP_DROPPED), dropped);
}

/* Tests ------------------------------------------------------------------------------------------
 */

TAP_TEST(without_listeners_nothing_is_done)
{
    tap_arrive(f, "gpt", 100);
    expect_counts(f, 0, 0);
}

TAP_TEST(a_message_is_passed_on_after_its_number)
{
    void *recorder = listen_to(f, "gpt");
    struct received got;
    for (uint64_t n = 0; n < 3; n++) {
        tap_arrive(f, "gpt", 5000);
        assert_true(tap_receive(f, recorder, &got));
        assert_int_equal(got.count, 5);
        assert_true(got.n == n && got.dropped == 0);
        assert_int_equal(zmq_msg_size(&got.frames[2]), strlen("event/gpt/"));
        assert_memory_equal(zmq_msg_data(&got.frames[2]), "event/gpt/", strlen("event/gpt/"));
        assert_int_equal(zmq_msg_size(&got.frames[4]), 5000);
        assert_int_equal(((char *)zmq_msg_data(&got.frames[4]))[4999], 'c');
        clear_received(&got);
    }
    assert_int_equal(tapped(f), 3);
}

TAP_TEST(bytes_are_not_copied)
{
    void *recorder = listen_to(f, "gpt");
    struct message *message = make_message("gpt", 5000);
    OWNED(clear_received) struct received got;
    tap_message(f->tap, message);
    assert_true(tap_receive(f, recorder, &got));
    assert_ptr_equal(zmq_msg_data(&got.frames[4]), zmq_msg_data(&message->frames[2]));
    message_free(&message); /* the recorder's frame is still there */
    assert_int_equal(((char *)zmq_msg_data(&got.frames[4]))[4999], 'c');
}

TAP_TEST(the_time_is_that_of_reception_on_the_wall_clock)
{
    void *recorder = listen_to(f, "gpt");
    OWNED(message_free) struct message *message = make_message("gpt", 10);
    OWNED(clear_received) struct received got;
    message->received_ns -= UINT64_C(5000000000);
    tap_message(f->tap, message);
    assert_true(tap_receive(f, recorder, &got));
    uint64_t five_ago = (uint64_t)time(NULL) - 5;
    assert_in_range(got.received_ns / 1000000000u, five_ago - 2, five_ago + 2);
}

TAP_TEST(jobs_are_told_apart)
{
    void *one = listen_to(f, "gpt"), *two = listen_to(f, "gpt-2");
    tap_arrive(f, "gpt-2", 10);
    tap_arrive(f, "gpt-2", 10);
    tap_arrive(f, "gpt", 10);
    tap_arrive(f, "bert", 10);
    expect_one(f, one, 5, 0, 0);
    expect_nothing(f, one);
    expect_one(f, two, 5, 0, 0);
    expect_one(f, two, 5, 1, 0);
    expect_nothing(f, two);
    assert_int_equal(tapped(f), 3);
}

/* The pipe has no room for more than the budget; what is beyond is missing in the numbers, and the
 * next message says how many. */
TAP_TEST(beyond_the_budget_messages_are_dropped_and_counted)
{
    void *recorder = listen_to(f, "gpt");
    for (int i = 0; i < 10; i++) {
        tap_arrive(f, "gpt", 20 * KIB); /* 28 KiB each, with what keeping it takes */
    }
    expect_counts(f, 2, 8);
    expect_one(f, recorder, 5, 0, 0);
    expect_one(f, recorder, 5, 1, 0);
    expect_nothing(f, recorder);
    tap_arrive(f, "gpt", 20 * KIB);
    expect_one(f, recorder, 5, 10, 8);
    assert_int_equal(tapped(f), 3);
}

/* A recording without its bye would not end. */
TAP_TEST(events_have_room_beyond_the_budget)
{
    listen_to(f, "gpt");
    tap_arrive(f, "gpt", 50 * KIB);
    tap_arrive(f, "gpt", 10 * KIB);
    expect_counts(f, 1, 1);
    OWNED(message_free) struct message *message = make_message("gpt", 0);
    message->header.type = MESSAGE_EVENT;
    tap_message(f->tap, message);
    expect_counts(f, 2, 1);
    tap_message(f->tap, message); /* which is bounded as well */
    tap_message(f->tap, message);
    expect_counts(f, 2, 3);
}

/* Messages that count nothing but what keeping them takes are bounded too. */
TAP_TEST(small_messages_are_bounded_too)
{
    listen_to(f, "gpt");
    for (int i = 0; i < 1000; i++) {
        tap_arrive(f, "gpt", 0);
    }
    assert_in_range(tapped(f), 1, BUDGET / (4 * KIB));
    assert_int_equal(tapped(f) + stats_get(&f->stats, COUNT_TAP_DROPPED), 1000);
}

TAP_TEST(a_message_larger_than_the_budget_goes_alone)
{
    void *recorder = listen_to(f, "gpt");
    OWNED(clear_received) struct received got;
    tap_arrive(f, "gpt", 2 * BUDGET);
    tap_arrive(f, "gpt", 10);
    expect_counts(f, 1, 1);
    assert_true(tap_receive(f, recorder, &got));
    assert_int_equal(zmq_msg_size(&got.frames[4]), 2 * BUDGET);
}

/* One copy of the bytes serves all recorders, and counts until the last one has it. */
TAP_TEST(recorders_share_the_bytes)
{
    void *one = listen_to(f, "gpt"), *two = listen_to(f, "gpt");
    expect_one(f, one, 2, 0, 0); /* the other's greeting */
    tap_arrive(f, "gpt", 40 * KIB);
    expect_one(f, one, 5, 0, 0);
    tap_arrive(f, "gpt", 40 * KIB);
    expect_counts(f, 1, 1);
    expect_one(f, two, 5, 0, 0);
    tap_arrive(f, "gpt", 40 * KIB);
    expect_counts(f, 2, 1);
}

/* The second recorder's greeting tells it where it begins. */
TAP_TEST(a_greeting_has_the_number_that_comes_next)
{
    listen_to(f, "gpt");
    tap_arrive(f, "gpt", 10);
    tap_arrive(f, "gpt", 10);
    void *two = tap_subscribe(f, "tap/gpt/");
    expect_one(f, two, 2, 2, 0);
    tap_arrive(f, "gpt", 10);
    expect_one(f, two, 5, 2, 0);
    zmq_close(two);
}

TAP_TEST(numbers_begin_anew_when_nobody_has_listened)
{
    void *recorder = listen_to(f, "gpt");
    tap_arrive(f, "gpt", 10);
    zmq_setsockopt(recorder, ZMQ_UNSUBSCRIBE, "tap/gpt/", strlen("tap/gpt/"));
    for (int i = 0; i < 3; i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    tap_arrive(f, "gpt", 10);
    expect_counts(f, 1, 0);
    zmq_setsockopt(recorder, ZMQ_SUBSCRIBE, "tap/gpt/", strlen("tap/gpt/"));
    expect_one(f, recorder, 5, 0, 0);
    expect_one(f, recorder, 2, 0, 0);
}

TAP_TEST(a_prefix_of_several_jobs_is_not_greeted)
{
    static const char *const prefixes[] = {"",         "tap/",     "tap/gpt",
                                           "tap/a b/", "tap/a/b/", "live/gpt/"};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        void *recorder = tap_subscribe(f, prefixes[i]);
        expect_nothing(f, recorder);
        zmq_close(recorder);
        for (int turn = 0; turn < 3; turn++) {
            uv_run(&f->loop, UV_RUN_NOWAIT);
        }
    }
    void *all = tap_subscribe(f, "tap/");
    tap_arrive(f, "gpt", 10);
    expect_one(f, all, 5, 0, 0);
    zmq_close(all);
}

TAP_TEST(more_prefixes_than_are_told_apart)
{
    void *recorder = zmq_socket(f->zmq, ZMQ_SUB);
    char prefix[32];
    assert_int_equal(zmq_connect(recorder, f->config.tap_endpoint.text), 0);
    for (int i = 0; i < 100; i++) {
        snprintf(prefix, sizeof prefix, "tap/job-%d/", i);
        zmq_setsockopt(recorder, ZMQ_SUBSCRIBE, prefix, strlen(prefix));
    }
    for (int i = 0; i < 100; i++) {
        expect_one(f, recorder, 2, 0, 0);
    }
    tap_arrive(f, "job-99", 10);
    expect_one(f, recorder, 5, 0, 0);
    for (int i = 0; i < 100; i++) {
        snprintf(prefix, sizeof prefix, "tap/job-%d/", i);
        zmq_setsockopt(recorder, ZMQ_UNSUBSCRIBE, prefix, strlen(prefix));
    }
    for (int i = 0; i < 10; i++) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    tap_arrive(f, "job-99", 10);
    expect_counts(f, 1, 0);
    zmq_close(recorder);
}

/* The last reference is let go by ZeroMQ, after the tap is gone. */
TAP_TEST(closing_with_messages_on_their_way)
{
    listen_to(f, "gpt");
    tap_arrive(f, "gpt", 1000);
    tap_arrive(f, "gpt", 1000);
    close_tap(f);
    assert_null(f->tap);
}

TAP_TEST(an_endpoint_that_cannot_be_bound_is_said)
{
    struct tap *second;
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(tap_new(&f->loop, f->zmq, NULL, &f->config, &f->stats, &second, error), -1);
    assert_string_equal(error, "tap.endpoint: cannot bind inproc://tap: Address already in use; is "
                               "another attnd running? stop it, or choose another endpoint with "
                               "--set");
}
