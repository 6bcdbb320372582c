/* SPDX-License-Identifier: MIT */
/* Headers of type sketch. */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"

GOLDEN_TEST(a_sketch_is_read, "sketch")
{
    assert_int_equal(header->type, MESSAGE_SKETCH);
    assert_int_equal(header->heads, 2);
    assert_int_equal(header->kv_heads, 1);
    assert_int_equal(header->head_offset, 2);
    assert_int_equal(header->heads_total, 4);
    assert_true(header->batch == 1 && header->queries == 1 && header->keys == 1);
    assert_int_equal(header->stored_dtype[PROJECTION_Q], DTYPE_BF16);
    assert_int_equal(header->stored_dtype[PROJECTION_K], DTYPE_BF16);
    assert_int_equal(header->stored_dtype[PROJECTION_O], DTYPE_F32);
    assert_true(header->frozen[PROJECTION_K] && !header->frozen[PROJECTION_Q]);
    assert_int_equal(header_frame_of(header, TENSOR_HELD), 5);
    assert_string_equal(header->module, "blocks.5.attn");
}

#define STORED(value, rc)                                                                          \
    {                                                                                              \
        "sketch", "stored", LITERAL(value), rc, "stored"                                           \
    }
HEADERS(each_matrix_has_the_dtype_of_its_parameter, STORED(STR3 "f32", ERR_KEY_TYPE),
        STORED("\x93\x01\x01\x01", ERR_KEY_TYPE), STORED("\x90", ERR_SHAPE),
        STORED("\x92" STR3 "f32" STR3 "f32", ERR_SHAPE),
        STORED("\x94" STR3 "f32" STR3 "f32" STR3 "f32" STR3 "f32", ERR_SHAPE),
        STORED("\x93" STR3 "f32" STR3 "f32"
               "\xa2"
               "f8",
               ERR_DTYPE),
        STORED("\x93" STR3 "f32"
               "\xa2"
               "u8" STR3 "f32",
               ERR_DTYPE));

#define FROZEN(value, rc)                                                                          \
    {                                                                                              \
        "sketch", "frozen", LITERAL(value), rc, rc ? "frozen" : NULL                               \
    }
HEADERS(only_matrices_that_are_there_are_frozen, FROZEN("\x90", 0), FROZEN("\x92\xa2wo\xa2wq", 0),
        FROZEN("\xa2wq", ERR_KEY_TYPE), FROZEN("\x91\x01", ERR_KEY_TYPE),
        FROZEN("\x91\xa2wv", ERR_TENSOR_NAME), FROZEN("\x91\xa2wx", ERR_TENSOR_NAME),
        FROZEN("\x92\xa2wq\xa2wq", ERR_TENSOR_NAME));

HEADERS(a_slice_has_whole_key_heads, {"sketch", "head_offset", LITERAL("\x00"), 0, NULL},
        {"sketch", "head_offset", LITERAL("\x01"), ERR_KEY_RANGE, "head_offset"},
        {"sketch", "head_offset", LITERAL("\x03"), ERR_KEY_RANGE, "heads_total"},
        {"sketch", "heads_total", LITERAL("\x05"), ERR_KEY_RANGE, "heads_total"});
