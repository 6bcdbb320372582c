/* SPDX-License-Identifier: MIT */
/* publishing: what the tests of a publisher have in common. Every wait has a bound. */
#ifndef TESTS_UNIT_CLIENTS_C_PUBLISHING_H
#define TESTS_UNIT_CLIENTS_C_PUBLISHING_H

#include "clients/c/include/attn/attn.h"
#include "tests/unit/clients_c/peer.h"

uint64_t now_ms(void);
/* A millisecond between two looks at a condition. */
void rest(void);

/* Job "unit"; what it says last has time to arrive. */
attn_publisher_options options_for(const char *endpoint);
attn_publisher *publisher_for(const struct peer *peer);
attn_publisher *publisher_with(const attn_publisher_options *options);

/* Waits until the publisher has heard the peer's subscriptions. */
void meet(attn_publisher *publisher, const struct peer *peer);
/* A publisher and a peer with these subscriptions, which it has heard. */
struct pairing {
    struct peer peer;
    attn_publisher *publisher;
};
#define PAIR(...) pair_open((const char *const[]){__VA_ARGS__, NULL})
struct pairing pair_open(const char *const *prefixes);
void pair_close(struct pairing *pair);
/* Receives what was published with this outcome, which is success. */
struct received pair_arrived(const struct pairing *pair, int rc);

/* Waits until it wants a decoder's layer, or does not; the peer may be NULL. */
void wait_until_wanted(attn_publisher *publisher, const struct peer *peer, uint32_t layer,
                       bool wanted);
/* Waits until nothing is queued, checks the identity, and returns the counts. */
attn_publisher_counts settled(attn_publisher *publisher);
attn_publisher_counts checked_counts(attn_publisher *publisher);

/* [1][1][1][keys] of f32 in `weights`, in a decoder's layer. */
attn_attention attention_of(uint32_t layer, const float *weights, uint32_t keys);
/* A small message of a decoder's layer. */
int publish(attn_publisher *publisher, uint32_t layer);

/* Receives one message that must come. */
struct received expect(const struct peer *peer);
void expect_event(const struct peer *peer, enum event_type event, uint64_t seq);
void expect_tensor(const struct peer *peer, uint32_t layer, uint64_t seq);
/* The frame of a tensor, which must be there. */
const void *frame_of(struct received *received, enum tensor_role role);

#endif
