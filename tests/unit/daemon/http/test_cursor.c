/* SPDX-License-Identifier: MIT */
/* The cursor reads what the writer wrote, passes over anything, and survives any bytes. */
#include "tests/unit/unit.h"

#include "daemon/http/metrics/cursor.h"
#include "proto/mpk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct mpk_writer writer;

static int cursor_setup(void **state)
{
    (void)state;
    mpk_writer_init(&writer);
    return 0;
}

static int cursor_teardown(void **state)
{
    (void)state;
    mpk_writer_clear(&writer);
    return 0;
}

static struct cursor cursor(void)
{
    assert_true(mpk_writer_ok(&writer));
    return cursor_of(writer.buffer.data, writer.buffer.size);
}

static const uint64_t counts[] = {0,     1,          127,        128,  255, 256,
                                  65535, 4294967295, 4294967296, 1e18, 77,  UINT64_MAX};
#define COUNTS (sizeof counts / sizeof counts[0])

static void test_counts_of_all_widths(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNTS; i++) {
        mpk_put_u64(&writer, counts[i]);
    }
    struct cursor at = cursor();
    for (size_t i = 0; i < COUNTS; i++) {
        assert_int_equal(cursor_count(&at), counts[i]);
    }
    assert_true(!at.failed && at.at == at.end);
}

static void test_numbers_of_all_kinds(void **state)
{
    static const int64_t negative[] = {-1, -32, -33, -128, -129, -32769, -2147483649};
    (void)state;
    mpk_put_f64(&writer, 0.1);
    mpk_put_f64(&writer, NAN);
    mpk_put_u64(&writer, 300);
    msgpack_pack_float(&writer.packer, 0.5f);
    for (size_t i = 0; i < 7; i++) {
        msgpack_pack_int64(&writer.packer, negative[i]);
    }
    struct cursor at = cursor();
    assert_true(cursor_number(&at) == 0.1);
    assert_true(isnan(cursor_number(&at)));
    assert_true(cursor_number(&at) == 300 && cursor_number(&at) == 0.5);
    for (size_t i = 0; i < 7; i++) {
        assert_true(cursor_number(&at) == (double)negative[i]);
    }
    assert_true(!at.failed && at.at == at.end);
}

static void test_text_and_containers_of_all_sizes(void **state)
{
    static const uint32_t sizes[] = {0, 15, 16, 31, 32, 255, 256, 65535, 65536};
    char *word = malloc(65537);
    (void)state;
    memset(word, 'x', 65537);
    for (size_t i = 0; i < 9; i++) {
        word[sizes[i]] = '\0';
        mpk_put_str(&writer, word);
        word[sizes[i]] = 'x';
        mpk_put_map(&writer, sizes[i]);
        mpk_put_array(&writer, sizes[i]);
    }
    struct cursor at = cursor();
    for (size_t i = 0; i < 9; i++) {
        uint32_t length;
        const char *text = cursor_text(&at, &length);
        assert_int_equal(length, sizes[i]);
        assert_memory_equal(text, word, length);
        assert_int_equal(cursor_map(&at), sizes[i]);
        assert_int_equal(cursor_list(&at), sizes[i]);
    }
    assert_true(!at.failed && at.at == at.end);
    free(word);
}

/* {"a": [1, nil, true, 0.5, {"b": <bin>}], "c": -5}: whatever it is, one skip passes it. */
static void cursor_put_mixed(void)
{
    mpk_put_map(&writer, 2);
    mpk_put_str(&writer, "a");
    mpk_put_array(&writer, 5);
    mpk_put_u64(&writer, 1);
    mpk_put_nil(&writer);
    mpk_put_bool(&writer, true);
    mpk_put_f64(&writer, 0.5);
    mpk_put_map(&writer, 1);
    mpk_put_str(&writer, "b");
    mpk_put_bin(&writer, "bytes", 5);
    mpk_put_str(&writer, "c");
    msgpack_pack_int64(&writer.packer, -5);
}

static void test_skip_passes_exactly_one_value(void **state)
{
    (void)state;
    cursor_put_mixed();
    mpk_put_u64(&writer, 42);
    struct cursor at = cursor();
    cursor_skip(&at);
    assert_int_equal(cursor_count(&at), 42);
    assert_true(!at.failed && at.at == at.end);
}

static void test_every_truncation_fails(void **state)
{
    (void)state;
    cursor_put_mixed();
    for (size_t size = 0; size < writer.buffer.size; size++) {
        struct cursor at = cursor_of(writer.buffer.data, size);
        cursor_skip(&at);
        assert_true(at.failed && at.at <= at.end);
    }
}

static void test_another_type_fails_and_stays_failed(void **state)
{
    uint32_t length;
    (void)state;
    mpk_put_str(&writer, "word");
    mpk_put_u64(&writer, 1);
    struct cursor at = cursor();
    assert_int_equal(cursor_map(&at), 0);
    assert_true(at.failed);
    assert_string_equal(cursor_text(&at, &length), "");
    assert_true(length == 0 && cursor_count(&at) == 0 && isnan(cursor_number(&at)));
}

/* A list that announces 4294967295 values of nothing. */
static void test_what_is_announced_is_not_believed(void **state)
{
    static const uint8_t lie[] = {0xdd, 0xff, 0xff, 0xff, 0xff, 0xdf, 0xff, 0xff, 0xff, 0xff};
    (void)state;
    struct cursor at = cursor_of(lie, sizeof lie);
    cursor_skip(&at);
    assert_true(at.failed);
}

static void test_any_bytes_end(void **state)
{
    uint8_t bytes[64];
    uint32_t seed = 12345;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            seed = seed * 1664525 + 1013904223;
            bytes[i] = (uint8_t)(seed >> 24);
        }
        struct cursor at = cursor_of(bytes, sizeof bytes);
        while (!at.failed && at.at < at.end) {
            cursor_skip(&at);
        }
        assert_true(at.at <= at.end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counts_of_all_widths, cursor_setup, cursor_teardown),
        cmocka_unit_test_setup_teardown(test_numbers_of_all_kinds, cursor_setup, cursor_teardown),
        cmocka_unit_test_setup_teardown(test_text_and_containers_of_all_sizes, cursor_setup,
                                        cursor_teardown),
        cmocka_unit_test_setup_teardown(test_skip_passes_exactly_one_value, cursor_setup,
                                        cursor_teardown),
        cmocka_unit_test_setup_teardown(test_every_truncation_fails, cursor_setup, cursor_teardown),
        cmocka_unit_test_setup_teardown(test_another_type_fails_and_stays_failed, cursor_setup,
                                        cursor_teardown),
        cmocka_unit_test(test_what_is_announced_is_not_believed),
        cmocka_unit_test(test_any_bytes_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
