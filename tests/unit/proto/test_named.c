/* SPDX-License-Identifier: MIT */
/* The values of a log and the settings of a hello. */
#include "tests/unit/proto/headers.h"

#include "proto/err.h"
#include "proto/header.h"

TEST(the_values_of_a_log_are_read)
{
    OWNED(bytes_free) struct bytes bytes = headers_golden("log");
    struct header header;
    const char *key;

    assert_int_equal(headers_decode(&bytes, &header, &key), 0);
    assert_int_equal(header.event, EVENT_LOG);
    assert_int_equal(header.values.count, 4);
    assert_string_equal(header.values.list[0].name, "loss");
    assert_true(header.values.list[0].number == 2.5);
    assert_true(header.values.list[2].number == 4096);
    assert_string_equal(header.values.list[3].name, "grad_norm");
    assert_int_equal(header.values.list[3].kind, NAMED_NONE);
    header_clear(&header);
    assert_int_equal(header.values.count, 0);
}

GOLDEN_TEST(the_settings_of_a_hello_are_read, "hello_settings")
{
    assert_int_equal(header->layer_count, 2);
    assert_int_equal(header->settings.count, 4);
    assert_true(header->settings.list[0].number == 0.0003);
    assert_int_equal(header->settings.list[2].kind, NAMED_FLAG);
    assert_true(header->settings.list[2].flag);
    assert_string_equal(header->settings.list[3].name, "model_type");
    assert_string_equal(header->settings.list[3].text, "gpt2");
}

/* A map of `count` entries, "a00" to 0, "a01" to 0, ... */
static struct bytes named_map(uint32_t count)
{
    struct mpk_writer writer;

    mpk_writer_init(&writer);
    mpk_put_map(&writer, count);
    for (uint32_t i = 0; i < count; i++) {
        char name[] = {'a', (char)('0' + i / 10), (char)('0' + i % 10), '\0'};

        mpk_pair_u64(&writer, name, 0);
    }
    return bytes_written(&writer);
}

TEST(a_log_has_1_to_32_values_and_a_hello_up_to_64_settings)
{
    static const struct {
        const char *golden, *key;
        uint32_t count;
        int rc;
    } cases[] = {
        {"log", "values", 0, ERR_KEY_RANGE},
        {"log", "values", 1, 0},
        {"log", "values", 32, 0},
        {"log", "values", 33, ERR_KEY_RANGE},
        {"hello", "settings", 0, 0},
        {"hello", "settings", 64, 0},
        {"hello", "settings", 65, ERR_KEY_RANGE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        OWNED(bytes_free) struct bytes map = named_map(cases[i].count);
        const char *key = NULL;

        assert_int_equal(headers_change(cases[i].golden, cases[i].key, map.data, map.len, &key),
                         cases[i].rc);
        assert_true(!cases[i].rc || strcmp(key, cases[i].key) == 0);
    }
}

TEST(what_is_no_name_or_no_finite_number_is_refused)
{
    static const struct {
        const char *text;
        size_t len;
        int log, settings;
    } cases[] = {
        {LITERAL("\x81\xa1l\x01"), 0, 0},
        {LITERAL("\x81\xa1l\xff"), 0, 0},
        {LITERAL("\x81\xa1l\xc0"), 0, ERR_KEY_TYPE},
        {LITERAL("\x81\xa1l\xc3"), ERR_KEY_TYPE, 0},
        {LITERAL("\x81\xa1l\xa1x"), ERR_KEY_TYPE, 0},
        {LITERAL("\x81\xa1l\xa0"), ERR_KEY_TYPE, 0},
        {LITERAL("\x81\xa1l\xa1\x1b"), ERR_KEY_TYPE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa1l\x90"), ERR_KEY_TYPE, ERR_KEY_TYPE},
        {LITERAL("\x81\xa1l\xc4\x00"), ERR_KEY_TYPE, ERR_KEY_TYPE},
        {LITERAL("\x81\xa1l\xcb\x7f\xf8\0\0\0\0\0\0"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa1l\xcb\x7f\xf0\0\0\0\0\0\0"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa1l\xcb\xff\xf0\0\0\0\0\0\0"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa0\x01"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa2l\n\x01"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa2l\0\x01"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\xa2l\xff\x01"), ERR_KEY_RANGE, ERR_KEY_RANGE},
        {LITERAL("\x81\x01\x01"), ERR_KEY_TYPE, ERR_KEY_TYPE},
        {LITERAL("\x82\xa1l\x01\xa1l\x02"), ERR_KEY_DUPLICATE, ERR_KEY_DUPLICATE},
        {LITERAL("\x91\x01"), ERR_KEY_TYPE, ERR_KEY_TYPE},
        {LITERAL("\xc0"), ERR_KEY_TYPE, ERR_KEY_TYPE},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(headers_change("log", "values", cases[i].text, cases[i].len, NULL),
                         cases[i].log);
        assert_int_equal(headers_change("hello", "settings", cases[i].text, cases[i].len, NULL),
                         cases[i].settings);
    }
}

TEST(a_name_has_at_most_64_bytes_and_a_text_256)
{
    unsigned char name[3 + NAMED_NAME_MAX + 1 + 1] = {0x81, 0xd9};
    unsigned char text[3 + 3 + NAMED_TEXT_MAX + 1] = {0x81, 0xa1, 's', 0xda, 1};

    memset(name + 3, 'n', NAMED_NAME_MAX + 1);
    name[2] = NAMED_NAME_MAX;
    name[3 + NAMED_NAME_MAX] = 0x01;
    assert_int_equal(headers_change("log", "values", name, 4 + NAMED_NAME_MAX, NULL), 0);
    name[2] = NAMED_NAME_MAX + 1;
    name[3 + NAMED_NAME_MAX] = 'n';
    name[4 + NAMED_NAME_MAX] = 0x01;
    assert_int_equal(headers_change("log", "values", name, 5 + NAMED_NAME_MAX, NULL),
                     ERR_KEY_RANGE);
    memset(text + 6, 't', NAMED_TEXT_MAX + 1);
    assert_int_equal(headers_change("hello", "settings", text, 6 + NAMED_TEXT_MAX, NULL), 0);
    text[5] = 1;
    assert_int_equal(headers_change("hello", "settings", text, 7 + NAMED_TEXT_MAX, NULL),
                     ERR_KEY_RANGE);
}

HEADERS(other_events_do_not_have_them, {"bye", "values", LITERAL("\x90"), 0, NULL},
        {"hello", "values", LITERAL("\x90"), 0, NULL},
        {"log", "settings", LITERAL("\x90"), 0, NULL});
