/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "tests/unit/clients_c/publishing.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* How often this thread has waited for something. A call that waits for a peer adds to it each
 * time, whatever else the machine does. */
static long times_waited(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nvcsw;
}

TEST(publishing_without_a_daemon_returns_at_once)
{
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    attn_publisher *publisher = publisher_for(&nobody);
    attn_publisher_counts counts;
    long before = times_waited();

    for (int i = 0; i < 1000; i++) {
        assert_int_equal(publish(publisher, 0), ATTN_SKIPPED);
    }
    assert_true(times_waited() - before < 1000 / 2);
    assert_int_equal(attn_epoch_end(publisher), ATTN_SKIPPED);
    assert_int_equal(attn_publisher_wait(publisher, 20), ATTN_E_TIMEOUT);
    counts = checked_counts(publisher);
    assert_int_equal(counts.published, 1001);
    assert_int_equal(counts.skipped, 1001);
    assert_int_equal(counts.sent + counts.dropped + counts.bytes + counts.queued_bytes, 0);
    attn_publisher_free(&publisher);
    assert_null(publisher);
}

struct heard {
    char sentence[512];
    _Atomic unsigned count;
};

static void hear_sentence(void *context, const char *sentence)
{
    struct heard *heard = context;

    snprintf(heard->sentence, sizeof heard->sentence, "%s", sentence);
    heard->count++;
}

/* Though nothing is published meanwhile, and nothing was blocked before. */
TEST(a_daemon_that_has_gone_is_told_and_its_return)
{
    static struct heard heard;
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0), next;
    char endpoint[sizeof peer.endpoint], expected[512];
    attn_publisher_options options = options_for(peer.endpoint);
    attn_publisher *publisher;
    uint64_t start;

    options.warn = hear_sentence;
    options.warn_context = &heard;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "");
    meet(publisher, &peer);
    strcpy(endpoint, peer.endpoint);
    peer_close(&peer);
    for (start = now_ms(); heard.count == 0; rest()) {
        assert_true(now_ms() - start < PEER_WAIT_MS);
    }
    snprintf(expected, sizeof expected,
             "job unit: attnd at %s has gone, or does not answer: nothing is captured until it is "
             "back; training goes on. Start it again: attnd",
             endpoint);
    assert_string_equal(heard.sentence, expected);
    next = peer_open(ZMQ_SUB, endpoint, 0);
    peer_subscribe(&next, "");
    meet(publisher, &next);          /* it goes on */
    attn_publisher_free(&publisher); /* its thread has ended then */
    snprintf(expected, sizeof expected,
             "job unit: attnd is back, at %s: what follows is captured, ", endpoint);
    assert_memory_equal(heard.sentence, expected, strlen(expected));
    assert_int_equal(heard.count, 2);
    peer_close(&next);
}

TEST(nothing_is_sent_before_a_subscription)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&peer);
    struct received received;

    assert_int_equal(attn_publisher_wait(publisher, 50), ATTN_E_TIMEOUT);
    assert_int_equal(publish(publisher, 3), ATTN_SKIPPED);
    peer_subscribe(&peer, "tensor/unit/decoder/3/");
    meet(publisher, &peer);
    assert_int_equal(publish(publisher, 2), ATTN_SKIPPED);
    assert_int_equal(publish(publisher, 3), 0);
    expect_tensor(&peer, 3, 0);
    assert_false(peer_receive(&peer, 20, &received));
}

TEST(weights_may_change_as_soon_as_the_call_returns)
{
    enum { KEYS = 1 << 18 };
    float *weights = calloc(KEYS, sizeof *weights);
    OWNED(pair_close) struct pairing pair = PAIR("");
    attn_attention attention = attention_of(0, weights, KEYS);
    OWNED(received_free) struct received received;

    assert_non_null(weights);
    weights[KEYS - 1] = 1;
    assert_int_equal(attn_publish_attention(pair.publisher, &attention), 0);
    weights[KEYS - 1] = 2;
    free(weights);
    received = expect(&pair.peer);
    assert_true(((const float *)zmq_msg_data(&received.frames[2]))[KEYS - 1] == 1.0F);
}

TEST(sequences_count_per_layer)
{
    OWNED(pair_close) struct pairing pair = PAIR("tensor/unit/");

    for (uint64_t seq = 0; seq < 50; seq++) {
        for (uint32_t layer = 0; layer < 3; layer++) {
            assert_int_equal(publish(pair.publisher, layer), 0);
            expect_tensor(&pair.peer, layer, seq);
        }
    }
}

/* 1 MiB each into a reader that does not read: the pipe fills, calls still return at once, nothing
 * that was accepted is lost, and the losses are told with the layer's next message. */
TEST(a_stalled_reader_costs_counted_drops_only)
{
    enum { KEYS = 1 << 18, TRIES = 200 };
    static struct heard heard;
    char expected[512];
    float *weights = calloc(KEYS, sizeof *weights);
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 1);
    attn_publisher_options options = options_for(peer.endpoint);
    OWNED(attn_publisher_free) attn_publisher *publisher;
    attn_attention attention = attention_of(5, weights, KEYS);
    attn_publisher_counts counts;
    OWNED(received_free) struct received received;
    uint64_t start, accepted, next;
    long before;

    options.max_queued_messages = 8;
    options.warn = hear_sentence;
    options.warn_context = &heard;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    before = times_waited();
    for (int i = 0; i < TRIES; i++) {
        int rc = attn_publish_attention(publisher, &attention);

        assert_true(rc == 0 || rc == ATTN_E_DROPPED);
    }
    assert_true(times_waited() - before < TRIES / 2);
    /* A sender that got no processor may have dropped these with room in the pipe. */
    for (start = now_ms(); heard.count == 0; rest()) {
        int rc = attn_publish_attention(publisher, &attention);

        assert_true(rc == 0 || rc == ATTN_E_DROPPED || rc == ATTN_SKIPPED);
        assert_true(now_ms() - start < PEER_WAIT_MS);
    }
    counts = checked_counts(publisher);
    accepted = counts.sent + counts.queued;
    assert_true(accepted > 0 && counts.dropped > 0);
    snprintf(expected, sizeof expected,
             "job unit: attnd at %s is stopped, or too busy: it takes nothing, and tensors are "
             "dropped and counted until it does; training goes on. Further times are not told",
             peer.endpoint);
    assert_string_equal(heard.sentence, expected);
    assert_false(attn_publisher_wants(publisher, ATTN_DECODER, 5, ATTN_SELF));

    for (next = 0; next < accepted; next++) {
        expect_tensor(&peer, 5, next);
    }
    start = now_ms();
    while (attn_publish_attention(publisher, &attention) != 0) {
        assert_true(now_ms() - start < PEER_WAIT_MS);
        rest();
    }
    counts = settled(publisher);
    received = expect(&peer);
    assert_int_equal(received.header.seq, accepted);
    assert_int_equal(received.header.dropped, counts.dropped);
    free(weights);
}

/* All layers of a step come at once, faster than any reader takes them. */
TEST(a_burst_of_small_messages_loses_nothing)
{
    OWNED(pair_close) struct pairing pair = PAIR("tensor/");

    for (uint32_t layer = 0; layer < 200; layer++) {
        assert_int_equal(publish(pair.publisher, layer), 0);
    }
    for (uint32_t layer = 0; layer < 200; layer++) {
        expect_tensor(&pair.peer, layer, 0);
    }
}

TEST(queued_bytes_are_bounded_and_given_back)
{
    static const float weights[64];
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_attention small = attention_of(0, weights, 32), large = attention_of(0, weights, 64);
    attn_publisher_counts counts;
    OWNED(attn_publisher_free) attn_publisher *publisher;
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    options.max_queued_bytes = sizeof weights - 1;
    assert_int_equal(attn_publisher_new(&options, &publisher), 0);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    assert_int_equal(attn_publish_attention(publisher, &large), ATTN_E_DROPPED);
    assert_int_equal(attn_publish_attention(publisher, &small), 0);
    expect_tensor(&peer, 0, 0);
    do {
        assert_true(now_ms() < deadline);
        counts = settled(publisher);
    } while (counts.queued_bytes > 0);
    assert_int_equal(counts.sent, 1);
    assert_int_equal(counts.bytes, sizeof weights / 2);
    assert_int_equal(counts.dropped, 1);
}

TEST(events_frame_the_training)
{
    static const attn_layer layers[] = {{ATTN_DECODER, 0, ATTN_SELF, 4},
                                        {ATTN_ENCODER, 1, ATTN_CROSS, 8}};
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher *publisher = publisher_for(&peer);
    struct received received;

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
}

TEST(a_log_arrives_at_its_position)
{
    static const attn_value values[] = {{"loss", 2.5}, {"grad norm", INFINITY}};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "event/");
    struct received received;

    attn_set_position(pair.publisher, 7, 700);
    assert_int_equal(attn_log(pair.publisher, values, 2), 0);
    received = expect(&pair.peer);
    assert_int_equal(received.header.event, EVENT_LOG);
    assert_int_equal(received.header.step, 700);
    assert_int_equal(received.header.values.count, 2);
    assert_string_equal(received.header.values.list[0].name, "loss");
    assert_true(received.header.values.list[0].number == 2.5);
    assert_int_equal(received.header.values.list[1].kind, NAMED_NONE);
    received_free(&received);
    attn_publisher_free(&pair.publisher);
    expect_event(&pair.peer, EVENT_BYE, 1);
}

TEST(a_log_that_is_none_is_refused)
{
    char longest[66];
    attn_value many[33];
    const struct {
        attn_value values[2];
        size_t count;
    } bad[] = {
        {{{NULL, 0}}, 1},   {{{"", 0}}, 1},      {{{"a\n", 0}}, 1},
        {{{"\xff", 0}}, 1}, {{{longest, 0}}, 1}, {{{"a", 0}, {"a", 1}}, 2},
        {{{"a", 0}}, 0},
    };
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "event/");

    memset(longest, 'a', 65);
    longest[65] = '\0';
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(attn_log(pair.publisher, bad[i].values, bad[i].count), ATTN_E_ARGUMENT);
    }
    assert_int_equal(attn_log(pair.publisher, many, 33), ATTN_E_ARGUMENT);
    assert_int_equal(attn_log(pair.publisher, NULL, 1), ATTN_E_ARGUMENT);
    attn_publisher_free(&pair.publisher);
    expect_event(&pair.peer, EVENT_BYE, 0);
}

TEST(hello_to_a_present_daemon_is_said_once)
{
    static const attn_layer layer = {ATTN_DECODER, 0, ATTN_SELF, 4};
    OWNED(pair_close) struct pairing pair = PAIR("event/");

    assert_int_equal(attn_hello(pair.publisher, &layer, 1), 0);
    assert_int_equal(attn_epoch_end(pair.publisher), 0);
    expect_event(&pair.peer, EVENT_HELLO, 0);
    expect_event(&pair.peer, EVENT_EPOCH_END, 1);
}

TEST(unsubscribing_stops_a_layer)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&peer);

    peer_subscribe(&peer, "tensor/unit/decoder/0/");
    peer_subscribe(&peer, "tensor/unit/decoder/1/");
    wait_until_wanted(publisher, &peer, 0, true);
    wait_until_wanted(publisher, &peer, 1, true);
    peer_unsubscribe(&peer, "tensor/unit/decoder/0/");
    wait_until_wanted(publisher, &peer, 0, false);
    assert_int_equal(publish(publisher, 0), ATTN_SKIPPED);
    assert_int_equal(publish(publisher, 1), 0);
}

/* The new daemon's plan replaces the old one's; hello is said again; sequences go on. */
TEST(a_restarted_daemon_starts_with_its_own_plan)
{
    static const attn_layer layer = {ATTN_DECODER, 0, ATTN_SELF, 4};
    struct peer peer = peer_open(ZMQ_SUB, NULL, 0), next;
    attn_publisher *publisher = publisher_for(&peer);
    char endpoint[sizeof peer.endpoint];

    peer_subscribe(&peer, "event/");
    peer_subscribe(&peer, "tensor/unit/decoder/0/");
    wait_until_wanted(publisher, &peer, 0, true);
    assert_int_equal(publish(publisher, 0), 0);
    assert_int_equal(attn_hello(publisher, &layer, 1), 0);
    assert_int_equal(settled(publisher).sent, 2);
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

/* A child of fork() may do anything with its parent's publisher, to no effect. */
static void use_in_child(attn_publisher *publisher)
{
    static const attn_layer layer = {ATTN_DECODER, 0, ATTN_SELF, 4};
    attn_publisher_counts counts;
    attn_plan plan;
    bool inert = publish(publisher, 0) == ATTN_SKIPPED &&
                 !attn_publisher_wants(publisher, ATTN_DECODER, 0, ATTN_SELF) &&
                 attn_epoch_end(publisher) == ATTN_SKIPPED &&
                 attn_hello(publisher, &layer, 1) == ATTN_SKIPPED &&
                 attn_publisher_wait(publisher, 2 * PEER_WAIT_MS) == ATTN_E_TIMEOUT &&
                 attn_publisher_plan(publisher, &plan) == ATTN_SKIPPED;

    attn_set_position(publisher, 9, 9);
    attn_publisher_stats(publisher, &counts);
    inert = inert && counts.published == 0 && counts.queued_bytes == 0;
    attn_publisher_free(&publisher);
    _exit(inert && !publisher ? 0 : 1);
}

TEST(a_forked_child_is_inert_and_the_parent_goes_on)
{
    OWNED(pair_close) struct pairing pair = PAIR("");
    uint64_t start;
    pid_t child;
    int status;

    assert_int_equal(publish(pair.publisher, 0), 0);
    start = now_ms();
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        use_in_child(pair.publisher);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(now_ms() - start < PEER_WAIT_MS);
    assert_int_equal(publish(pair.publisher, 0), 0);
    expect_tensor(&pair.peer, 0, 0);
    expect_tensor(&pair.peer, 0, 1);
    assert_int_equal(settled(pair.publisher).sent, 2);
}

/* The step moves on and nothing is captured: the daemon is told that the job lives, and where. */
TEST(a_job_that_publishes_nothing_shows_that_it_lives)
{
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    OWNED(attn_publisher_free) attn_publisher *publisher;
    struct received received;

    options.alive_ms = 50;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "event/");
    meet(publisher, &peer);
    assert_false(peer_receive(&peer, 150, &received)); /* it stands still */
    for (uint64_t step = 1; step <= 2; step++) {
        attn_set_position(publisher, 0, step);
        received = expect(&peer);
        assert_int_equal(received.header.event, EVENT_HELLO);
        assert_int_equal(received.header.step, step);
        assert_int_equal(received.header.seq, step - 1);
        received_free(&received);
    }
    assert_false(peer_receive(&peer, 150, &received));
    assert_int_equal(checked_counts(publisher).published, 0);
}

/* Whether any were: ZeroMQ takes what it is given, for nobody, from the end of the connection until
 * its own thread has dealt with that. A publisher that is held up meanwhile may refuse some. */
static bool leaves_some_dropped(void)
{
    enum { KEYS = 1 << 14, TRIES = 1000 };
    float *weights = calloc(KEYS, sizeof *weights);
    struct peer peer = peer_open(ZMQ_SUB, NULL, 1);
    attn_publisher_options options = options_for(peer.endpoint);
    attn_attention attention = attention_of(0, weights, KEYS);
    attn_publisher_counts counts;
    attn_publisher *publisher;
    uint64_t refused = 0;

    options.max_queued_messages = TRIES;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "");
    meet(publisher, &peer);
    for (int i = 0; i < TRIES; i++) {
        int rc = attn_publish_attention(publisher, &attention);

        assert_true(rc == 0 || rc == ATTN_E_DROPPED);
        refused += rc != 0;
    }
    free(weights);
    assert_true(checked_counts(publisher).queued > 0);
    peer_close(&peer);
    counts = settled(publisher);
    assert_int_equal(counts.sent + counts.dropped, TRIES);
    wait_until_wanted(publisher, NULL, 0, false);
    attn_publisher_free(&publisher);
    return counts.dropped > refused;
}

TEST(messages_of_a_reader_that_left_are_dropped)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    while (!leaves_some_dropped()) {
        assert_true(now_ms() < deadline);
    }
}

TEST(publisher_bad_options_are_refused)
{
    attn_publisher *publisher = NULL;
    attn_publisher_options options = options_for("tcp://127.0.0.1:1"), bad;

    assert_int_equal(attn_publisher_new(NULL, &publisher), ATTN_E_ARGUMENT);
    bad = options, bad.every = 1000000001;
    assert_int_equal(attn_publisher_new(&bad, &publisher), ATTN_E_ARGUMENT);
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

TEST(every_code_has_a_sentence)
{
    for (int code = ATTN_E_NOT_FOUND; code <= ATTN_SKIPPED; code++) {
        assert_string_not_equal(attn_strerror(code), attn_strerror(99));
    }
    assert_string_equal(attn_version(), ATTND_VERSION);
}
