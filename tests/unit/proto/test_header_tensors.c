/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"

struct tensor_case {
    const char *name, *dtype;
    uint32_t rank;
    uint64_t shape[5];
};

static struct bytes tensor_list(const struct tensor_case *tensors, uint32_t count)
{
    struct mpk_writer writer;

    mpk_writer_init(&writer);
    mpk_put_array(&writer, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(&writer, 3);
        mpk_pair_str(&writer, "name", tensors[i].name);
        mpk_pair_str(&writer, "dtype", tensors[i].dtype);
        mpk_pair_array(&writer, "shape", tensors[i].rank);
        for (uint32_t d = 0; d < tensors[i].rank; d++) {
            mpk_put_u64(&writer, tensors[i].shape[d]);
        }
    }
    return bytes_written(&writer);
}

/* The verdict on a golden header with other tensors. */
static int verdict_of(const char *golden, const struct tensor_case *tensors, uint32_t count)
{
    OWNED(bytes_free) struct bytes list = tensor_list(tensors, count);
    int rc = headers_change(golden, "tensors", list.data, list.len, NULL);

    return rc;
}

static int verdict_tensors(const struct tensor_case *tensors, uint32_t count)
{
    return verdict_of("attention", tensors, count);
}

#define WEIGHTS                                                                                    \
    {                                                                                              \
        "weights", "f16", 4,                                                                       \
        {                                                                                          \
            2, 3, 4, 5                                                                             \
        }                                                                                          \
    }

TEST(single_tensors_are_judged)
{
    static const struct {
        struct tensor_case tensor;
        int rc;
    } cases[] = {
        {WEIGHTS, 0},
        {{"weights", "f64", 4, {1, 1, 1, INT32_MAX}}, 0},
        {{"mask", "u8", 3, {2, 4, 5}}, ERR_TENSOR_NAME}, /* no weights */
        {{"values", "f32", 4, {1, 1, 1, 1}}, ERR_TENSOR_NAME},
        {{"weights", "u8", 4, {1, 1, 1, 1}}, ERR_DTYPE},
        {{"weights", "i32", 4, {1, 1, 1, 1}}, ERR_DTYPE},
        {{"weights", "f8", 4, {1, 1, 1, 1}}, ERR_DTYPE},
        {{"weights", "f32", 0, {0}}, ERR_SHAPE},
        {{"weights", "f32", 3, {1, 1, 1}}, ERR_SHAPE},
        {{"weights", "f32", 5, {1, 1, 1, 1, 1}}, ERR_SHAPE},
        {{"weights", "f32", 4, {1, 0, 1, 1}}, ERR_SHAPE_ZERO},
        {{"weights", "f32", 4, {1, 1, 1, (uint64_t)INT32_MAX + 1}}, ERR_SHAPE},
        {{"weights", "f32", 4, {INT32_MAX, INT32_MAX, INT32_MAX, 1}}, ERR_SHAPE_OVERFLOW},
        {{"weights", "f32", 4, {UINT64_MAX, UINT64_MAX, 1, 1}}, ERR_SHAPE_OVERFLOW},
        {{"weights", "f32", 4, {1, 1u << 21, 1, 1}}, ERR_KEY_RANGE}, /* too many heads */
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_tensors(&cases[i].tensor, 1);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
    assert_int_equal(verdict_tensors(NULL, 0), ERR_TENSOR_NAME);
}

TEST(tensors_must_agree_with_the_weights)
{
    static const struct {
        struct tensor_case tensors[2];
        int rc;
    } cases[] = {
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

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_tensors(cases[i].tensors, 2);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
}

TEST(more_tensors_than_roles_are_too_many)
{
    static const struct tensor_case weights = WEIGHTS;
    struct tensor_case many[TENSORS_MAX + 1];

    for (size_t i = 0; i <= TENSORS_MAX; i++) {
        many[i] = weights;
    }
    assert_int_equal(verdict_tensors(many, TENSORS_MAX + 1), ERR_TENSOR_NAME);
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
    static const struct {
        struct tensor_case tensors[3];
        uint32_t count;
        int rc;
    } cases[] = {
        {{TENSOR_Q4, TENSOR_K2}, 2, 0},
        {{TENSOR_K2, TENSOR_Q4}, 2, 0},
        {{TENSOR_Q4}, 1, ERR_TENSOR_NAME},
        {{TENSOR_K2}, 1, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_Q4}, 2, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, WEIGHTS}, 3, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, {"grad", "f32", 4, {2, 4, 8, 9}}}, 3, ERR_TENSOR_NAME},
        {{TENSOR_Q4, {"k", "u8", 4, {2, 2, 9, 16}}}, 2, ERR_DTYPE},
        {{TENSOR_Q4, {"k", "f32", 3, {2, 9, 16}}}, 2, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {3, 2, 9, 16}}}, 2, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 2, 9, 15}}}, 2, ERR_SHAPE},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 0, 9, 16}}}, 2, ERR_SHAPE_ZERO},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 3, 9, 16}}}, 2, ERR_GQA},
        {{TENSOR_Q4, {"k", "f32", 4, {2, 8, 9, 16}}}, 2, ERR_GQA},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 2, 9, 3}}}, 3, 0},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 4, 9, 3}}}, 3, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"v", "f64", 4, {2, 2, 8, 3}}}, 3, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"mask", "u8", 3, {2, 8, 9}}}, 3, 0},
        {{TENSOR_Q4, TENSOR_K2, {"mask", "u8", 3, {2, 9, 8}}}, 3, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"tokens", "i32", 2, {2, 9}}}, 3, 0},
        {{TENSOR_Q4, TENSOR_K2, {"tokens", "i32", 2, {2, 8}}}, 3, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, {"documents", "i32", 2, {2, 9}}}, 3, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_of("qk", cases[i].tensors, cases[i].count);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
}

TEST(tensors_of_the_output_must_agree_with_the_values)
{
    static const struct tensor_case v = {"v", "f16", 4, {2, 2, 9, 5}};
    static const struct tensor_case dout = {"dout", "f64", 4, {2, 4, 8, 5}};
    static const struct tensor_case wo_r = {"wo_r", "f32", 3, {4, 5, 5}};
    static const struct tensor_case x_norm = {"x_norm", "f32", 2, {2, 8}};
    const struct {
        struct tensor_case tensors[6];
        uint32_t count;
        int rc;
    } cases[] = {
        {{TENSOR_Q4, TENSOR_K2, v, dout, wo_r, x_norm}, 6, 0},
        {{dout, TENSOR_Q4, TENSOR_K2, v}, 4, 0},
        {{x_norm, wo_r, TENSOR_Q4, TENSOR_K2, v}, 5, 0},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 1, 5}}}, 4, 0},
        {{TENSOR_Q4, TENSOR_K2, dout}, 3, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, wo_r}, 3, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, x_norm}, 4, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, dout, x_norm}, 5, ERR_TENSOR_NEEDS},
        {{TENSOR_Q4, TENSOR_K2, v, dout, dout}, 5, ERR_TENSOR_NAME},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "u8", 4, {2, 4, 8, 5}}}, 4, ERR_DTYPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 4, 8, 4}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 2, 8, 5}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 4, {2, 4, 9, 5}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"dout", "f32", 3, {4, 8, 5}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 6, 5}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {2, 5, 5}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 5, 4}}}, 4, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f32", 3, {4, 0, 5}}}, 4, ERR_SHAPE_ZERO},
        {{TENSOR_Q4, TENSOR_K2, v, {"wo_r", "f64", 3, {4, 5, 5}}}, 4, ERR_DTYPE},
        {{TENSOR_Q4, TENSOR_K2, v, wo_r, {"x_norm", "f32", 2, {2, 9}}}, 5, ERR_SHAPE},
        {{TENSOR_Q4, TENSOR_K2, v, wo_r, {"x_norm", "f16", 2, {2, 8}}}, 5, ERR_DTYPE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_of("qk", cases[i].tensors, cases[i].count);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
    assert_int_equal(verdict_tensors((struct tensor_case[]){WEIGHTS, dout}, 2), ERR_TENSOR_NAME);
}

TEST(values_beside_weights_must_agree_with_them)
{
    static const struct tensor_case v = {"v", "f16", 4, {2, 1, 5, 7}};
    static const struct tensor_case wo_r = {"wo_r", "f32", 3, {3, 7, 7}};
    static const struct tensor_case x_norm = {"x_norm", "f32", 2, {2, 4}};
    const struct {
        struct tensor_case tensors[4];
        uint32_t count;
        int rc;
    } cases[] = {
        {{WEIGHTS, v, wo_r, x_norm}, 4, 0},
        {{v, WEIGHTS}, 2, 0},
        {{WEIGHTS, {"v", "f32", 4, {2, 3, 5, 1}}}, 2, 0},
        {{WEIGHTS, {"v", "f32", 4, {2, 2, 5, 7}}}, 2, ERR_GQA},
        {{WEIGHTS, {"v", "f32", 4, {2, 3, 4, 7}}}, 2, ERR_SHAPE},
        {{WEIGHTS, {"v", "f32", 4, {1, 3, 5, 7}}}, 2, ERR_SHAPE},
        {{WEIGHTS, {"v", "i32", 4, {2, 3, 5, 7}}}, 2, ERR_DTYPE},
        {{v}, 1, ERR_TENSOR_NAME}, /* no weights */
        {{WEIGHTS, wo_r}, 2, ERR_TENSOR_NEEDS},
        {{WEIGHTS, v, x_norm}, 3, ERR_TENSOR_NEEDS},
        {{WEIGHTS, v, {"wo_r", "f32", 3, {3, 8, 7}}}, 3, ERR_SHAPE},
        {{WEIGHTS, v, {"wo_r", "f32", 3, {1, 7, 7}}}, 3, ERR_SHAPE},
        {{WEIGHTS, v, wo_r, {"x_norm", "f32", 2, {2, 5}}}, 4, ERR_SHAPE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_tensors(cases[i].tensors, cases[i].count);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
}

/* A query's document is that of the key at its position. The golden `qk_full` has three queries
 * from position 3 on, and six keys. */
TEST(documents_need_a_key_for_every_query)
{
    static const struct tensor_case longer[] = {{"weights", "f32", 4, {1, 1, 3, 2}},
                                                {"documents", "i32", 2, {1, 2}}};
    const char *key;

    assert_int_equal(headers_change("qk_full", "q_offset", LITERAL("\x02"), NULL), 0);
    assert_int_equal(headers_change("qk_full", "q_offset", LITERAL("\x04"), &key), ERR_DOCUMENTS);
    assert_string_equal(key, "tensors");
    assert_int_equal(headers_change("attention_rows", "q_offset", LITERAL("\x04"), NULL), 0);
    assert_int_equal(headers_change("attention_rows", "q_stride", LITERAL("\x02"), NULL), 0);
    assert_int_equal(headers_change("attention_rows", "q_stride", LITERAL("\x03"), &key),
                     ERR_DOCUMENTS);
    assert_int_equal(headers_change("attention_rows", "q_offset", LITERAL("\x05"), &key),
                     ERR_DOCUMENTS);
    assert_int_equal(headers_change("qk_full", "site",
                                    LITERAL("\xa5"
                                            "cross"),
                                    NULL),
                     ERR_DOCUMENTS);
    assert_int_equal(headers_change("attention_documents", "site",
                                    LITERAL("\xa5"
                                            "cross"),
                                    NULL),
                     ERR_DOCUMENTS);
    assert_int_equal(verdict_tensors(longer, 2), ERR_DOCUMENTS);
}

/* The golden `weights` has 4 heads of 8, and 2 for keys and values. */
TEST(matrices_must_be_heads_times_head_dim)
{
    static const struct {
        struct tensor_case tensor;
        int rc;
    } cases[] = {
        {{"wq", "f64", 2, {32, 5}}, 0},
        {{"wq", "f16", 2, {31, 32}}, ERR_HEAD_DIM},
        {{"wk", "f32", 2, {16, 32}}, 0},
        {{"wk", "f32", 2, {32, 16}}, ERR_HEAD_DIM},
        {{"wv", "bf16", 2, {16, 1}}, 0},
        {{"wv", "f32", 2, {17, 16}}, ERR_HEAD_DIM},
        {{"wo", "f32", 2, {5, 32}}, 0},
        {{"wo", "f32", 2, {32, 5}}, ERR_HEAD_DIM},
        {{"wo", "i32", 2, {5, 32}}, ERR_DTYPE},
        {{"wo", "f32", 3, {5, 32, 1}}, ERR_SHAPE},
        {{"wq", "f32", 2, {32, (uint64_t)INT32_MAX + 1}}, ERR_SHAPE},
        {{"wq", "f32", 2, {UINT64_MAX, 2}}, ERR_SHAPE_OVERFLOW},
        {{"wx", "f32", 2, {32, 32}}, ERR_TENSOR_NAME},
        {{"weights", "f32", 4, {1, 4, 8, 8}}, ERR_TENSOR_NAME},
        {{"documents", "i32", 2, {1, 8}}, ERR_TENSOR_NAME},
    };
    const char *key;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = verdict_of("weights", &cases[i].tensor, 1);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
    assert_int_equal(verdict_of("weights", NULL, 0), ERR_TENSOR_NAME);
    assert_int_equal(headers_change("weights", "head_dim", LITERAL("\x09"), &key), ERR_HEAD_DIM);
    assert_string_equal(key, "head_dim");
    assert_int_equal(headers_change("weights", "kv_heads", LITERAL("\x03"), &key), ERR_GQA);
    assert_string_equal(key, "kv_heads");
    /* 2^20 heads of 2^31 - 1 do not wrap to anything. */
    assert_int_equal(
        headers_change("weights_slice", "head_dim", LITERAL("\xce\x7f\xff\xff\xff"), NULL),
        ERR_HEAD_DIM);
}

/* The golden `weights_part` has wq [12, 24] at row 20 of 32, and wo [24, 16] at column 16 of 32. */
TEST(parts_must_lie_within_their_matrices)
{
#define WQ "\xa2wq\x94\x20\x18\x14\x00"
#define WK "\xa2wk\x94\x10\x18\x00\x00"
#define WO "\xa2wo\x94\x18\x20\x00\x10"
    static const struct {
        const char *value;
        size_t len;
        int rc;
    } cases[] = {
        {LITERAL("\x83" WQ WK WO), 0},
        {LITERAL("\x82" WQ WO), 0},
        {LITERAL("\x82\xa2wq\x94\x20\x18\x15\x00" WO), ERR_SHAPE},
        {LITERAL("\x82\xa2wq\x94\x20\x18\x14\x01" WO), ERR_SHAPE},
        {LITERAL("\x82" WQ "\xa2wo\x94\x18\x20\x00\xce\x7f\xff\xff\xff"), ERR_SHAPE},
        {LITERAL("\x82" WQ "\xa2wo\x93\x18\x20\x00"), ERR_SHAPE},
        {LITERAL("\x82" WQ "\xa2wo\x94\x18\x20\x00\xff"), ERR_KEY_RANGE},
        {LITERAL("\x83" WQ WO "\xa2wk\x94\x00\x18\x00\x00"), ERR_SHAPE_ZERO},
        {LITERAL("\x83" WQ WO "\xa2wk\x94\x10\xce\x80\x00\x00\x00\x00\x00"), ERR_KEY_RANGE},
        {LITERAL("\x83" WQ WO "\xa2wk\x94\x11\x18\x00\x00"), ERR_HEAD_DIM},
        {LITERAL("\x81" WQ), ERR_TENSOR_NAME},
        {LITERAL("\x83" WQ WO "\xa2wx\x94\x10\x18\x00\x00"), ERR_TENSOR_NAME},
        {LITERAL("\x83" WQ WO WQ), ERR_KEY_DUPLICATE},
        {LITERAL("\x90"), ERR_KEY_TYPE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = headers_change("weights_part", "parts", cases[i].value, cases[i].len, NULL);

        if (rc != cases[i].rc) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
}

TEST(a_tensor_needs_its_three_keys)
{
    assert_int_equal(
        headers_change("attention", "tensors", LITERAL("\x91\x81\xa4name\xa7weights"), NULL),
        ERR_KEY_MISSING);
    assert_int_equal(headers_change("hello", "layers", LITERAL("\x91\x81\xa5heads\x01"), NULL),
                     ERR_KEY_MISSING);
}

/* The golden `attention` is [2, 4, 8, 8]. */
TEST(lengths_must_fit_the_shape)
{
    static const struct {
        const char *key, *value;
        size_t len;
        int rc;
    } cases[] = {
        {"q_len", LITERAL("\x92\x00\x08"), 0},
        {"k_len", LITERAL("\x92\x08\x00"), 0},
        {"q_len", LITERAL("\x92\x00\x09"), ERR_LENGTHS},
        {"k_len", LITERAL("\x92\x09\x00"), ERR_LENGTHS},
        {"k_len", LITERAL("\x92\xff\x00"), ERR_LENGTHS},
        {"q_len", LITERAL("\x91\x08"), ERR_LENGTHS},
        {"q_len", LITERAL("\x93\x08\x08\x08"), ERR_LENGTHS},
        {"k_len", LITERAL("\x90"), ERR_LENGTHS},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(
            headers_change("attention", cases[i].key, cases[i].value, cases[i].len, NULL),
            cases[i].rc);
    }
}

GOLDEN_TEST(a_sample_of_rows_is_read, "attention_sample")
{
    assert_int_equal(header->q_offset, 1);
    assert_int_equal(header->q_stride, 3);
    assert_int_equal(header->queries, 3);
    assert_int_equal(header_last_position(header), 7);
}

/* The golden `state_maps` has 2 heads of 4 x 4 cells, from head 1 of 3 on, of 300 queries and the
 * keys 8 to 317 of 330, at positions from 20 on. */
TEST(maps_of_a_state_must_fit_what_they_are_of)
{
    static const struct {
        const char *key, *value;
        size_t len;
        int rc;
        const char *fault;
    } cases[] = {
        {"queries", LITERAL("\x04"), 0, NULL},
        {"queries", LITERAL("\x03"), ERR_SHAPE, "tensors"},
        {"keys", LITERAL("\x03"), ERR_SHAPE, "tensors"},
        {"queries", LITERAL("\x00"), ERR_KEY_RANGE, "queries"},
        {"queries", LITERAL("\xcd\x01\x2d"), ERR_KEY_RANGE, "queries_sent"},
        {"queries_sent", LITERAL("\xce\x80\x00\x00\x00"), ERR_KEY_RANGE, "queries_sent"},
        {"keys_sent", LITERAL("\xcd\x01\x3e"), 0, NULL},
        {"keys_sent", LITERAL("\xcd\x01\x3d"), ERR_KEY_RANGE, "keys_sent"},
        {"first_key", LITERAL("\x15"), ERR_KEY_RANGE, "keys_sent"},
        {"head_offset", LITERAL("\x00"), 0, NULL},
        {"head_offset", LITERAL("\x02"), ERR_KEY_RANGE, "heads_total"},
        {"q_offset", LITERAL("\xce\xff\xff\xfe\xd3"), 0, NULL},
        {"q_offset", LITERAL("\xce\xff\xff\xfe\xd4"), ERR_KEY_RANGE, "q_offset"},
        {"sample", LITERAL("\xff"), ERR_KEY_RANGE, "sample"},
    };
    struct bytes bytes = headers_golden("state_maps");
    struct header header;
    const char *key;

    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_true(header.maps.heads == 2 && header.maps.rows == 4 && header.maps.columns == 4);
    assert_true(header.maps.queries == 300 && header.maps.keys == 310 && header.maps.sample == 2);
    assert_true(header.maps.first_query == 0 && header.maps.first_key == 8);
    assert_true(header.maps.queries_sent == 300 && header.maps.keys_sent == 330);
    assert_true(header.head_offset == 1 && header.q_offset == 20 && header.heads == 3);
    header_clear(&header);
    bytes_free(&bytes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int rc = headers_change("state_maps", cases[i].key, cases[i].value, cases[i].len, &key);

        if (rc != cases[i].rc || (rc && strcmp(key, cases[i].fault) != 0)) {
            fail_msg("case %zu: %s", i, err_slug(rc));
        }
    }
}

TEST(a_state_needs_its_frame_and_maps_their_numbers)
{
    static const struct tensor_case with[] = {{"state", "u8", 1, {9}},
                                              {"maps", "f16", 3, {1, 4, 4}}},
                                    wide[] = {{"state", "u8", 1, {9}},
                                              {"maps", "f16", 3, {1, 4, 65}}},
                                    tall[] = {{"state", "u8", 1, {9}},
                                              {"maps", "f16", 3, {1, 65, 4}}},
                                    real[] = {{"state", "u8", 1, {9}},
                                              {"maps", "f32", 3, {1, 4, 4}}};

    assert_int_equal(verdict_of("state_maps", with, 2), 0);
    assert_int_equal(verdict_of("state_maps", with + 1, 1), ERR_TENSOR_NAME);
    assert_int_equal(verdict_of("state_maps", wide, 2), ERR_SHAPE);
    assert_int_equal(verdict_of("state_maps", tall, 2), ERR_SHAPE);
    assert_int_equal(verdict_of("state_maps", real, 2), ERR_DTYPE);
    assert_int_equal(verdict_of("state", with, 2), ERR_KEY_MISSING);
    assert_int_equal(verdict_of("state_maps", with, 1), 0); /* what is said of none is skipped */
    assert_int_equal(verdict_of("weights", with + 1, 1), ERR_TENSOR_NAME);
}
