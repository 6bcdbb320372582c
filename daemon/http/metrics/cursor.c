/* SPDX-License-Identifier: MIT */
#include "daemon/http/metrics/cursor.h"

#include <endian.h>
#include <math.h>
#include <string.h>

struct cursor cursor_of(const void *map, size_t size)
{
    const uint8_t *at = map;
    return (struct cursor){.at = at, .end = at + size};
}

/* So many bytes, or NULL. */
static const uint8_t *cursor_take(struct cursor *cursor, uint64_t bytes)
{
    const uint8_t *at = cursor->at;
    if (cursor->failed || bytes > (uint64_t)(cursor->end - at)) {
        cursor->failed = true;
        return NULL;
    }
    cursor->at += bytes;
    return at;
}

static uint64_t take_integer(struct cursor *cursor, unsigned bytes)
{
    const uint8_t *at = cursor_take(cursor, bytes);
    uint64_t number = 0;
    for (unsigned i = 0; at && i < bytes; i++) {
        number = number << 8 | at[i];
    }
    return number;
}

/* The first byte of a value; 0xc1, which nothing begins with, after a failure. */
static uint8_t take_lead(struct cursor *cursor)
{
    const uint8_t *at = cursor_take(cursor, 1);
    return at ? *at : 0xc1;
}

static uint64_t cursor_fail(struct cursor *cursor)
{
    cursor->failed = true;
    return 0;
}

/* A map and a list are alike: short ones have the count in the first byte. */
static uint32_t cursor_open_container(struct cursor *cursor, uint8_t shortest, uint8_t two)
{
    uint8_t lead = take_lead(cursor);
    if ((lead & 0xf0) == shortest) {
        return lead & 0x0f;
    }
    if (lead == two) {
        return (uint32_t)take_integer(cursor, 2);
    }
    if (lead == two + 1) {
        return (uint32_t)take_integer(cursor, 4);
    }
    return (uint32_t)cursor_fail(cursor);
}

uint32_t cursor_map(struct cursor *cursor)
{
    return cursor_open_container(cursor, 0x80, 0xde);
}

uint32_t cursor_list(struct cursor *cursor)
{
    return cursor_open_container(cursor, 0x90, 0xdc);
}

const char *cursor_text(struct cursor *cursor, uint32_t *ret_length)
{
    uint8_t lead = take_lead(cursor);
    uint64_t length = (lead & 0xe0) == 0xa0         ? lead & 0x1f
                      : lead >= 0xd9 && lead < 0xdc ? take_integer(cursor, 1u << (lead - 0xd9))
                                                    : cursor_fail(cursor);
    const uint8_t *at = cursor_take(cursor, length);
    *ret_length = at ? (uint32_t)length : 0;
    return at ? (const char *)at : "";
}

bool cursor_is(const char *text, uint32_t length, const char *word)
{
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static double as_f64(uint64_t bits)
{
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static double as_f32(uint64_t bits)
{
    uint32_t half = (uint32_t)bits;
    float number;
    memcpy(&number, &half, sizeof number);
    return (double)number;
}

/* Two's complement of 1, 2, 4 or 8 bytes. */
static double take_signed(struct cursor *cursor, unsigned bytes)
{
    unsigned shift = 64 - 8 * bytes;
    return (double)((int64_t)(take_integer(cursor, bytes) << shift) >> shift);
}

/* Nearly all values are doubles: whether one stands here. */
static bool at_double(const struct cursor *cursor)
{
    return cursor->end - cursor->at >= 9 && *cursor->at == 0xcb && !cursor->failed;
}

static double take_double(struct cursor *cursor)
{
    uint64_t bits;
    memcpy(&bits, cursor->at + 1, sizeof bits);
    cursor->at += 9;
    return as_f64(be64toh(bits));
}

double cursor_number(struct cursor *cursor)
{
    if (at_double(cursor)) {
        return take_double(cursor);
    }
    uint8_t lead = take_lead(cursor);
    if (lead < 0x80) {
        return lead;
    }
    if (lead >= 0xe0) {
        return (double)(int8_t)lead;
    }
    if (lead == 0xca) {
        return as_f32(take_integer(cursor, 4));
    }
    if (lead >= 0xcc && lead <= 0xcf) {
        return (double)take_integer(cursor, 1u << (lead - 0xcc));
    }
    if (lead >= 0xd0 && lead <= 0xd3) {
        return take_signed(cursor, 1u << (lead - 0xd0));
    }
    if (lead != 0xc0) {
        cursor_fail(cursor);
    }
    return NAN;
}

uint64_t cursor_count(struct cursor *cursor)
{
    uint8_t lead = take_lead(cursor);
    if (lead < 0x80) {
        return lead;
    }
    if (lead >= 0xcc && lead <= 0xcf) {
        return take_integer(cursor, 1u << (lead - 0xcc));
    }
    return cursor_fail(cursor);
}

/* Payload bytes of the values that begin with 0xc0 to 0xdf, less their lengths. */
static uint64_t payload(struct cursor *cursor, uint8_t lead, uint64_t *owed)
{
    static const uint8_t scalar[] = {
        [0x00] = 1, [0x02] = 1, [0x03] = 1, [0x0a] = 5, [0x0b] = 9, [0x0c] = 2, [0x0d] = 3,
        [0x0e] = 5, [0x0f] = 9, [0x10] = 2, [0x11] = 3, [0x12] = 5, [0x13] = 9};
    unsigned form = lead - 0xc0u;
    if (form < sizeof scalar && scalar[form]) {
        return scalar[form] - 1u;
    }
    if (form >= 0x04 && form <= 0x06) {
        return take_integer(cursor, 1u << (form - 0x04));
    }
    if (form >= 0x19 && form <= 0x1b) {
        return take_integer(cursor, 1u << (form - 0x19));
    }
    if (form >= 0x1c) {
        *owed += take_integer(cursor, form & 1 ? 4 : 2) * (form >= 0x1e ? 2 : 1);
    } else {
        cursor_fail(cursor);
    }
    return 0;
}

/* The input may claim any number of values: each one that is taken has a byte at least. */
void cursor_skip(struct cursor *cursor)
{
    for (uint64_t owed = 1; owed > 0 && !cursor->failed; owed--) {
        if (at_double(cursor)) {
            cursor->at += 9;
            continue;
        }
        uint8_t lead = take_lead(cursor);
        if (lead >= 0xc0 && lead < 0xe0) {
            cursor_take(cursor, payload(cursor, lead, &owed));
        } else if (lead >= 0xa0 && lead < 0xc0) {
            cursor_take(cursor, lead & 0x1fu);
        } else if (lead >= 0x90 && lead < 0xa0) {
            owed += lead & 0x0fu;
        } else if (lead >= 0x80 && lead < 0x90) {
            owed += 2 * (lead & 0x0fu);
        }
    }
}
