/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include <jansson.h>

static char *json_convert(const void *data, size_t len, unsigned indent)
{
    struct bytes copy = bytes_copy(data, len);
    struct mpk_doc doc;
    char *text;

    assert_int_equal(mpk_parse(copy.data, copy.len, &mpk_header_limits, &doc), 0);
    text = mpk_to_json(doc.root, indent);
    mpk_doc_clear(&doc);
    bytes_free(&copy);
    assert_non_null(text);
    return text;
}

static void json_expect(const void *data, size_t len, const char *expected)
{
    char *text = json_convert(data, len, 0);

    assert_string_equal(text, expected);
    free(text);
}

/* Jansson escapes those of ASCII itself; a terminal takes U+009B for ESC [. */
TEST(control_characters_are_escaped)
{
    json_expect("\xa5\x1b\xc2\x9b\xc3\xa9", 6, "\"\\u001B\\u009B\\u00E9\"");
    json_expect("\xa4\xc2\xa0\xc3\xa9", 5, "\"\xc2\xa0\xc3\xa9\"");
}

TEST(golden_files_convert_to_their_twins)
{
    static const char *const names[] = {"attention",
                                        "attention_full",
                                        "attention_unknown_keys",
                                        "epoch_end",
                                        "bye",
                                        "bye_dropped",
                                        "hello",
                                        "live",
                                        "live_bare",
                                        "summary",
                                        "job"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512], *text;
        OWNED(bytes_free) struct bytes golden;
        json_t *expected, *got;

        snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, names[i]);
        golden = bytes_file(path);
        text = json_convert(golden.data, golden.len, 2);
        snprintf(path, sizeof path, "%s/%s.json", GOLDEN_DIR, names[i]);
        expected = json_load_file(path, 0, NULL);
        got = json_loads(text, 0, NULL);
        if (!json_equal(expected, got)) {
            fail_msg("%s: %s", names[i], text);
        }
        json_decref(expected);
        json_decref(got);
        free(text);
    }
}

TEST(numbers_json_cannot_say_become_null)
{
    json_expect(
        LITERAL("\x93\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xcb\xff\xf0\x00\x00\x00\x00\x00\x00"
                "\xca\x7f\x80"
                "\x00\x00"),
        "[null,null,null]");
}

TEST(integers_keep_their_value_up_to_int64)
{
    json_expect(
        LITERAL("\x93\xcf\x7f\xff\xff\xff\xff\xff\xff\xff\xd3\x80\x00\x00\x00\x00\x00\x00\x00"
                "\xcf\xff\xff"
                "\xff\xff\xff\xff\xff\xff"),
        "[9223372036854775807,-9223372036854775808,1.8446744073709552e19]");
}

TEST(bytes_that_are_not_utf8_are_replaced)
{
    json_expect(LITERAL("\x92\xa3"
                        "a\xff"
                        "b\xa2ok"),
                "[\"a\xef\xbf\xbd"
                "b\",\"ok\"]");
    /* cut, overlong, surrogate, beyond U+10FFFF */
    json_expect(LITERAL("\xa2\xe2\x82"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    json_expect(LITERAL("\xa2\xc0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    json_expect(LITERAL("\xa3\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    json_expect(LITERAL("\xa4\xf4\x90\x80\x80"),
                "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    json_expect(LITERAL("\xa3"
                        "a\0z"),
                "\"a\xef\xbf\xbd"
                "z\"");
    /* what is valid stays: two, three and four bytes, beside one that is not */
    json_expect(LITERAL("\xaa\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\x80"),
                "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\xef\xbf\xbd\"");
}

TEST(keys_of_any_kind_do_not_fail_the_document)
{
    json_expect(LITERAL("\x84\x07\x01\xff\x02\xc0\x03\xa1\xff\x04"),
                "{\"7\":1,\"-1\":2,\"?\":3,\"\xef\xbf\xbd\":4}");
    json_expect(LITERAL("\x82\xa0\x01\xa2"
                        "a\x00\x02"),
                "{\"\":1,\"a\xef\xbf\xbd\":2}");
}

TEST(binaries_are_hex_and_empty_values_are_empty)
{
    json_expect(LITERAL("\x95\xc4\x02\x0a\xff\xc4\x00\xa0\x90\x80"), "[\"0aff\",\"\",\"\",[],{}]");
}
