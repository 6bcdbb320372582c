/* SPDX-License-Identifier: MIT */
#include "proto/utf8.h"

#include <string.h>

/* By the first byte: how many bytes, and the bits of it that count; 0 = none begins like that. */
static size_t utf8_length_of(unsigned char first, uint32_t *ret_bits)
{
    static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    size_t length = first < 0x80                    ? 1
                    : first >= 0xc2 && first < 0xe0 ? 2
                    : first >= 0xe0 && first < 0xf0 ? 3
                    : first >= 0xf0 && first < 0xf5 ? 4
                                                    : 0;
    *ret_bits = first & mask[length];
    return length;
}

size_t utf8_take(const char *text, size_t len, uint32_t *ret_code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)text;
    uint32_t code;
    size_t length = utf8_length_of(bytes[0], &code);
    *ret_code = UTF8_REPLACEMENT;
    if (length == 0 || length > len) {
        return 1;
    }
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80) {
            return 1;
        }
        code = code << 6 | (bytes[i] & 0x3f);
    }
    if (code < least[length] || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff) {
        return 1;
    }
    *ret_code = code;
    return length;
}

size_t utf8_put(uint32_t code, char *ret_text)
{
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; code >>= 6) {
        ret_text[i] = (char)(0x80 | (code & 0x3f));
    }
    ret_text[0] = (char)(lead[length] | code);
    return length;
}

/* A byte that is not UTF-8 stands for U+FFFD, which itself takes three. */
static bool utf8_is_plain_at(const char *text, size_t len, uint32_t *ret_code, size_t *ret_taken)
{
    *ret_taken = utf8_take(text, len, ret_code);
    return *ret_code >= 0x20 && (*ret_code < 0x7f || *ret_code > 0x9f) &&
           (*ret_code != UTF8_REPLACEMENT || *ret_taken > 1);
}

/* Whether it turns the order in which what follows is shown (Unicode's Bidi_Control). */
static bool utf8_turns(uint32_t code)
{
    return code == 0x61c || code == 0x200e || code == 0x200f ||
           (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

bool utf8_is_plain(const char *text, size_t len)
{
    size_t taken;
    uint32_t code;
    while (len > 0 && utf8_is_plain_at(text, len, &code, &taken)) {
        text += taken;
        len -= taken;
    }
    return len == 0;
}

void utf8_make_plain(char *text, size_t len)
{
    char *put = text;
    size_t taken;
    uint32_t code;
    for (; len > 0; len -= taken, text += taken) {
        if (utf8_is_plain_at(text, len, &code, &taken) && !utf8_turns(code)) {
            memmove(put, text, taken);
            put += taken;
        } else {
            *put++ = '?';
        }
    }
    *put = '\0';
}
