/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "tests/unit/clients_c/publishing.h"

#include <time.h>

uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

attn_publisher_options options_for(const char *endpoint)
{
    attn_publisher_options options;

    attn_publisher_options_default(&options);
    options.endpoint = endpoint;
    options.job = "unit";
    options.linger_ms = PEER_WAIT_MS;
    return options;
}

attn_publisher *publisher_with(const attn_publisher_options *options)
{
    attn_publisher *publisher;

    assert_int_equal(attn_publisher_new(options, &publisher), 0);
    return publisher;
}

attn_publisher *publisher_for(const struct peer *peer)
{
    attn_publisher_options options = options_for(peer->endpoint);

    return publisher_with(&options);
}

/* Waits until the publisher has heard the peer's subscriptions. */
void meet(attn_publisher *publisher, const struct peer *peer)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    do {
        assert_true(now_ms() < deadline);
        peer_service(peer);
    } while (attn_publisher_wait(publisher, 10) != 0);
    assert_int_equal(attn_publisher_wait(publisher, PEER_WAIT_MS), 0);
}

/* [1][1][1][keys] of f32 in `weights`, in a decoder's layer. */
attn_attention attention_of(uint32_t layer, const float *weights, uint32_t keys)
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

int publish(attn_publisher *publisher, uint32_t layer)
{
    static const float weights[4] = {0.25F, 0.25F, 0.25F, 0.25F};
    attn_attention attention = attention_of(layer, weights, 4);

    return attn_publish_attention(publisher, &attention);
}

/* Receives one message that must come. */
struct received expect(const struct peer *peer)
{
    struct received received;

    assert_true(peer_receive(peer, PEER_WAIT_MS, &received));
    return received;
}

void expect_event(const struct peer *peer, enum event_type event, uint64_t seq)
{
    OWNED(received_free) struct received received = expect(peer);

    assert_int_equal(received.header.type, MESSAGE_EVENT);
    assert_int_equal(received.header.event, event);
    assert_int_equal(received.header.seq, seq);
}

void expect_tensor(const struct peer *peer, uint32_t layer, uint64_t seq)
{
    OWNED(received_free) struct received received = expect(peer);

    assert_int_equal(received.header.type, MESSAGE_ATTENTION);
    assert_int_equal(received.header.layer.layer, layer);
    assert_int_equal(received.header.seq, seq);
}

void wait_until_wanted(attn_publisher *publisher, const struct peer *peer, uint32_t layer,
                       bool wanted)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;

    while (attn_publisher_wants(publisher, ATTN_DECODER, layer, ATTN_SELF) != wanted) {
        assert_true(now_ms() < deadline);
        if (peer) {
            peer_service(peer);
        }
        rest();
    }
}

attn_publisher_counts checked_counts(attn_publisher *publisher)
{
    attn_publisher_counts counts;

    attn_publisher_stats(publisher, &counts);
    assert_int_equal(counts.published,
                     counts.sent + counts.skipped + counts.dropped + counts.queued);
    return counts;
}

attn_publisher_counts settled(attn_publisher *publisher)
{
    uint64_t deadline = now_ms() + PEER_WAIT_MS;
    attn_publisher_counts counts = checked_counts(publisher);

    while (counts.queued > 0) {
        assert_true(now_ms() < deadline);
        rest();
        counts = checked_counts(publisher);
    }
    return counts;
}

const void *frame_of(struct received *received, enum tensor_role role)
{
    uint32_t frame = header_frame_of(&received->header, role);

    assert_true(frame >= 2 && frame < received->count);
    return zmq_msg_data(&received->frames[frame]);
}

struct pairing pair_open(const char *const *prefixes)
{
    struct pairing pair = {.peer = peer_open(ZMQ_SUB, NULL, 0)};

    pair.publisher = publisher_for(&pair.peer);
    for (; *prefixes; prefixes++) {
        peer_subscribe(&pair.peer, *prefixes);
    }
    meet(pair.publisher, &pair.peer);
    return pair;
}

void pair_close(struct pairing *pair)
{
    attn_publisher_free(&pair->publisher);
    peer_close(&pair->peer);
}

struct received pair_arrived(const struct pairing *pair, int rc)
{
    assert_int_equal(rc, 0);
    return expect(&pair->peer);
}
