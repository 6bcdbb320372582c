/* SPDX-License-Identifier: MIT */
/* Headers of type rows. */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"

GOLDEN_TEST(rows_of_a_call_are_read, "rows")
{
    assert_int_equal(header->type, MESSAGE_ROWS);
    assert_int_equal(header->batch, 2);
    assert_int_equal(header->heads, 4);
    assert_int_equal(header->kv_heads, 2);
    assert_int_equal(header->queries, 2);
    assert_int_equal(header->call_queries, 4);
    assert_int_equal(header->keys, 6);
    assert_int_equal(header->local_window, 4);
    assert_int_equal(header->q_stride, 0);
    assert_int_equal(header->k_len[1], 5);
    assert_int_equal(header->sum_column[ROW_SUM_LARGEST], 1);
    assert_int_equal(header->sum_column[ROW_SUM_APART], 7);
    assert_int_equal(header->sum_column[ROW_SUM_TOP], 0);
    assert_false(header->of_weights);
    assert_int_equal(header_frame_of(header, TENSOR_PLACES), 3);
    assert_int_equal(header_rows_of(header, 16), 32);
    assert_int_equal(header_sample_number(header, 1), 2);
}

GOLDEN_TEST(maps_beside_rows_are_of_their_call, "rows")
{
    const struct sent_maps *maps = &header->maps;

    assert_int_equal(header_map_heads(header), 4);
    assert_true(maps->queries == 3 && maps->keys == 4 && maps->rows == 3 && maps->columns == 4);
    assert_true(maps->first_query == 1 && maps->first_key == 2);
}

GOLDEN_TEST(rows_of_weights_are_read, "rows_weights")
{
    assert_true(header->of_weights && header->dropout);
    assert_int_equal(header->weights_dtype, DTYPE_BF16);
    assert_int_equal(header->local_window, LOCAL_WINDOW);
    assert_int_equal(header_map_heads(header), 0);
    assert_int_equal(header_rows_of(header, 6), 6);
}

TEST(rows_stand_for_no_more_than_2_to_the_40)
{
    struct header header = {.type = MESSAGE_ROWS, .queries = 3, .call_queries = INT32_MAX};

    assert_true(header_rows_of(&header, UINT64_C(1) << 40) == UINT64_C(1) << 40);
    assert_true(header_rows_of(&header, 3) == INT32_MAX);
}

#define NOT_A(key, value)                                                                          \
    {                                                                                              \
        "rows", key, LITERAL(value), ERR_KEY_TYPE, key                                             \
    }
HEADERS(keys_of_rows_have_their_types, NOT_A("sums", "\x01"), NOT_A("queries", "\xa1z"),
        NOT_A("keys", "\xc0"), NOT_A("weights", "\x01"), NOT_A("local_window", "\xc3"),
        NOT_A("map_queries", "\xa1z"), NOT_A("map_keys", "\x90"), NOT_A("first_query", "\xa1z"),
        NOT_A("q_offset", "\xa1z"), NOT_A("causal", "\x01"), NOT_A("k_len", "\x01"),
        NOT_A("microbatch", "\xa1z"), NOT_A("sample", "\xc0"), NOT_A("batch", "\x90"));

#define BEYOND(key, value)                                                                         \
    {                                                                                              \
        "rows", key, LITERAL(value), ERR_KEY_RANGE, key                                            \
    }
HEADERS(keys_of_rows_have_their_ranges, BEYOND("queries", "\x01"), /* two rows were taken */
        BEYOND("queries", "\xce\x80\x00\x00\x00"), BEYOND("keys", "\x00"),
        BEYOND("weights", "\xa2i8"), BEYOND("weights", "\xa3i32"), BEYOND("weights", "\xa2u8"),
        BEYOND("local_window", "\xce\x80\x00\x00\x00"), BEYOND("map_queries", "\x00"),
        {"rows", "map_queries", LITERAL("\x04"), ERR_SHAPE, "tensors"},
        {"rows", "first_query", LITERAL("\x02"), ERR_KEY_RANGE, "map_queries"},
        BEYOND("map_keys", "\x05"), BEYOND("first_query", "\x04"), BEYOND("first_key", "\x06"),
        BEYOND("heads_total", "\x07"), BEYOND("batch", "\x02"),
        {"rows", "keys", LITERAL("\x07"), ERR_SHAPE, "keys"}, /* key_lengths has 6 */
        {"rows", "k_len", LITERAL("\x92\x07\x01"), ERR_LENGTHS, "k_len"},
        {"rows", "queries", LITERAL("\xce\x7f\xff\xff\xff"), 0, NULL});

/* Eight sums, as the golden header has them, with one changed. */
#define SUMS(first, second, last)                                                                  \
    "\x98" first second "\xa8weighted\xa8"                                                         \
    "distance\xa5"                                                                                 \
    "first\xa0\xa5"                                                                                \
    "apart" last
#define LARGEST "\xa7largest"
#define TOTAL   "\xa5total"
HEADERS(each_sum_is_known_and_named_once,
        {"rows", "sums", LITERAL(SUMS(LARGEST, TOTAL, "\xa3top")), 0, NULL},
        {"rows", "sums", LITERAL(SUMS(LARGEST, TOTAL, "\xa0")), 0, NULL},
        {"rows", "sums", LITERAL(SUMS(LARGEST, TOTAL, "\xa4tops")), ERR_SUMS, "sums"},
        {"rows", "sums", LITERAL(SUMS(LARGEST, TOTAL, TOTAL)), ERR_SUMS, "sums"},
        {"rows", "sums", LITERAL(SUMS(LARGEST, "\xa0", "\xa0")), ERR_SUMS, "sums"},
        {"rows", "sums", LITERAL(SUMS("\xa0", TOTAL, "\xa0")), ERR_SUMS, "sums"},
        {"rows", "sums", LITERAL(SUMS(LARGEST, TOTAL, "\x01")), ERR_KEY_TYPE, "sums"},
        {"rows", "sums", LITERAL("\x90"), ERR_SHAPE, "sums"});

TEST(each_needed_sum_is_needed)
{
    for (int missing = 0; missing < ROW_SUM_COUNT; missing++) {
        struct mpk_writer writer;
        bool needed = row_sum_needed((enum row_sum)missing);
        mpk_writer_init(&writer);
        mpk_put_array(&writer, 8);
        for (int i = 0; i < 8; i++) { /* the needed ones come first */
            mpk_put_str(&writer, i == missing ? "" : row_sum_name((enum row_sum)i));
        }
        OWNED(bytes_free) struct bytes list = bytes_written(&writer);
        int rc = headers_change("rows", "sums", list.data, list.len, NULL);
        assert_int_equal(rc, needed ? ERR_SUMS : 0);
    }
}
