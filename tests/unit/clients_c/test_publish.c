/* SPDX-License-Identifier: MIT */
/* Every tier: what arrives, and what a plan leaves of it. */
#include "tests/unit/proto/support.h"

#include "tests/unit/clients_c/publishing.h"

#define SHAPE .batch = B, .heads = H, .queries = Q, .keys = K

/* ---- whole messages ---- */

TEST(every_field_of_attention_arrives)
{
    enum { B = 2, H = 2, Q = 3, K = 5 };
    static const uint16_t weights[B * H * Q * K] = {0x3c00};
    static const double grad[B * H * Q * K] = {0.5};
    static const uint8_t mask[B * Q * K] = {1}, run[16] = "0123456789abcdef";
    static const int32_t tokens[B * K] = {7}, documents[B * K] = {3}, q_len[B] = {3, 2},
                                    k_len[B] = {5, 0};
    static const char *const labels[K] = {"a", "", "\xc3\xa9", "d", "e"};
    const attn_attention a = {.stack = ATTN_ENCODER,
                              .layer = 9,
                              .site = ATTN_SELF,
                              .weights = weights,
                              .dtype = ATTN_F16,
                              SHAPE,
                              .causal = true,
                              .window = 2,
                              .q_len = q_len,
                              .k_len = k_len,
                              .mask = mask,
                              .tokens = tokens,
                              .grad = grad,
                              .grad_dtype = ATTN_F64,
                              .head_offset = 2,
                              .heads_total = 8,
                              .dropout = true,
                              .learned_sink = true,
                              .q_offset = 2,
                              .documents = documents,
                              .labels = labels,
                              .microbatch = 6,
                              .module = "vision.layers.9.attn"};
    OWNED(peer_close) struct peer peer = peer_open(ZMQ_SUB, NULL, 0);
    attn_publisher_options options = options_for(peer.endpoint);
    OWNED(attn_publisher_free) attn_publisher *publisher;
    OWNED(received_free) struct received got;
    const struct header *h = &got.header;

    options.run = run;
    options.rank = 1;
    options.world = 4;
    publisher = publisher_with(&options);
    peer_subscribe(&peer, "tensor/");
    meet(publisher, &peer);
    attn_set_position(publisher, 3, 70000);
    assert_int_equal(attn_publish_attention(publisher, &a), 0);
    got = expect(&peer);
    assert_string_equal(h->job, "unit");
    assert_memory_equal(h->run, run, 16);
    assert_true(h->rank == 1 && h->world == 4 && h->epoch == 3 && h->step == 70000);
    assert_true(h->layer.stack == STACK_ENCODER && h->layer.layer == 9);
    assert_true(h->causal && h->dropout && h->learned_sink && h->window == 2);
    assert_memory_equal(h->q_len, q_len, sizeof q_len);
    assert_memory_equal(h->k_len, k_len, sizeof k_len);
    assert_true(h->head_offset == 2 && h->heads_total == 8);
    assert_true(h->q_offset == 2 && h->microbatch == 6);
    assert_string_equal(h->module, "vision.layers.9.attn");
    assert_memory_equal(frame_of(&got, TENSOR_WEIGHTS), weights, sizeof weights);
    assert_memory_equal(frame_of(&got, TENSOR_MASK), mask, sizeof mask);
    assert_memory_equal(frame_of(&got, TENSOR_TOKENS), tokens, sizeof tokens);
    assert_memory_equal(frame_of(&got, TENSOR_DOCUMENTS), documents, sizeof documents);
    assert_memory_equal(frame_of(&got, TENSOR_GRAD), grad, sizeof grad);
    assert_non_null(memmem(zmq_msg_data(&got.frames[1]), zmq_msg_size(&got.frames[1]),
                           LITERAL("\xa6labels\x95\xa1"
                                   "a\xa0\xa2\xc3\xa9\xa1"
                                   "d\xa1"
                                   "e")));
}

TEST(every_field_of_qk_arrives)
{
    enum { B = 2, H = 4, G = 2, Q = 3, K = 5, D = 8, DV = 2 };
    static const float q[B * H * Q * D] = {1};
    static const double k[B * G * K * D] = {2};
    static const uint16_t v[B * G * K * DV] = {3};
    static const uint8_t mask[B * Q * K] = {1};
    static const int32_t tokens[B * K] = {7}, documents[B * K] = {3}, q_len[B] = {3, 2};
    const attn_qk qk = {.stack = ATTN_DECODER,
                        .layer = 1,
                        .q = q,
                        .k = k,
                        .v = v,
                        .k_dtype = ATTN_F64,
                        .v_dtype = ATTN_BF16,
                        SHAPE,
                        .head_dim = D,
                        .kv_heads = G,
                        .value_dim = DV,
                        .scale = 0.5,
                        .softcap = 30,
                        .causal = true,
                        .window = 4,
                        .q_len = q_len,
                        .mask = mask,
                        .tokens = tokens,
                        .q_offset = 2,
                        .documents = documents,
                        .microbatch = 1,
                        .module = "blocks.0#1"};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free)
    struct received got = pair_arrived(&pair, attn_publish_qk(pair.publisher, &qk));
    const struct header *h = &got.header;

    assert_int_equal(h->type, MESSAGE_QK);
    assert_string_equal(h->module, "blocks.0#1");
    assert_true(h->heads == H && h->kv_heads == G && h->head_dim == D && h->value_dim == DV);
    assert_true(fabs(h->scale - 0.5) < 1e-12 && fabs(h->softcap - 30) < 1e-12);
    assert_true(h->q_offset == 2 && h->causal && h->window == 4 && h->q_len[1] == 2);
    assert_memory_equal(frame_of(&got, TENSOR_Q), q, sizeof q);
    assert_memory_equal(frame_of(&got, TENSOR_K), k, sizeof k);
    assert_memory_equal(frame_of(&got, TENSOR_V), v, sizeof v);
    assert_memory_equal(frame_of(&got, TENSOR_MASK), mask, sizeof mask);
    assert_memory_equal(frame_of(&got, TENSOR_TOKENS), tokens, sizeof tokens);
    assert_memory_equal(frame_of(&got, TENSOR_DOCUMENTS), documents, sizeof documents);
}

TEST(scale_and_key_heads_have_the_usual_defaults)
{
    static const float vectors[2 * 16];
    attn_qk qk;
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free) struct received got;

    attn_qk_default(&qk);
    qk.q = qk.k = qk.v = vectors;
    qk.batch = qk.queries = qk.keys = 1;
    qk.heads = 2;
    qk.head_dim = 16;
    got = pair_arrived(&pair, attn_publish_qk(pair.publisher, &qk));
    assert_true(fabs(got.header.scale - 0.25) < 1e-12);
    assert_true(got.header.kv_heads == 2 && got.header.value_dim == 16);
}

TEST(every_matrix_arrives)
{
    static const float wq[8 * 6] = {1}, wo[5 * 8] = {4};
    static const uint16_t wk[4 * 6] = {2};
    static const double wv[4 * 7] = {3};
    const attn_weights weights = {.stack = ATTN_DECODER,
                                  .module = "blocks.0",
                                  .site = ATTN_CROSS,
                                  .heads = 4,
                                  .head_dim = 2,
                                  .kv_heads = 2,
                                  .heads_total = 16,
                                  .wq = {wq, ATTN_F32, 6},
                                  .wk = {wk, ATTN_F16, 6},
                                  .wv = {wv, ATTN_F64, 7},
                                  .wo = {wo, ATTN_F32, 5}};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free)
    struct received got = pair_arrived(&pair, attn_publish_weights(pair.publisher, &weights));

    assert_int_equal(got.header.type, MESSAGE_WEIGHTS);
    assert_true(got.header.heads == 4 && got.header.kv_heads == 2 && got.header.head_dim == 2);
    assert_int_equal(got.header.heads_total, 16);
    assert_string_equal(got.header.module, "blocks.0");
    assert_memory_equal(frame_of(&got, TENSOR_WQ), wq, sizeof wq);
    assert_memory_equal(frame_of(&got, TENSOR_WK), wk, sizeof wk);
    assert_memory_equal(frame_of(&got, TENSOR_WV), wv, sizeof wv);
    assert_memory_equal(frame_of(&got, TENSOR_WO), wo, sizeof wo);
}

TEST(the_tiers_of_a_layer_share_its_sequence)
{
    static const float numbers[4] = {1};
    attn_weights weights = {
        .stack = ATTN_DECODER, .heads = 1, .head_dim = 2, .wq = {numbers, ATTN_F32, 2}};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free) struct received got;

    assert_int_equal(publish(pair.publisher, 0), 0);
    assert_int_equal(attn_publish_weights(pair.publisher, &weights), 0);
    expect_tensor(&pair.peer, 0, 0);
    got = expect(&pair.peer);
    assert_int_equal(got.header.seq, 1);
}

/* ---- what a plan leaves ---- */

enum { B = 3, H = 6, G = 3, Q = 5, K = 7, D = 2 };

/* Every entry says where it stood. */
struct arrays {
    float weights[B][H][Q][K], q[B][H][Q][D], k[B][G][K][D];
    uint8_t mask[B][Q][K];
    int32_t tokens[B][K], q_len[B];
};

static const struct arrays *filled(void)
{
    static struct arrays a;

    for (int b = 0; b < B; b++) {
        a.q_len[b] = Q - b;
        for (int h = 0; h < H; h++) {
            for (int i = 0; i < Q; i++) {
                for (int j = 0; j < K; j++) {
                    a.weights[b][h][i][j] = (float)(1000 * b + 100 * h + 10 * i + j);
                }
                a.q[b][h][i][0] = (float)(1000 * b + 100 * h + 10 * i);
            }
        }
        for (int g = 0; g < G; g++) {
            for (int j = 0; j < K; j++) {
                a.k[b][g][j][1] = (float)(1000 * b + 100 * g + j);
            }
        }
        for (int j = 0; j < K; j++) {
            a.tokens[b][j] = 10 * b + j;
        }
        for (int i = 0; i < Q; i++) {
            memset(a.mask[b][i], 10 * b + i, K);
        }
    }
    return &a;
}

/* All of these, of which the plan leaves something. */
static attn_attention attention_with(const struct arrays *a, const attn_plan *plan)
{
    return (attn_attention){.weights = a->weights,
                            SHAPE,
                            .q_len = a->q_len,
                            .mask = &a->mask[0][0][0],
                            .tokens = &a->tokens[0][0],
                            .plan = plan};
}

static attn_plan plan_with(uint32_t samples, uint32_t rows, attn_range range)
{
    attn_plan plan;

    attn_plan_default(&plan);
    plan.samples = samples;
    plan.rows = rows;
    plan.range_count = 1;
    plan.ranges[0] = range;
    return plan;
}

/* Rows 1 and 4 of five. */
TEST(a_plan_cuts_samples_heads_and_rows_out_of_attention)
{
    const struct arrays *a = filled();
    const attn_plan plan = plan_with(2, 2, (attn_range){3, 4});
    attn_attention attention = attention_with(a, &plan);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free) struct received got;
    const struct header *h = &got.header;
    const float *weights;
    const char *mask;

    attention.q_offset = 1;
    attention.head_offset = 2;
    attention.heads_total = 10;
    attn_set_position(pair.publisher, 0, 2);
    got = pair_arrived(&pair, attn_publish_attention(pair.publisher, &attention));
    assert_true(h->batch == 2 && h->heads == 2 && h->queries == 2 && h->keys == K);
    assert_true(h->head_offset == 3 && h->heads_total == 10);
    assert_true(h->q_offset == 2 && h->q_stride == 3);
    assert_true(h->q_len[0] == 2 && h->q_len[1] == 1);
    weights = frame_of(&got, TENSOR_WEIGHTS);
    mask = frame_of(&got, TENSOR_MASK);
    for (int b = 0; b < 2; b++) {
        for (int row = 0; row < 2; row++, mask += K) {
            assert_memory_equal(mask, a->mask[b][1 + 3 * row], K);
        }
        for (int head = 0; head < 2; head++) {
            for (int row = 0; row < 2; row++, weights += K) {
                assert_memory_equal(weights, a->weights[b][1 + head][1 + 3 * row],
                                    K * sizeof(float));
            }
        }
    }
    assert_memory_equal(frame_of(&got, TENSOR_TOKENS), a->tokens, 2 * sizeof a->tokens[0]);
}

TEST(a_stride_of_the_callers_own_arrives)
{
    const struct arrays *a = filled();
    attn_attention attention = {
        .weights = a->weights, .batch = 1, .heads = 1, .queries = 2, .keys = K, .q_stride = 6};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free)
    struct received got = pair_arrived(&pair, attn_publish_attention(pair.publisher, &attention));

    assert_int_equal(got.header.q_stride, 6);
}

static attn_qk qk_of(const struct arrays *a, const attn_plan *plan)
{
    return (attn_qk){.q = a->q,
                     .k = a->k,
                     .batch = B,
                     .heads = H,
                     .kv_heads = G,
                     .queries = Q,
                     .keys = K,
                     .head_dim = D,
                     .plan = plan};
}

TEST(tensors_of_the_output_arrive)
{
    static const float dout[B][H][Q][D], wo_r[H][2][D], x_norm[B][Q];
    const struct arrays *a = filled();
    attn_qk qk = qk_of(a, NULL);
    attn_attention attention = {
        .weights = a->weights, SHAPE, .v = a->k, .kv_heads = G, .value_dim = D};
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free) struct received got;

    qk.v = a->k;
    qk.dout = dout;
    qk.wo_r = attention.wo_r = &wo_r[0][0][0];
    qk.x_norm = attention.x_norm = &x_norm[0][0];
    qk.written_dim = attention.written_dim = 2;
    got = pair_arrived(&pair, attn_publish_qk(pair.publisher, &qk));
    assert_int_equal(got.header.tensor_count, 6);
    received_free(&got);
    got = pair_arrived(&pair, attn_publish_attention(pair.publisher, &attention));
    assert_true(got.header.tensor_count == 4 && got.header.kv_heads == G);
}

TEST(bad_tensors_of_the_output_are_refused)
{
    static const float numbers[B * H * Q * K * D];
    const struct arrays *a = filled();
    const attn_attention good = {.weights = a->weights,
                                 SHAPE,
                                 .v = numbers,
                                 .kv_heads = G,
                                 .value_dim = D,
                                 .wo_r = numbers,
                                 .written_dim = D,
                                 .x_norm = numbers};
    attn_attention bad[7];
    attn_qk qk = qk_of(a, NULL);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");

    for (int i = 0; i < 7; i++) {
        bad[i] = good;
    }
    bad[0].v = NULL;
    bad[1].kv_heads = 4;
    bad[2].value_dim = 0;
    bad[3].written_dim = 0;
    bad[4].written_dim = D + 1;
    bad[5].wo_r = NULL;
    bad[6].v_dtype = (attn_dtype)9;
    for (int i = 0; i < 7; i++) {
        assert_int_equal(attn_publish_attention(pair.publisher, &bad[i]), ATTN_E_ARGUMENT);
    }
    assert_int_equal(attn_publish_attention(pair.publisher, &good), 0);
    qk.dout = numbers;
    assert_int_equal(attn_publish_qk(pair.publisher, &qk), ATTN_E_ARGUMENT);
    qk.v = numbers;
    assert_int_equal(attn_publish_qk(pair.publisher, &qk), 0);
    qk.dout_dtype = (attn_dtype)9;
    assert_int_equal(attn_publish_qk(pair.publisher, &qk), ATTN_E_ARGUMENT);
}

/* Heads 2 to 5 of 6 are two groups of two, which read key heads 1 and 2. */
TEST(whole_groups_of_heads_take_their_key_heads)
{
    const struct arrays *a = filled();
    const attn_plan plan = plan_with(1, 0, (attn_range){2, 99});
    const attn_qk qk = qk_of(a, &plan);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free)
    struct received got = pair_arrived(&pair, attn_publish_qk(pair.publisher, &qk));

    assert_true(got.header.heads == 4 && got.header.kv_heads == 2 && got.header.batch == 1);
    assert_true(got.header.head_offset == 2 && got.header.heads_total == H);
    assert_memory_equal(frame_of(&got, TENSOR_Q), a->q[0][2], 4 * sizeof a->q[0][0]);
    assert_memory_equal(frame_of(&got, TENSOR_K), a->k[0][1], 2 * sizeof a->k[0][0]);
}

/* Heads 1 to 3 read key heads 0, 1 and 1: each gets its own. */
TEST(parts_of_groups_get_a_key_head_each)
{
    const struct arrays *a = filled();
    const attn_plan plan = plan_with(0, 0, (attn_range){1, 3});
    const attn_qk qk = qk_of(a, &plan);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    OWNED(received_free)
    struct received got = pair_arrived(&pair, attn_publish_qk(pair.publisher, &qk));
    const float *k;

    assert_true(got.header.heads == 3 && got.header.kv_heads == 3);
    k = frame_of(&got, TENSOR_K);
    for (int b = 0; b < B; b++) {
        for (int head = 0; head < 3; head++) {
            assert_memory_equal(k + (b * 3 + head) * K * D, a->k[b][(1 + head) / 2],
                                sizeof a->k[0][0]);
        }
    }
}

TEST(ranges_of_heads_are_messages_of_their_own)
{
    const struct arrays *a = filled();
    attn_plan plan = plan_with(0, 0, (attn_range){0, 0});
    attn_qk qk = qk_of(a, &plan);
    OWNED(pair_close) struct pairing pair = PAIR("limits/header=10", "tensor/");
    struct received got;

    plan.range_count = 3;
    plan.ranges[1] = (attn_range){4, 5};
    plan.ranges[2] = (attn_range){H, 99};
    assert_int_equal(attn_publish_qk(pair.publisher, &qk), 0);
    for (uint64_t seq = 0; seq < 2; seq++) {
        got = expect(&pair.peer);
        assert_int_equal(got.header.seq, seq);
        assert_int_equal(got.header.head_offset, seq ? 4 : 0);
        received_free(&got);
    }
    plan = plan_with(0, 0, (attn_range){H, 99}); /* none of this layer's */
    assert_int_equal(attn_publish_qk(pair.publisher, &qk), ATTN_SKIPPED);
    assert_int_equal(settled(pair.publisher).published, 3);
}
