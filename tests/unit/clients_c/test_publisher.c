/* SPDX-License-Identifier: MIT */
#include "support.h"

#include "attn/attn.h"
#include "peer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static attn_publisher_options options_for(const char *endpoint)
{
    attn_publisher_options options;

    attn_publisher_options_default(&options);
    options.endpoint = endpoint;
    options.job = "unit";
    options.linger_ms = 200;
    return options;
}

static attn_publisher *publisher_for(const struct peer *peer)
{
    attn_publisher_options options = options_for(peer->endpoint);
    attn_publisher *publisher;

    assert_int_equal(attn_publisher_new(&options, &publisher), 0);
    return publisher;
}

/* Waits until the publisher has heard the peer's subscriptions. */
static void meet(attn_publisher *publisher, const struct peer *peer)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    do {
        assert_true(now_ms() < deadline);
        peer_service(peer);
    } while (attn_publisher_wait(publisher, 10) != 0);
    assert_int_equal(attn_publisher_wait(publisher, PEER_WAIT_MS), 0);
}

/* [1][1][1][keys] of f32 in `weights`, in a decoder's layer. */
static attn_attention attention_of(uint32_t layer, const float *weights, uint32_t keys)
{
    attn_attention attention;

    attn_attention_default(&attention);
    attention.stack = ATTN_DECODER;
    attention.layer = layer;
    attention.weights = weights;
    attention.batch = attention.heads = attention.queries = 1;
    attention.keys = keys;
    return attention;
}

static int publish(attn_publisher *publisher, uint32_t layer)
{
    static const float weights[4] = {0.25F, 0.25F, 0.25F, 0.25F};
    attn_attention attention = attention_of(layer, weights, 4);

    return attn_publish_attention(publisher, &attention);
}

/* Receives one message that must come. */
static struct received expect(const struct peer *peer)
{
    struct received received;

    assert_true(peer_receive(peer, PEER_WAIT_MS, &received));
    return received;
}

static void expect_event(const struct peer *peer, enum event_type event, uint64_t seq)
{
    struct received received = expect(peer);

    assert_int_equal(received.header.type, MESSAGE_EVENT);
    assert_int_equal(received.header.event, event);
    assert_int_equal(received.header.seq, seq);
    received_free(&received);
}

static void expect_tensor(const struct peer *peer, uint32_t layer, uint64_t seq)
{
    struct received received = expect(peer);

    assert_int_equal(received.header.type, MESSAGE_ATTENTION);
    assert_int_equal(received.header.layer.layer, layer);
    assert_int_equal(received.header.seq, seq);
    received_free(&received);
}

static void wait_until_wanted(attn_publisher *publisher, const struct peer *peer, uint32_t layer,
                              bool wanted)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    while (attn_publisher_wants(publisher, ATTN_DECODER, layer, ATTN_SELF) != wanted) {
        assert_true(now_ms() < deadline);
        if (peer)
            peer_service(peer);
        rest();
    }
}

static void test_publishing_without_a_daemon_returns_at_once(void **state)
{
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    attn_publisher *publisher = publisher_for(&nobody);
    attn_publisher_counts counts;
    uint64_t start = now_ms();

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(publish(publisher, 0), ATTN_SKIPPED);
    assert_int_equal(attn_epoch_end(publisher), ATTN_SKIPPED);
    assert_int_equal(attn_publisher_wait(publisher, 20), ATTN_E_TIMEOUT);
    attn_publisher_stats(publisher, &counts);
    assert_int_equal(counts.skipped, 1001);
    assert_int_equal(counts.sent + counts.dropped + counts.bytes + counts.queued_bytes, 0);
    attn_publisher_free(&publisher);
    assert_null(publisher);
    assert_true(now_ms() - start < 1000);
}

static void test_nothing_is_sent_before_a_subscription(void **state)
{
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);
    struct received received;

    (void)state;
    assert_int_equal(attn_publisher_wait(publisher, 50), ATTN_E_TIMEOUT);
    assert_int_equal(publish(publisher, 3), ATTN_SKIPPED);
    peer_subscribe(&peer, "tensor/unit/decoder/3/");
    meet(publisher, &peer);
    assert_int_equal(publish(publisher, 2), ATTN_SKIPPED);
    assert_int_equal(publish(publisher, 3), 0);
    expect_tensor(&peer, 3, 0);
    assert_false(peer_receive(&peer, 20, &received));
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_every_field_arrives(void **state)
{
    enum { B = 2, H = 2, Q = 3, K = 5 };
    static const uint16_t weights[B * H * Q * K] = {0x3c00};
    static const double grad[B * H * Q * K] = {0.5};
    static const uint8_t mask[B * Q * K] = {1};
    static const int32_t tokens[B * K] = {7}, q_len[B] = {3, 2}, k_len[B] = {5, 0};
    static const uint8_t run[16] = "0123456789abcdef";
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_attention a = {
        ATTN_ENCODER, 9,     ATTN_CROSS, weights, ATTN_F16, B,        H, Q, K,    true, 2,
        q_len,        k_len, mask,       tokens,  grad,     ATTN_F64, 2, 8, true, true};
    attn_publisher *publisher;
    struct received received;

    (void)state;
    options.run = run;
    options.rank = 1;
    options.world = 4;
    assert_int_equal(attn_publisher_new(&options, &publisher), 0);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    attn_set_position(publisher, 3, 70000);
    assert_int_equal(attn_publish_attention(publisher, &a), 0);

    received = expect(&peer);
    assert_string_equal(received.header.job, "unit");
    assert_memory_equal(received.header.run, run, 16);
    assert_int_equal(received.header.rank, 1);
    assert_int_equal(received.header.world, 4);
    assert_int_equal(received.header.epoch, 3);
    assert_int_equal(received.header.step, 70000);
    assert_int_equal(received.header.layer.stack, STACK_ENCODER);
    assert_int_equal(received.header.layer.site, SITE_CROSS);
    assert_true(received.header.causal && received.header.dropout && received.header.learned_sink);
    assert_int_equal(received.header.window, 2);
    assert_memory_equal(received.header.q_len, q_len, sizeof(q_len));
    assert_memory_equal(received.header.k_len, k_len, sizeof(k_len));
    assert_int_equal(received.header.head_offset, 2);
    assert_int_equal(received.header.heads_total, 8);
    assert_int_equal(received.header.tensors[3].dtype, DTYPE_F64);
    assert_memory_equal(zmq_msg_data(&received.frames[2]), weights, sizeof(weights));
    assert_memory_equal(zmq_msg_data(&received.frames[3]), mask, sizeof(mask));
    assert_memory_equal(zmq_msg_data(&received.frames[4]), tokens, sizeof(tokens));
    assert_memory_equal(zmq_msg_data(&received.frames[5]), grad, sizeof(grad));
    received_free(&received);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_weights_may_change_as_soon_as_the_call_returns(void **state)
{
    enum { KEYS = 1 << 18 };
    float *weights = calloc(KEYS, sizeof(*weights));
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);
    attn_attention attention = attention_of(0, weights, KEYS);
    struct received received;

    (void)state;
    assert_non_null(weights);
    peer_subscribe(&peer, "");
    meet(publisher, &peer);
    weights[KEYS - 1] = 1;
    assert_int_equal(attn_publish_attention(publisher, &attention), 0);
    weights[KEYS - 1] = 2;
    free(weights);
    received = expect(&peer);
    assert_true(((const float *)zmq_msg_data(&received.frames[2]))[KEYS - 1] == 1.0F);
    received_free(&received);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_sequences_count_per_layer(void **state)
{
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);

    (void)state;
    peer_subscribe(&peer, "tensor/unit/");
    meet(publisher, &peer);
    for (uint64_t seq = 0; seq < 50; seq++) {
        for (uint32_t layer = 0; layer < 3; layer++) {
            assert_int_equal(publish(publisher, layer), 0);
            expect_tensor(&peer, layer, seq);
        }
    }
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

/* 1 MiB each into a reader that does not read: the pipe fills, calls still return at once, nothing
 * that was accepted is lost, and the losses are told with the layer's next message. */
static void test_a_stalled_reader_costs_counted_drops_only(void **state)
{
    enum { KEYS = 1 << 18, TRIES = 200 };
    float *weights = calloc(KEYS, sizeof(*weights));
    struct peer peer = peer_open(ZMQ_SUB, NULL, 1);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_publisher *publisher;
    attn_attention attention = attention_of(5, weights, KEYS);
    attn_publisher_counts counts;
    struct received received;
    uint64_t start, accepted, next;

    (void)state;
    options.max_queued_messages = 8;
    assert_int_equal(attn_publisher_new(&options, &publisher), 0);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    start = now_ms();
    for (int i = 0; i < TRIES; i++) {
        int rc = attn_publish_attention(publisher, &attention);

        assert_true(rc == 0 || rc == ATTN_E_DROPPED);
    }
    assert_true(now_ms() - start < 2000);
    attn_publisher_stats(publisher, &counts);
    assert_int_equal(counts.sent + counts.dropped, TRIES);
    assert_true(counts.sent > 0 && counts.dropped > 0);

    accepted = counts.sent;
    for (next = 0; next < accepted; next++)
        expect_tensor(&peer, 5, next);
    while (attn_publish_attention(publisher, &attention) != 0) {
        assert_true(now_ms() - start < PEER_WAIT_MS);
        rest();
    }
    attn_publisher_stats(publisher, &counts);
    received = expect(&peer);
    assert_int_equal(received.header.seq, accepted);
    assert_int_equal(received.header.dropped, counts.dropped);
    received_free(&received);
    attn_publisher_free(&publisher);
    peer_close(&peer);
    free(weights);
}

/* All layers of a step come at once, faster than any reader takes them. */
static void test_a_burst_of_small_messages_loses_nothing(void **state)
{
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);

    (void)state;
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    for (uint32_t layer = 0; layer < 200; layer++)
        assert_int_equal(publish(publisher, layer), 0);
    for (uint32_t layer = 0; layer < 200; layer++)
        expect_tensor(&peer, layer, 0);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_queued_bytes_are_bounded_and_given_back(void **state)
{
    static const float weights[64];
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_attention small = attention_of(0, weights, 32), large = attention_of(0, weights, 64);
    attn_publisher_counts counts;
    attn_publisher *publisher;
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    (void)state;
    options.max_queued_bytes = sizeof(weights) - 1;
    assert_int_equal(attn_publisher_new(&options, &publisher), 0);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    assert_int_equal(attn_publish_attention(publisher, &large), ATTN_E_DROPPED);
    assert_int_equal(attn_publish_attention(publisher, &small), 0);
    expect_tensor(&peer, 0, 0);
    do {
        assert_true(now_ms() < deadline);
        attn_publisher_stats(publisher, &counts);
    } while (counts.queued_bytes > 0);
    assert_int_equal(counts.sent, 1);
    assert_int_equal(counts.bytes, sizeof(weights) / 2);
    assert_int_equal(counts.dropped, 1);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_events_frame_the_training(void **state)
{
    static const attn_layer layers[] = {{ATTN_DECODER, 0, ATTN_SELF, 4},
                                        {ATTN_ENCODER, 1, ATTN_CROSS, 8}};
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);
    struct received received;

    (void)state;
    assert_int_equal(attn_hello(publisher, layers, 2), ATTN_SKIPPED);
    peer_subscribe(&peer, "event/unit/");
    meet(publisher, &peer);
    received = expect(&peer); /* said when somebody came to hear it */
    assert_int_equal(received.header.event, EVENT_HELLO);
    assert_int_equal(received.header.layer_count, 2);
    assert_int_equal(received.header.layers[1].id.stack, STACK_ENCODER);
    assert_int_equal(received.header.layers[1].heads, 8);
    assert_string_equal(received.header.client, "libattn/" ATTND_VERSION);
    received_free(&received);

    attn_set_position(publisher, 7, 700);
    assert_int_equal(attn_epoch_end(publisher), 0);
    received = expect(&peer);
    assert_int_equal(received.header.event, EVENT_EPOCH_END);
    assert_int_equal(received.header.epoch, 7);
    assert_int_equal(received.header.seq, 1);
    received_free(&received);
    attn_publisher_free(&publisher);
    expect_event(&peer, EVENT_BYE, 2);
    peer_close(&peer);
}

static void test_hello_to_a_present_daemon_is_said_once(void **state)
{
    static const attn_layer layer = {ATTN_DECODER, 0, ATTN_SELF, 4};
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);

    (void)state;
    peer_subscribe(&peer, "event/");
    meet(publisher, &peer);
    assert_int_equal(attn_hello(publisher, &layer, 1), 0);
    assert_int_equal(attn_epoch_end(publisher), 0);
    expect_event(&peer, EVENT_HELLO, 0);
    expect_event(&peer, EVENT_EPOCH_END, 1);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

static void test_unsubscribing_stops_a_layer(void **state)
{
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);

    (void)state;
    peer_subscribe(&peer, "tensor/unit/decoder/0/");
    peer_subscribe(&peer, "tensor/unit/decoder/1/");
    wait_until_wanted(publisher, &peer, 0, true);
    wait_until_wanted(publisher, &peer, 1, true);
    peer_unsubscribe(&peer, "tensor/unit/decoder/0/");
    wait_until_wanted(publisher, &peer, 0, false);
    assert_int_equal(publish(publisher, 0), ATTN_SKIPPED);
    assert_int_equal(publish(publisher, 1), 0);
    attn_publisher_free(&publisher);
    peer_close(&peer);
}

/* The new daemon's plan replaces the old one's; hello is said again; sequences go on. */
static void test_a_restarted_daemon_starts_with_its_own_plan(void **state)
{
    static const attn_layer layer = {ATTN_DECODER, 0, ATTN_SELF, 4};
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0), next;
    attn_publisher *publisher = publisher_for(&peer);
    char endpoint[sizeof(peer.endpoint)];

    (void)state;
    peer_subscribe(&peer, "event/");
    peer_subscribe(&peer, "tensor/unit/decoder/0/");
    wait_until_wanted(publisher, &peer, 0, true);
    assert_int_equal(publish(publisher, 0), 0);
    assert_int_equal(attn_hello(publisher, &layer, 1), 0);
    strcpy(endpoint, peer.endpoint);
    peer_close(&peer);
    wait_until_wanted(publisher, NULL, 0, false);

    next = peer_open(ZMQ_SUB, endpoint, 0);
    peer_subscribe(&next, "event/");
    peer_subscribe(&next, "tensor/unit/decoder/1/");
    wait_until_wanted(publisher, &next, 1, true);
    assert_false(attn_publisher_wants(publisher, ATTN_DECODER, 0, ATTN_SELF));
    expect_event(&next, EVENT_HELLO, 1);
    attn_publisher_free(&publisher);
    peer_close(&next);
}

static void test_bad_options_are_refused(void **state)
{
    attn_publisher *publisher = NULL;
    attn_publisher_options options = options_for("tcp://127.0.0.1:1"), bad;

    (void)state;
    assert_int_equal(attn_publisher_new(NULL, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.job = NULL;
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.job = "a/b";
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.rank = 1;
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.world = 0;
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.max_queued_messages = 0;
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.endpoint = "nonsense";
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_TRANSPORT);
    assert_null(publisher);
    attn_publisher_free(&publisher);
    attn_publisher_free(NULL);
}

static void test_bad_tensors_are_refused(void **state)
{
    static const float weights[4];
    static const int32_t longer[1] = {5}, negative[1] = {-1};
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    attn_publisher *publisher = publisher_for(&nobody);
    const attn_attention good = attention_of(0, weights, 4);
    attn_attention bad[10];

    (void)state;
    for (size_t i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].weights = NULL;
    bad[1].keys = 0;
    bad[2].queries = (uint32_t)INT32_MAX + 1;
    bad[3].layer = 65536;
    bad[4].k_len = longer;
    bad[5].q_len = negative;
    bad[6].head_offset = 1;
    bad[7].heads_total = (1u << 20) + 1;
    bad[8].dtype = (attn_dtype)4;
    bad[9].stack = (attn_stack)2;
    assert_int_equal(attn_publish_attention(publisher, &good), ATTN_SKIPPED);
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(attn_publish_attention(publisher, &bad[i]), ATTN_E_ARGUMENT);
    assert_int_equal(attn_publish_attention(publisher, NULL), ATTN_E_ARGUMENT);
    assert_int_equal(attn_publisher_wait(publisher, -1), ATTN_E_ARGUMENT);
    assert_int_equal(attn_hello(publisher, NULL, 1), ATTN_E_ARGUMENT);
    attn_publisher_free(&publisher);
}

/* Lengths that make the header larger than 64 KiB are the caller's error, not a drop. */
static void test_a_header_that_does_not_fit_is_refused(void **state)
{
    enum { BATCH = 20000 };
    float *weights = calloc(BATCH, sizeof(*weights));
    int32_t *lengths = calloc(BATCH, sizeof(*lengths));
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);
    attn_attention attention = attention_of(0, weights, 1);
    attn_publisher_counts counts;

    (void)state;
    attention.batch = BATCH;
    attention.k_len = lengths;
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    assert_int_equal(attn_publish_attention(publisher, &attention), ATTN_E_ARGUMENT);
    attn_publisher_stats(publisher, &counts);
    assert_int_equal(counts.dropped + counts.sent + counts.queued_bytes, 0);
    attn_publisher_free(&publisher);
    peer_close(&peer);
    free(weights);
    free(lengths);
}

static void test_every_code_has_a_sentence(void **state)
{
    (void)state;
    for (int code = ATTN_E_NOT_FOUND; code <= ATTN_SKIPPED; code++)
        assert_string_not_equal(attn_strerror(code), attn_strerror(99));
    assert_string_equal(attn_version(), ATTND_VERSION);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_publishing_without_a_daemon_returns_at_once),
        cmocka_unit_test(test_nothing_is_sent_before_a_subscription),
        cmocka_unit_test(test_every_field_arrives),
        cmocka_unit_test(test_weights_may_change_as_soon_as_the_call_returns),
        cmocka_unit_test(test_sequences_count_per_layer),
        cmocka_unit_test(test_a_stalled_reader_costs_counted_drops_only),
        cmocka_unit_test(test_a_burst_of_small_messages_loses_nothing),
        cmocka_unit_test(test_queued_bytes_are_bounded_and_given_back),
        cmocka_unit_test(test_events_frame_the_training),
        cmocka_unit_test(test_hello_to_a_present_daemon_is_said_once),
        cmocka_unit_test(test_unsubscribing_stops_a_layer),
        cmocka_unit_test(test_a_restarted_daemon_starts_with_its_own_plan),
        cmocka_unit_test(test_bad_options_are_refused),
        cmocka_unit_test(test_bad_tensors_are_refused),
        cmocka_unit_test(test_a_header_that_does_not_fit_is_refused),
        cmocka_unit_test(test_every_code_has_a_sentence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
