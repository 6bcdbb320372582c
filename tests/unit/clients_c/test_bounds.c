/* SPDX-License-Identifier: MIT */
/* Bounds that daemons tell, alone and through a publisher whose daemon is a bare SUB. */
#include "tests/unit/proto/support.h"

#include "clients/c/src/bounds.h"
#include "tests/unit/clients_c/publishing.h"

#include <time.h>

static uint64_t malformed;

/* The bounds when these are subscribed to; the last one NULL. */
static struct bounds bounds_said(const char *const *texts)
{
    OWNED(prefixes_clear) struct prefixes prefixes = {0};
    struct bounds bounds;
    char notice[1200] = {1};

    for (; *texts; texts++) {
        strcpy(notice + 1, *texts);
        prefixes_apply(&prefixes, notice, 1 + strlen(*texts));
    }
    bounds = bounds_of(&prefixes, &malformed);
    return bounds;
}

#define SAID(...) bounds_said((const char *const[]){__VA_ARGS__, NULL})

static struct header header_of(enum message_type type, uint32_t heads, uint32_t keys)
{
    return (struct header){.type = type,
                           .batch = 1,
                           .heads = heads,
                           .heads_total = heads,
                           .queries = 10,
                           .keys = keys};
}

static bool bounds_takes(const struct bounds *bounds, enum message_type type, uint32_t heads,
                         uint32_t keys, uint64_t bytes)
{
    struct header header = header_of(type, heads, keys);

    return bounds_take(bounds, &header, bytes);
}

TEST(a_daemon_that_says_nothing_has_no_bounds)
{
    struct bounds bounds = SAID("tensor/", "plan/0/*/every=1");

    assert_true(bounds_takes(&bounds, MESSAGE_QK, 1000000, 1000000, UINT64_MAX));
}

TEST(each_bound_holds)
{
    struct bounds bounds =
        SAID("limits/accepts=attention,event,smell;header=10;max_message=100;max_entries=200;"
             "max_heads=2;max_smell=3");

    assert_int_equal(malformed, 0);
    assert_true(bounds_takes(&bounds, MESSAGE_ATTENTION, 2, 10, 100));
    assert_false(bounds_takes(&bounds, MESSAGE_ATTENTION, 2, 10, 101));
    assert_false(bounds_takes(&bounds, MESSAGE_ATTENTION, 2, 11, 100));
    assert_false(bounds_takes(&bounds, MESSAGE_ATTENTION, 3, 1, 100));
    assert_false(bounds_takes(&bounds, MESSAGE_QK, 1, 1, 1));
    assert_true(bounds_takes(&bounds, MESSAGE_EVENT, 0, 0, 1));
}

TEST(what_is_left_out_has_no_bound)
{
    struct bounds bounds = SAID("limits/max_heads=5");

    assert_true(bounds_takes(&bounds, MESSAGE_WEIGHTS, 5, 1 << 30, UINT64_MAX));
}

TEST(of_several_the_strictest_holds)
{
    struct bounds bounds = SAID("limits/accepts=attention,qk;header=11;max_message=50;max_heads=9",
                                "limits/accepts=qk,event;header=10;max_message=70;max_heads=3");

    assert_true(bounds_takes(&bounds, MESSAGE_QK, 3, 1, 50));
    assert_false(bounds_takes(&bounds, MESSAGE_QK, 3, 1, 51) ||
                 bounds_takes(&bounds, MESSAGE_QK, 4, 1, 50) ||
                 bounds_takes(&bounds, MESSAGE_ATTENTION, 1, 1, 1));
}

TEST(an_attnd_that_is_too_old_gets_events_only)
{
    struct bounds old = SAID("limits/header=9"), newer = SAID("limits/header=99");

    assert_false(bounds_takes(&old, MESSAGE_QK, 1, 1, 1));
    assert_true(bounds_takes(&old, MESSAGE_EVENT, 0, 0, 1));
    assert_true(bounds_takes(&newer, MESSAGE_QK, 1, 1, 1));
}

TEST(a_malformed_prefix_counts_for_nothing)
{
    static const char *const texts[] = {
        "limits/max_message=1;max_heads=x",  "limits/max_message=1;header=",
        "limits/max_message=1;header",       "limits/max_message=99999999999999999999",
        "limits/max_message=1;max_heads=-1", "limits/max_message=1;=;header=1x"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct bounds bounds = SAID(texts[i]);

        assert_int_equal(malformed, 1);
        assert_int_equal(bounds.max_message, UINT64_MAX);
    }
}

TEST(a_message_that_is_too_large_is_not_copied_and_is_told)
{
    static const float weights[1024];
    OWNED(pair_close)
    struct pairing pair = PAIR("limits/header=10;max_message=4000", "event/", "tensor/");
    attn_attention large = attention_of(1, weights, 1024), header = attention_of(0, weights, 990);
    attn_publisher_counts counts;
    OWNED(received_free) struct received received;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(attn_publish_attention(pair.publisher, &large), ATTN_E_TOO_LARGE);
    }
    counts = settled(pair.publisher);
    assert_int_equal(counts.dropped, 3);
    assert_int_equal(counts.too_large, 3);
    assert_int_equal(counts.queued_bytes, 0);
    received = expect(&pair.peer); /* nothing else is said: a hello tells */
    assert_int_equal(received.header.event, EVENT_HELLO);
    assert_true(received.header.dropped_total >= 1);
    received_free(&received);
    assert_int_equal(attn_publish_attention(pair.publisher, &header),
                     0); /* too large with its header */
    counts = settled(pair.publisher);
    assert_int_equal(counts.too_large, 4);
    assert_int_equal(publish(pair.publisher, 0), 0);
    received = expect(&pair.peer);
    assert_int_equal(received.header.type, MESSAGE_ATTENTION);
    assert_int_equal(received.header.seq, 0);
    assert_int_equal(received.header.dropped, 1);
    received_free(&received);
    attn_publisher_free(&pair.publisher);
    received = expect(&pair.peer);
    assert_int_equal(received.header.event, EVENT_BYE);
    assert_int_equal(received.header.dropped_total, 4);
}

TEST(a_hello_that_is_too_large_is_not_tried_without_end)
{
    static const float weights[1024];
    OWNED(pair_close)
    struct pairing pair = PAIR("limits/header=10;max_message=40", "event/", "tensor/");
    attn_attention large = attention_of(1, weights, 1024);
    struct received received;
    clock_t begin;

    assert_int_equal(attn_publish_attention(pair.publisher, &large), ATTN_E_TOO_LARGE);
    begin = clock();
    assert_false(peer_receive(&pair.peer, 300, &received));
    assert_true(clock() - begin < CLOCKS_PER_SEC / 10);
}
