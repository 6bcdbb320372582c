/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"

struct tensor_case {
    const char *name, *dtype;
    uint32_t rank;
    uint64_t shape[5];
};

/* Tensors, up to one without a name, and the verdict on a golden header that has these instead. */
struct tensors_case {
    struct tensor_case tensors[TENSORS_MAX + 2];
    int rc;
};

static struct bytes tensor_list(const struct tensor_case *tensors)
{
    struct mpk_writer writer;
    uint32_t count = 0;

    while (tensors[count].name) {
        count++;
    }
    mpk_writer_init(&writer);
    mpk_put_array(&writer, count);
    for (; tensors->name; tensors++) {
        mpk_put_map(&writer, 3);
        mpk_pair_str(&writer, "name", tensors->name);
        mpk_pair_str(&writer, "dtype", tensors->dtype);
        mpk_pair_array(&writer, "shape", tensors->rank);
        for (uint32_t d = 0; d < tensors->rank; d++) {
            mpk_put_u64(&writer, tensors->shape[d]);
        }
    }
    return bytes_written(&writer);
}

static void judge(const char *golden, const struct tensors_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        OWNED(bytes_free) struct bytes list = tensor_list(cases[i].tensors);
        int rc = headers_change(golden, "tensors", list.data, list.len, NULL);

        if (rc != cases[i].rc) {
            fail_msg("%s, case %zu: %s", golden, i, err_slug(rc));
        }
    }
}
#define JUDGE(golden, cases) judge(golden, cases, sizeof cases / sizeof cases[0])

#define WEIGHTS                                                                                    \
    {                                                                                              \
        "weights", "f16", 4,                                                                       \
        {                                                                                          \
            2, 3, 4, 5                                                                             \
        }                                                                                          \
    }

TEST(single_tensors_are_judged)
{
    static const struct tensors_case cases[] = {
        {{WEIGHTS}, 0},
        {{{NULL, NULL, 0, {0}}}, ERR_TENSOR_NAME},
        {{{"weights", "f64", 4, {1, 1, 1, INT32_MAX}}}, 0},
        {{{"mask", "u8", 3, {2, 4, 5}}}, ERR_TENSOR_NAME}, /* no weights */
        {{{"values", "f32", 4, {1, 1, 1, 1}}}, ERR_TENSOR_NAME},
        {{{"weights", "u8", 4, {1, 1, 1, 1}}}, ERR_DTYPE},
        {{{"weights", "i32", 4, {1, 1, 1, 1}}}, ERR_DTYPE},
        {{{"weights", "f8", 4, {1, 1, 1, 1}}}, ERR_DTYPE},
        {{{"weights", "f32", 0, {0}}}, ERR_SHAPE},
        {{{"weights", "f32", 3, {1, 1, 1}}}, ERR_SHAPE},
        {{{"weights", "f32", 5, {1, 1, 1, 1, 1}}}, ERR_SHAPE},
        {{{"weights", "f32", 4, {1, 0, 1, 1}}}, ERR_SHAPE_ZERO},
        {{{"weights", "f32", 4, {1, 1, 1, (uint64_t)INT32_MAX + 1}}}, ERR_SHAPE},
        {{{"weights", "f32", 4, {INT32_MAX, INT32_MAX, INT32_MAX, 1}}}, ERR_SHAPE_OVERFLOW},
        {{{"weights", "f32", 4, {UINT64_MAX, UINT64_MAX, 1, 1}}}, ERR_SHAPE_OVERFLOW},
        {{{"weights", "f32", 4, {1, 1u << 21, 1, 1}}}, ERR_KEY_RANGE}, /* too many heads */
    };

    JUDGE("attention", cases);
}

TEST(tensors_must_agree_with_the_weights)
{
    static const struct tensors_case cases[] = {
        {{WEIGHTS, {"mask", "u8", 3, {2, 4, 5}}}, 0},
        {{{"mask", "u8", 3, {2, 4, 5}}, WEIGHTS}, 0},
        {{WEIGHTS, {"grad", "f64", 4, {2, 3, 4, 5}}}, 0},
        {{WEIGHTS, {"mask", "u8", 3, {2, 5, 4}}}, ERR_SHAPE},
        {{WEIGHTS, {"mask", "f32", 3, {2, 4, 5}}}, ERR_DTYPE},
        {{WEIGHTS, {"tokens", "i32", 2, {2, 4}}}, ERR_SHAPE},
        {{WEIGHTS, {"tokens", "i32", 2, {2, 5}}}, 0},
        {{WEIGHTS, {"grad", "f16", 4, {2, 3, 4, 4}}}, ERR_SHAPE},
        {{WEIGHTS, WEIGHTS}, ERR_TENSOR_NAME},
        {{WEIGHTS, {"documents", "i32", 2, {2, 5}}}, 0},
        {{WEIGHTS, {"documents", "i32", 2, {2, 4}}}, ERR_SHAPE},
        {{WEIGHTS, {"documents", "u8", 2, {2, 5}}}, ERR_DTYPE},
        {{WEIGHTS, {"q", "f32", 4, {2, 3, 4, 5}}}, ERR_TENSOR_NAME},
        {{WEIGHTS, {"wq", "f32", 2, {4, 5}}}, ERR_TENSOR_NAME},
    };

    JUDGE("attention", cases);
}

TEST(more_tensors_than_roles_are_too_many)
{
    struct tensors_case many = {.rc = ERR_TENSOR_NAME};

    for (size_t i = 0; i <= TENSORS_MAX; i++) {
        many.tensors[i] = (struct tensor_case)WEIGHTS;
    }
    judge("attention", &many, 1);
}

#define TENSOR_Q4                                                                                  \
    {                                                                                              \
        "q", "f32", 4,                                                                             \
        {                                                                                          \
            2, 4, 8, 16                                                                            \
        }                                                                                          \
    }
#define TENSOR_K2                                                                                  \
    {                                                                                              \
        "k", "bf16", 4,                                                                            \
        {                                                                                          \
            2, 2, 9, 16                                                                            \
        }                                                                                          \
    }

TEST(queries_keys_and_values_must_agree)
{
    static const struct tensors_case cases[] = {
        {{TENSOR_Q4, TENSOR_K2}, 0},
        {{TENSOR_K2, TENSOR_Q4}, 0},
        {{TENSOR_Q4}, ERR_TENSOR_NAME},
        {{TENSOR_K2}, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_Q4}, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, WEIGHTS}, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, {"grad", "f32", 4, {2, 4, 8, 9}}}, ERR_TENSOR_NAME},
        {{TENSOR_Q4, {"k", "u8", 4, {2, 2, 9, 16}}}, ERR_DTYPE},
        {{TENSOR_Q4, {"k", "f32", 3, {2, 9, 16}}}, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {3, 2, 9, 16}}}, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 2, 9, 15}}}, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 0, 9, 16}}}, ERR_SHAPE_ZERO},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 3, 9, 16}}}, ERR_GQA},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 8, 9, 16}}}, ERR_GQA},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 2, 9, 3}}}, 0},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 4, 9, 3}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 2, 8, 3}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"mask", "u8", 3, {2, 8, 9}}}, 0},
        {{TENSOR_Q4, TENSOR_K2, {"mask", "u8", 3, {2, 9, 8}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"tokens", "i32", 2, {2, 9}}}, 0},
        {{TENSOR_Q4, TENSOR_K2, {"tokens", "i32", 2, {2, 8}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"documents", "i32", 2, {2, 9}}}, 0},
    };

    JUDGE("qk", cases);
}

TEST(tensors_of_the_output_must_agree_with_the_values)
{
    static const struct tensor_case v = {"v", "f16", 4, {2, 2, 9, 5}};
    static const struct tensor_case dout = {"dout", "f64", 4, {2, 4, 8, 5}};
    static const struct tensor_case wo_r = {"wo_r", "f32", 3, {4, 5, 5}};
    static const struct tensor_case x_norm = {"x_norm", "f32", 2, {2, 8}};
    const struct tensors_case cases[] = {
        {{TENSOR_Q4, TENSOR_K2, v, dout, wo_r, x_norm}, 0},
        {{dout, TENSOR_Q4, TENSOR_K2, v}, 0},
        {{x_norm, wo_r, TENSOR_Q4, TENSOR_K2, v}, 0},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 1, 5}}}, 0},
        {{TENSOR_Q4, TENSOR_K2, dout}, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, wo_r}, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, x_norm}, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, dout, x_norm}, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, dout, dout}, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "u8", 4, {2, 4, 8, 5}}}, ERR_DTYPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 4, 8, 4}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 2, 8, 5}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 4, 9, 5}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 3, {4, 8, 5}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 6, 5}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {2, 5, 5}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 5, 4}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 0, 5}}}, ERR_SHAPE_ZERO},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f64", 3, {4, 5, 5}}}, ERR_DTYPE},
        {{TENSOR_Q4, TENSOR_K2, v, wo_r, {"x_norm", "f32", 2, {2, 9}}}, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, wo_r, {"x_norm", "f16", 2, {2, 8}}}, ERR_DTYPE},
    };

    JUDGE("qk", cases);
    judge("attention", &(struct tensors_case){{WEIGHTS, dout}, ERR_TENSOR_NAME}, 1);
}

TEST(values_beside_weights_must_agree_with_them)
{
    static const struct tensor_case v = {"v", "f16", 4, {2, 1, 5, 7}};
    static const struct tensor_case wo_r = {"wo_r", "f32", 3, {3, 7, 7}};
    static const struct tensor_case x_norm = {"x_norm", "f32", 2, {2, 4}};
    const struct tensors_case cases[] = {
        {{WEIGHTS, v, wo_r, x_norm}, 0},
        {{v, WEIGHTS}, 0},
        {{WEIGHTS, {"v", "f32", 4, {2, 3, 5, 1}}}, 0},
        {{WEIGHTS, {"v", "f32", 4, {2, 2, 5, 7}}}, ERR_GQA},
        {{WEIGHTS, {"v", "f32", 4, {2, 3, 4, 7}}}, ERR_SHAPE},
        {{WEIGHTS, {"v", "f32", 4, {1, 3, 5, 7}}}, ERR_SHAPE},
        {{WEIGHTS, {"v", "i32", 4, {2, 3, 5, 7}}}, ERR_DTYPE},
        {{v}, ERR_TENSOR_NAME}, /* no weights */
        {{WEIGHTS, wo_r}, ERR_TENSOR_NEEDS},
        {{WEIGHTS, v, x_norm}, ERR_TENSOR_NEEDS},
        {{WEIGHTS, v, {"wo_r", "f32", 3, {3, 8, 7}}}, ERR_SHAPE},
        {{WEIGHTS, v, {"wo_r", "f32", 3, {1, 7, 7}}}, ERR_SHAPE},
        {{WEIGHTS, v, wo_r, {"x_norm", "f32", 2, {2, 5}}}, ERR_SHAPE},
    };

    JUDGE("attention", cases);
}

/* A query's document is that of the key at its position. The golden `qk_full` has three queries
 * from position 3 on, and six keys. */
TEST(documents_need_a_key_for_every_query)
{
    static const struct tensors_case longer = {
        {{"weights", "f32", 4, {1, 1, 3, 2}}, {"documents", "i32", 2, {1, 2}}}, ERR_DOCUMENTS};
    static const struct header_case cases[] = {
        {"qk_full", "q_offset", LITERAL("\x02"), 0, NULL},
        {"qk_full", "q_offset", LITERAL("\x04"), ERR_DOCUMENTS, "tensors"},
        {"attention_rows", "q_offset", LITERAL("\x04"), 0, NULL},
        {"attention_rows", "q_stride", LITERAL("\x02"), 0, NULL},
        {"attention_rows", "q_stride", LITERAL("\x03"), ERR_DOCUMENTS, NULL},
        {"attention_rows", "q_offset", LITERAL("\x05"), ERR_DOCUMENTS, NULL},
        {"qk_full", "site", LITERAL(STR5 "cross"), ERR_DOCUMENTS, NULL},
        {"attention_documents", "site", LITERAL(STR5 "cross"), ERR_DOCUMENTS, NULL},
    };

    headers_judge(cases, sizeof cases / sizeof cases[0]);
    judge("attention", &longer, 1);
}

/* The golden `weights` has 4 heads of 8, and 2 for keys and values. */
TEST(matrices_must_be_heads_times_head_dim)
{
    static const struct tensors_case cases[] = {
        {{{NULL, NULL, 0, {0}}}, ERR_TENSOR_NAME},
        {{{"wq", "f64", 2, {32, 5}}}, 0},
        {{{"wq", "f16", 2, {31, 32}}}, ERR_HEAD_DIM},
        {{{"wk", "f32", 2, {16, 32}}}, 0},
        {{{"wk", "f32", 2, {32, 16}}}, ERR_HEAD_DIM},
        {{{"wv", "bf16", 2, {16, 1}}}, 0},
        {{{"wv", "f32", 2, {17, 16}}}, ERR_HEAD_DIM},
        {{{"wo", "f32", 2, {5, 32}}}, 0},
        {{{"wo", "f32", 2, {32, 5}}}, ERR_HEAD_DIM},
        {{{"wo", "i32", 2, {5, 32}}}, ERR_DTYPE},
        {{{"wo", "f32", 3, {5, 32, 1}}}, ERR_SHAPE},
        {{{"wq", "f32", 2, {32, (uint64_t)INT32_MAX + 1}}}, ERR_SHAPE},
        {{{"wq", "f32", 2, {UINT64_MAX, 2}}}, ERR_SHAPE_OVERFLOW},
        {{{"wx", "f32", 2, {32, 32}}}, ERR_TENSOR_NAME},
        {{{"weights", "f32", 4, {1, 4, 8, 8}}}, ERR_TENSOR_NAME},
        {{{"documents", "i32", 2, {1, 8}}}, ERR_TENSOR_NAME},
    };
    static const struct header_case others[] = {
        {"weights", "head_dim", LITERAL("\x09"), ERR_HEAD_DIM, "head_dim"},
        {"weights", "kv_heads", LITERAL("\x03"), ERR_GQA, "kv_heads"},
        /* 2^20 heads of 2^31 - 1 do not wrap to anything. */
        {"weights_slice", "head_dim", LITERAL("\xce\x7f\xff\xff\xff"), ERR_HEAD_DIM, NULL},
    };

    JUDGE("weights", cases);
    headers_judge(others, sizeof others / sizeof others[0]);
}

/* The golden `weights_part` has wq [12, 24] at row 20 of 32, and wo [24, 16] at column 16 of 32. */
#define WQ "\xa2wq\x94\x20\x18\x14\x00"
#define WK "\xa2wk\x94\x10\x18\x00\x00"
#define WO "\xa2wo\x94\x18\x20\x00\x10"
#define PART(value, rc)                                                                            \
    {                                                                                              \
        "weights_part", "parts", LITERAL(value), rc, NULL                                          \
    }
HEADERS(parts_must_lie_within_their_matrices, PART("\x83" WQ WK WO, 0), PART("\x82" WQ WO, 0),
        PART("\x82\xa2wq\x94\x20\x18\x15\x00" WO, ERR_SHAPE),
        PART("\x82\xa2wq\x94\x20\x18\x14\x01" WO, ERR_SHAPE),
        PART("\x82" WQ "\xa2wo\x94\x18\x20\x00\xce\x7f\xff\xff\xff", ERR_SHAPE),
        PART("\x82" WQ "\xa2wo\x93\x18\x20\x00", ERR_SHAPE),
        PART("\x82" WQ "\xa2wo\x94\x18\x20\x00\xff", ERR_KEY_RANGE),
        PART("\x83" WQ WO "\xa2wk\x94\x00\x18\x00\x00", ERR_SHAPE_ZERO),
        PART("\x83" WQ WO "\xa2wk\x94\x10\xce\x80\x00\x00\x00\x00\x00", ERR_KEY_RANGE),
        PART("\x83" WQ WO "\xa2wk\x94\x11\x18\x00\x00", ERR_HEAD_DIM),
        PART("\x81" WQ, ERR_TENSOR_NAME),
        PART("\x83" WQ WO "\xa2wx\x94\x10\x18\x00\x00", ERR_TENSOR_NAME),
        PART("\x83" WQ WO WQ, ERR_KEY_DUPLICATE), PART("\x90", ERR_KEY_TYPE));

HEADERS(a_tensor_needs_its_three_keys,
        {"attention", "tensors", LITERAL("\x91\x81\xa4name\xa7weights"), ERR_KEY_MISSING, NULL},
        {"hello", "layers", LITERAL("\x91\x81\xa5heads\x01"), ERR_KEY_MISSING, NULL});

/* The golden `attention` is [2, 4, 8, 8]. */
HEADERS(lengths_must_fit_the_shape, {"attention", "q_len", LITERAL("\x92\x00\x08"), 0, NULL},
        {"attention", "k_len", LITERAL("\x92\x08\x00"), 0, NULL},
        {"attention", "q_len", LITERAL("\x92\x00\x09"), ERR_LENGTHS, NULL},
        {"attention", "k_len", LITERAL("\x92\x09\x00"), ERR_LENGTHS, NULL},
        {"attention", "k_len", LITERAL("\x92\xff\x00"), ERR_LENGTHS, NULL},
        {"attention", "q_len", LITERAL("\x91\x08"), ERR_LENGTHS, NULL},
        {"attention", "q_len", LITERAL("\x93\x08\x08\x08"), ERR_LENGTHS, NULL},
        {"attention", "k_len", LITERAL("\x90"), ERR_LENGTHS, NULL});

GOLDEN_TEST(a_sample_of_rows_is_read, "attention_sample")
{
    assert_int_equal(header->q_offset, 1);
    assert_int_equal(header->q_stride, 3);
    assert_int_equal(header->queries, 3);
    assert_int_equal(header_last_position(header), 7);
}

#define SUMS                                                                                       \
    {                                                                                              \
        "sums", "f32", 4,                                                                          \
        {                                                                                          \
            8, 2, 4, 2                                                                             \
        }                                                                                          \
    }
#define PLACES                                                                                     \
    {                                                                                              \
        "places", "i32", 3,                                                                        \
        {                                                                                          \
            8, 2, 2                                                                                \
        }                                                                                          \
    }

#define SKETCH_WQ                                                                                  \
    {                                                                                              \
        "wq", "f32", 2,                                                                            \
        {                                                                                          \
            2, 64                                                                                  \
        }                                                                                          \
    }
#define SKETCH_WO                                                                                  \
    {                                                                                              \
        "wo", "f32", 2,                                                                            \
        {                                                                                          \
            2, 64                                                                                  \
        }                                                                                          \
    }

/* The golden one has three names under `stored`. */
TEST(a_sketch_has_64_places_of_each_head)
{
    static const struct tensors_case cases[] = {
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO}, 0},
        {{SKETCH_WO, {"wk", "f32", 2, {2, 64}}, SKETCH_WQ}, 0},
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO, {"held", "u8", 2, {5, 64}}}, 0},
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO, {"held", "u8", 2, {4, 64}}}, ERR_SHAPE},
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO, {"held", "u8", 2, {5, 63}}}, ERR_SHAPE},
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO, {"held", "u8", 1, {320}}}, ERR_SHAPE},
        {{SKETCH_WQ, {"wk", "f32", 2, {1, 64}}, SKETCH_WO, {"held", "f32", 2, {5, 64}}}, ERR_DTYPE},
        {{{"wq", "f16", 2, {2, 64}}}, ERR_DTYPE},
        {{{"wq", "f32", 2, {2, 63}}}, ERR_SHAPE},
        {{{"wq", "f32", 1, {64}}}, ERR_SHAPE},
        {{SKETCH_WQ, {"wo", "f32", 2, {3, 64}}}, ERR_SHAPE},
        {{{"wk", "f32", 2, {2, 64}}, {"wv", "f32", 2, {1, 64}}}, ERR_SHAPE},
        {{SKETCH_WQ, {"wk", "f32", 2, {3, 64}}, SKETCH_WO}, ERR_GQA},
        {{SKETCH_WQ, SKETCH_WQ}, ERR_TENSOR_NAME},
        {{SKETCH_WQ, {"q", "f32", 4, {1, 2, 3, 4}}}, ERR_TENSOR_NAME},
        {{{"held", "u8", 2, {5, 64}}}, ERR_TENSOR_NAME},
        {{{NULL, NULL, 0, {0}}}, ERR_TENSOR_NAME},
        {{{"wq", "f32", 2, {0, 64}}}, ERR_SHAPE_ZERO},
    };

    JUDGE("sketch", cases);
    judge("weights",
          &(struct tensors_case){{SKETCH_WQ, {"held", "u8", 2, {2, 64}}}, ERR_TENSOR_NAME}, 1);
}

TEST(rows_need_sums_and_places_that_fit)
{
    static const struct tensors_case cases[] = {
        {{SUMS, PLACES}, 0},
        {{SUMS, {"places", "i32", 3, {8, 1, 2}}}, 0},
        {{SUMS}, ERR_TENSOR_NAME},
        {{PLACES}, ERR_TENSOR_NAME},
        {{SUMS, {"places", "i32", 3, {7, 1, 2}}}, ERR_SHAPE},
        {{SUMS, {"places", "i32", 3, {8, 3, 2}}}, ERR_SHAPE},
        {{SUMS, {"places", "i32", 3, {8, 1, 3}}}, ERR_SHAPE},
        {{SUMS, {"places", "f32", 3, {8, 1, 2}}}, ERR_DTYPE},
        {{{"sums", "f16", 4, {8, 2, 4, 2}}, PLACES}, ERR_DTYPE},
        {{{"sums", "f32", 4, {9, 2, 4, 2}}, PLACES}, ERR_SHAPE}, /* eight names */
        {{{"sums", "f32", 3, {8, 4, 2}}, PLACES}, ERR_SHAPE},
        {{SUMS, PLACES, {"key_lengths", "f32", 3, {2, 4, 6}}}, 0},
        {{SUMS, PLACES, {"key_lengths", "f32", 3, {2, 3, 6}}}, ERR_GQA},
        {{SUMS, PLACES, {"key_lengths", "f32", 3, {1, 2, 6}}}, ERR_SHAPE},
        {{SUMS, PLACES, {"key_lengths", "f32", 3, {2, 2, 5}}}, ERR_SHAPE},
        {{SUMS, PLACES, {"sinks", "f32", 1, {4}}}, 0},
        {{SUMS, PLACES, {"sinks", "f32", 1, {3}}}, ERR_SHAPE},
        {{SUMS, PLACES, {"sinks", "f64", 1, {4}}}, ERR_DTYPE},
        {{SUMS, PLACES, {"maps", "f16", 3, {4, 3, 4}}}, 0},
        {{SUMS, PLACES, {"maps", "f16", 3, {3, 3, 4}}}, ERR_SHAPE},
        {{SUMS, PLACES, {"maps", "f16", 3, {4, 4, 4}}}, ERR_SHAPE},
        {{SUMS, PLACES, {"mask", "u8", 3, {2, 2, 6}}}, ERR_TENSOR_NAME},
    };

    JUDGE("rows", cases);
    judge("qk", &(struct tensors_case){{SUMS, PLACES}, ERR_TENSOR_NAME}, 1);
}
