/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/label.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static const char empty_sign[] = "\xe2\x88\x85";  /* U+2205 */
static const char blank_sign[] = "\xe2\x90\xa3";  /* U+2423 */
static const char line_sign[] = "\xe2\x86\xb5";   /* U+21B5 */
static const char tab_sign[] = "\xe2\x87\xa5";    /* U+21E5 */
static const char other_sign[] = "\xc2\xb7";      /* U+00B7 */
static const char broken_sign[] = "\xef\xbf\xbd"; /* U+FFFD */

/* Bytes of a character by its first one; 0 when none begins so. */
static size_t length_of(uint8_t first)
{
    return first < 0x80   ? 1
           : first < 0xc2 ? 0
           : first < 0xe0 ? 2
           : first < 0xf0 ? 3
           : first < 0xf5 ? 4
                          : 0;
}

/* Whether a character of this length may have this number: neither too long a form of a smaller
 * one, nor half of a pair of UTF-16, nor beyond the last. */
static bool is_character(uint32_t code, size_t length)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return code >= least[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
}

/* The character at the start of a text: its bytes, and its number; one byte and 0xfffd when it is
 * none. */
static size_t read_character(const uint8_t *text, uint32_t *ret_code)
{
    size_t length = length_of(text[0]);
    uint32_t code = length > 1 ? text[0] & (0x7fu >> length) : text[0];
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            length = 0;
        else
            code = code << 6 | (text[i] & 0x3f);
    }
    bool good = length > 0 && is_character(code, length);
    *ret_code = good ? code : 0xfffd;
    return good ? length : 1;
}

static bool is_invisible(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0xad ||
           (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || code == 0xfffe || code == 0xffff;
}

/* The sign of what does not show; NULL when it does. */
static const char *sign_of(uint32_t code)
{
    if (code == 0xfffd)
        return broken_sign;
    if (!is_invisible(code))
        return NULL;
    return code == '\n' ? line_sign : code == '\t' ? tab_sign : other_sign;
}

void label_clean(const char *text, char *ret_label, size_t size)
{
    const uint8_t *at = (const uint8_t *)(*text ? text : empty_sign);
    bool blank = text[strspn(text, " ")] == '\0';
    size_t used = 0;
    while (*at) {
        uint32_t code;
        size_t taken = read_character(at, &code);
        const char *sign = blank && code == ' ' ? blank_sign : sign_of(code),
                   *from = sign ? sign : (const char *)at;
        size_t length = sign ? strlen(sign) : taken;
        if (used + length + 1 > size)
            break;
        memcpy(ret_label + used, from, length);
        used += length;
        at += taken;
    }
    ret_label[used] = '\0';
}
