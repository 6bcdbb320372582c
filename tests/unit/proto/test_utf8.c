/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/utf8.h"

static void expect_taken(const char *text, size_t len, size_t taken, uint32_t code)
{
    uint32_t found;
    assert_int_equal(utf8_take(text, len, &found), taken);
    assert_int_equal(found, code);
}

TEST(characters_are_taken_and_what_is_none_is_replaced)
{
    expect_taken("a", 1, 1, 'a');
    expect_taken("\xc3\xa9", 2, 2, 0xe9);
    expect_taken("\xe6\x97\xa5", 3, 3, 0x65e5);
    expect_taken("\xf0\x9f\x98\x80", 4, 4, 0x1f600);
    expect_taken("\xc3\xa9", 1, 1, UTF8_REPLACEMENT);         /* cut */
    expect_taken("\xc0\xaf", 2, 1, UTF8_REPLACEMENT);         /* overlong */
    expect_taken("\xe0\x80\xaf", 3, 1, UTF8_REPLACEMENT);     /* overlong */
    expect_taken("\xed\xa0\x80", 3, 1, UTF8_REPLACEMENT);     /* surrogate */
    expect_taken("\xf4\x90\x80\x80", 4, 1, UTF8_REPLACEMENT); /* beyond U+10FFFF */
    expect_taken("\xff", 1, 1, UTF8_REPLACEMENT);
    expect_taken("\x80", 1, 1, UTF8_REPLACEMENT);
}

TEST(every_character_comes_back)
{
    for (uint32_t code = 1; code <= 0x10ffff; code += code < 0x3000 ? 1 : 97) {
        char text[UTF8_MAX];
        uint32_t found;
        if (code >= 0xd800 && code < 0xe000) {
            continue;
        }
        size_t size = utf8_put(code, text);
        assert_int_equal(utf8_take(text, size, &found), size);
        assert_int_equal(found, code);
    }
}

TEST(what_is_made_plain_is_plain)
{
    char text[] = "a\x1b[2J\xc2\x9b\x7f\t\xc3\xa9\xff\xe6\x97";
    char turned[] = "blocks.\xe2\x80\xae"
                    "0.\xe2\x81\xa6x\xe2\x80\x8f"; /* U+202E, U+2066, U+200F */

    utf8_make_plain(text, strlen(text));
    assert_string_equal(text, "a?[2J???\xc3\xa9???");
    assert_true(utf8_is_plain(text, strlen(text)));
    utf8_make_plain(turned, strlen(turned));
    assert_string_equal(turned, "blocks.?0.?x?");
}
