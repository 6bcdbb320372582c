/* SPDX-License-Identifier: MIT */
/* Messages that are refused, of every tier; and states, which arrive as bytes. */
#include "tests/unit/proto/support.h"

#include "tests/unit/clients_c/publishing.h"

static const float numbers[64];

static attn_qk small_qk(void)
{
    return (attn_qk){.q = numbers,
                     .k = numbers,
                     .batch = 1,
                     .heads = 4,
                     .queries = 2,
                     .keys = 2,
                     .head_dim = 2,
                     .kv_heads = 2};
}

static attn_weights small_weights(void)
{
    return (attn_weights){.heads = 4, .head_dim = 2, .kv_heads = 2, .wk = {numbers, ATTN_F32, 3}};
}

#define REFUSED(function, good, change)                                                            \
    do {                                                                                           \
        bad = (good);                                                                              \
        bad.change;                                                                                \
        assert_int_equal(function(publisher, &bad), ATTN_E_ARGUMENT);                              \
    } while (0)

TEST(bad_attention_is_refused)
{
    static const int32_t longer[1] = {5}, negative[1] = {-1}, documents[4];
    static const char *const cut_off[4] = {"a", "b", "c", "\xc3"}, *const missing[4] = {"a"};
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&nobody);
    attn_attention good = attention_of(0, numbers, 4), bad;
    attn_plan plan;

    attn_plan_default(&plan);
    plan.range_count = 1;
    plan.ranges[0] = (attn_range){2, 1};
    assert_int_equal(attn_publish_attention(publisher, &good), ATTN_SKIPPED);
    assert_int_equal(attn_publish_attention(publisher, NULL), ATTN_E_ARGUMENT);
    REFUSED(attn_publish_attention, good, weights = NULL);
    REFUSED(attn_publish_attention, good, keys = 0);
    REFUSED(attn_publish_attention, good, queries = (uint32_t)INT32_MAX + 1);
    REFUSED(attn_publish_attention, good, layer = 65536);
    REFUSED(attn_publish_attention, good, k_len = longer);
    REFUSED(attn_publish_attention, good, q_len = negative);
    REFUSED(attn_publish_attention, good, head_offset = 1);
    REFUSED(attn_publish_attention, good, heads_total = (1u << 20) + 1);
    REFUSED(attn_publish_attention, good, dtype = (attn_dtype)4);
    REFUSED(attn_publish_attention, good, grad_dtype = (attn_dtype)-1);
    REFUSED(attn_publish_attention, good, stack = (attn_stack)2);
    REFUSED(attn_publish_attention, good, q_offset = UINT32_MAX);
    REFUSED(attn_publish_attention, good, labels = cut_off);
    REFUSED(attn_publish_attention, good, labels = missing);
    REFUSED(attn_publish_attention, good, plan = &plan);
    REFUSED(attn_publish_attention, good, module = "");
    REFUSED(attn_publish_attention, good, module = "a\x1b[2J");
    REFUSED(attn_publish_attention, good, module = "\xff");
    good.documents = documents;
    REFUSED(attn_publish_attention, good, site = ATTN_CROSS);
    REFUSED(attn_publish_attention, good, q_offset = 4);
    good.queries = 2;
    REFUSED(attn_publish_attention, good, q_stride = 4);
    good.documents = NULL;
    REFUSED(attn_publish_attention, good, q_stride = UINT32_MAX);
    assert_int_equal(attn_publisher_wait(publisher, -1), ATTN_E_ARGUMENT);
    assert_int_equal(attn_hello(publisher, NULL, 1), ATTN_E_ARGUMENT);
    assert_int_equal(checked_counts(publisher).published, 1);
}

TEST(bad_qk_is_refused)
{
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&nobody);
    const attn_qk good = small_qk();
    attn_qk bad;

    assert_int_equal(attn_publish_qk(publisher, &good), ATTN_SKIPPED);
    assert_int_equal(attn_publish_qk(publisher, NULL), ATTN_E_ARGUMENT);
    REFUSED(attn_publish_qk, good, q = NULL);
    REFUSED(attn_publish_qk, good, k = NULL);
    REFUSED(attn_publish_qk, good, kv_heads = 3);
    REFUSED(attn_publish_qk, good, kv_heads = 8);
    REFUSED(attn_publish_qk, good, head_dim = 0);
    REFUSED(attn_publish_qk, good, scale = NAN);
    REFUSED(attn_publish_qk, good, scale = INFINITY);
    REFUSED(attn_publish_qk, good, softcap = -1);
    REFUSED(attn_publish_qk, good, v_dtype = (attn_dtype)9);
    REFUSED(attn_publish_qk, good, heads = 0);
    REFUSED(attn_publish_qk, good, site = (attn_site)7);
    REFUSED(attn_publish_qk, good, module = "a\n");
}

TEST(bad_weights_are_refused)
{
    struct peer nobody = {.endpoint = "tcp://127.0.0.1:1"};
    OWNED(attn_publisher_free) attn_publisher *publisher = publisher_for(&nobody);
    const attn_weights good = small_weights();
    attn_weights bad;

    assert_int_equal(attn_publish_weights(publisher, &good), ATTN_SKIPPED);
    assert_int_equal(attn_publish_weights(publisher, NULL), ATTN_E_ARGUMENT);
    REFUSED(attn_publish_weights, good, wk.data = NULL);
    REFUSED(attn_publish_weights, good, wk.width = 0);
    REFUSED(attn_publish_weights, good, wk.dtype = (attn_dtype)4);
    REFUSED(attn_publish_weights, good, heads = 0);
    REFUSED(attn_publish_weights, good, kv_heads = 3);
    REFUSED(attn_publish_weights, good, head_dim = 0);
    REFUSED(attn_publish_weights, good, head_dim = INT32_MAX);
    REFUSED(attn_publish_weights, good, heads_total = 3);
    REFUSED(attn_publish_weights, good, module = "\x7f");
}

/* Lengths that make the header larger than 64 KiB are the caller's error, not a drop. */
TEST(a_header_that_does_not_fit_is_refused)
{
    enum { BATCH = 20000 };
    float *weights = calloc(BATCH, sizeof *weights);
    int32_t *lengths = calloc(BATCH, sizeof *lengths);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    attn_attention attention = attention_of(0, weights, 1);
    attn_publisher_counts counts;

    attention.batch = BATCH;
    attention.k_len = lengths;
    assert_int_equal(attn_publish_attention(pair.publisher, &attention), ATTN_E_ARGUMENT);
    counts = checked_counts(pair.publisher);
    assert_int_equal(counts.published + counts.queued_bytes, 0);
    free(weights);
    free(lengths);
}

TEST(labels_that_do_not_fit_are_left_out)
{
    enum { KEYS = 16384 };
    float *weights = calloc(KEYS, sizeof *weights);
    const char **labels = calloc(KEYS, sizeof *labels);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    attn_attention attention = attention_of(0, weights, KEYS);
    OWNED(received_free) struct received got;

    for (int i = 0; i < KEYS; i++) {
        labels[i] = "token";
    }
    attention.labels = labels;
    got = pair_arrived(&pair, attn_publish_attention(pair.publisher, &attention));
    assert_true(zmq_msg_size(&got.frames[1]) < 1000);
    free(weights);
    free(labels);
}
