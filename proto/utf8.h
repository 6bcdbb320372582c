/* SPDX-License-Identifier: MIT */
/* utf8: reads and writes text character by character. Pure; any thread. */
#ifndef PROTO_UTF8_H
#define PROTO_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT 0xfffdu
/* Bytes of a character at most. */
#define UTF8_MAX 4

/* Takes one character off the front of text[0..len), len > 0. Returns how many bytes it has; of
 * what is not UTF-8 (overlong forms, surrogates, beyond U+10FFFF) it is one byte and U+FFFD. */
size_t utf8_take(const char *text, size_t len, uint32_t *ret_code);

/* Writes a character, ret_text[UTF8_MAX], no NUL. Returns its bytes. */
size_t utf8_put(uint32_t code, char *ret_text);

/* Puts '?' in the place of each control character, of those that turn the order in which text is
 * shown, and of each byte that is not UTF-8: what comes from others and goes to a terminal or a
 * log. text[len] becomes a NUL, or one before it. */
void utf8_make_plain(char *text, size_t len);

/* Whether all of it is UTF-8 without control characters (U+0000 to U+001F, U+007F to U+009F). */
bool utf8_is_plain(const char *text, size_t len);

#endif
