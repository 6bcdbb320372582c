/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "clients/c/include/attn/attn.h"
#include "tests/unit/clients_c/peer.h"

static struct bytes subscriber_golden(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, name);
    return bytes_file(path);
}

/* A subscriber whose subscription has reached the peer (an XPUB). */
static attn_subscriber *subscriber_for(const struct peer *peer, const char *prefix)
{
    attn_subscriber_options options = {.endpoint = peer->endpoint, .prefix = prefix};
    attn_subscriber *subscriber;
    char notice[64];
    int wait_ms = PEER_WAIT_MS;

    assert_int_equal(attn_subscriber_new(&options, &subscriber), 0);
    zmq_setsockopt(peer->socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    assert_int_equal(zmq_recv(peer->socket, notice, sizeof notice, 0), 1 + strlen(prefix));
    return subscriber;
}

static attn_result *subscriber_next(attn_subscriber *subscriber)
{
    attn_result *result = NULL;

    assert_int_equal(attn_subscriber_next(subscriber, PEER_WAIT_MS, &result), 0);
    return result;
}

static void send_golden(const struct peer *peer, const char *topic, const char *name)
{
    OWNED(bytes_free) struct bytes bytes = subscriber_golden(name);
    const struct frame frames[] = {{topic, strlen(topic)}, {bytes.data, bytes.len}, {NULL, 0}};

    peer_send(peer, frames);
}

TEST(a_summary_can_be_asked_for_its_numbers)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_XPUB, NULL, 0);
    OWNED(attn_subscriber_free) attn_subscriber *subscriber = subscriber_for(&peer, "summary/");
    attn_result *result;
    uint64_t number;
    double value;
    char text[8];

    send_golden(&peer, "live/gpt-small/decoder/5/self/", "live"); /* not subscribed to */
    send_golden(&peer, "summary/gpt-small/decoder/5/self/", "summary");
    result = subscriber_next(subscriber);
    assert_string_equal(attn_result_topic(result), "summary/gpt-small/decoder/5/self/");
    assert_string_equal(attn_result_kind(result), "summary");
    assert_int_equal(attn_result_heads(result), 2);
    assert_int_equal(attn_result_u64(result, "messages", &number), 0);
    assert_int_equal(number, 300);
    assert_int_equal(attn_result_u64(result, "job", &number), ATTN_E_NOT_FOUND);
    assert_int_equal(attn_result_text(result, "job", text, sizeof text), 0);
    assert_string_equal(text, "gpt-sma");
    assert_int_equal(attn_result_text(result, "job", text, 0), ATTN_E_ARGUMENT);
    assert_int_equal(attn_result_stat(result, "entropy", "mean", 1, &value), 0);
    assert_true(value == 3.0);
    assert_int_equal(attn_result_stat(result, "rank", "count", 0, &value), 0);
    assert_true(value == 3.0);
    assert_int_equal(attn_result_stat(result, "entropy", "last", 0, &value), 0);
    assert_true(isnan(value));
    assert_int_equal(attn_result_stat(result, "entropy", "mean", 2, &value), ATTN_E_NOT_FOUND);
    assert_int_equal(attn_result_stat(result, "entropy", "median", 0, &value), ATTN_E_NOT_FOUND);
    assert_int_equal(attn_result_stat(result, "entropy", NULL, 0, &value), ATTN_E_NOT_FOUND);
    assert_int_equal(attn_result_stat(result, "diagonal", "mean", 0, &value), ATTN_E_NOT_FOUND);
    assert_non_null(strstr(attn_result_json(result), "\"size_mismatch\":70000"));
    attn_result_free(&result);
    assert_null(result);
}

TEST(a_live_result_has_one_value_per_head)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_XPUB, NULL, 0);
    OWNED(attn_subscriber_free) attn_subscriber *subscriber = subscriber_for(&peer, "");
    OWNED(attn_result_free) attn_result *result;
    double value;

    send_golden(&peer, "live/gpt-small/decoder/5/self/", "live");
    result = subscriber_next(subscriber);
    assert_int_equal(attn_result_heads(result), 2);
    assert_int_equal(attn_result_stat(result, "entropy", NULL, 1, &value), 0);
    assert_true(value == 1.5);
    assert_int_equal(attn_result_stat(result, "spectral_norm", "last", 1, &value), 0);
    assert_true(value == 1.25);
    assert_int_equal(attn_result_stat(result, "diagonal", NULL, 0, &value), 0);
    assert_true(isnan(value));
    assert_int_equal(attn_result_stat(result, "entropy", "mean", 1, &value), ATTN_E_NOT_FOUND);
    attn_result_free(&result);

    send_golden(&peer, "job/gpt-small/", "job");
    result = subscriber_next(subscriber);
    assert_string_equal(attn_result_kind(result), "job");
    assert_int_equal(attn_result_heads(result), 0);
}

TEST(what_is_no_result_is_reported_and_passed_over)
{
    static const struct frame one[] = {{"live/", 5}, {NULL, 0}};
    static const struct frame three[] = {{"live/", 5}, {"\x80", 1}, {"", 0}, {NULL, 0}};
    static const struct frame cut[] = {{"live/", 5}, {"\x81", 1}, {NULL, 0}};
    char long_topic[300];
    const struct frame too_long[] = {{long_topic, sizeof long_topic}, {"\x80", 1}, {NULL, 0}};
    const struct frame *const messages[] = {one, three, cut, too_long};
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_XPUB, NULL, 0);
    OWNED(attn_subscriber_free) attn_subscriber *subscriber = subscriber_for(&peer, "");
    OWNED(attn_result_free) attn_result *result = NULL;

    memset(long_topic, 'x', sizeof long_topic);
    for (size_t i = 0; i < 4; i++) {
        peer_send(&peer, messages[i]);
        assert_int_equal(attn_subscriber_next(subscriber, PEER_WAIT_MS, &result), ATTN_E_MESSAGE);
    }
    assert_null(result);
    send_golden(&peer, "job/gpt-small/", "job");
    result = subscriber_next(subscriber);
}

TEST(waiting_has_an_end)
{
    attn_subscriber_options options = {.endpoint = "tcp://127.0.0.1:1", .prefix = "summary/"};
    OWNED(attn_subscriber_free) attn_subscriber *subscriber;
    attn_result *result;

    assert_int_equal(attn_subscriber_new(&options, &subscriber), 0);
    assert_int_equal(attn_subscriber_next(subscriber, 0, &result), ATTN_E_TIMEOUT);
    assert_int_equal(attn_subscriber_next(subscriber, 20, &result), ATTN_E_TIMEOUT);
    attn_subscriber_free(&subscriber);
    assert_null(subscriber);
}

TEST(subscriber_bad_options_are_refused)
{
    attn_subscriber_options options = {.endpoint = "nonsense", .prefix = "summary/"};
    attn_subscriber *subscriber = NULL;

    assert_int_equal(attn_subscriber_new(&options, &subscriber), ATTN_E_TRANSPORT);
    options = (attn_subscriber_options){.prefix = NULL};
    assert_int_equal(attn_subscriber_new(&options, &subscriber), ATTN_E_ARGUMENT);
    assert_null(subscriber);
}
