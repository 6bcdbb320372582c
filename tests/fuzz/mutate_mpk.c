/* SPDX-License-Identifier: MIT */
/* How libFuzzer changes an input that is a MessagePack document: half of the time the bytes of a
 * binary, whose length is then written anew, a quarter of the time another value, so that it
 * remains a document, and else anything. */
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

#define BINARY_HEAD 3 /* bytes of one of at most 64 KiB */
#define BINARY_MAX  UINT16_MAX

struct value {
    size_t at, head, body; /* its place, and the sizes of its first bytes and of the rest */
    bool is_binary;
};

static size_t big_endian(const uint8_t *at, size_t bytes)
{
    size_t number = 0;
    for (size_t i = 0; i < bytes; i++) {
        number = number << 8 | at[i];
    }
    return number;
}

/* The value at an offset, of a list or a map only the head. False where there is none. */
static bool value_at(const uint8_t *data, size_t size, size_t at, struct value *ret_value)
{
    /* Bytes of a length, or of a number, for 0xc0 to 0xdf. */
    static const uint8_t length_bytes[32] = {[4] = 1,  [5] = 2,  [6] = 4,  [25] = 1, [26] = 2,
                                             [27] = 4, [28] = 2, [29] = 4, [30] = 2, [31] = 4};
    static const uint8_t number_bytes[32] = {[10] = 4, [11] = 8, [12] = 1, [13] = 2, [14] = 4,
                                             [15] = 8, [16] = 1, [17] = 2, [18] = 4, [19] = 8};
    if (at >= size) {
        return false;
    }
    uint32_t type = data[at];
    struct value value = {.at = at, .head = 1};
    if (type >= 0xc0 && type <= 0xdf) {
        uint32_t kind = type - 0xc0;
        value.head += length_bytes[kind];
        value.body = number_bytes[kind];
        value.is_binary = kind >= 4 && kind <= 6;
        if (value.head > size - at) {
            return false;
        }
        if (value.is_binary || (kind >= 25 && kind <= 27)) {
            value.body = big_endian(data + at + 1, length_bytes[kind]);
        }
    } else if (type >= 0xa0 && type < 0xc0) {
        value.body = type - 0xa0;
    }
    *ret_value = value;
    return value.body <= size - at - value.head;
}

/* The nth binary, or the nth of the other values; returns how many there are before the end, or
 * before bytes that are no value. */
static size_t find_value(const uint8_t *data, size_t size, bool binary, size_t nth,
                         struct value *ret_value)
{
    struct value value;
    size_t count = 0;
    for (size_t at = 0; value_at(data, size, at, &value); at += value.head + value.body) {
        if (value.is_binary == binary && count++ == nth) {
            *ret_value = value;
        }
    }
    return count;
}

static size_t change_binary(uint8_t *data, size_t size, size_t max, const struct value *value)
{
    static uint8_t body[BINARY_MAX], rest[1 << 20];
    size_t after = value->at + value->head + value->body, left = size - after;
    size_t taken = value->at + BINARY_HEAD + left;
    if (value->body > BINARY_MAX || left > sizeof rest || taken >= max) {
        return 0;
    }
    size_t room = max - taken < BINARY_MAX ? max - taken : BINARY_MAX;
    memcpy(body, data + value->at + value->head, value->body);
    memcpy(rest, data + after, left);
    size_t length = value->body <= room ? LLVMFuzzerMutate(body, value->body, room) : room;
    uint8_t *to = data + value->at;
    *to++ = 0xc5;
    *to++ = (uint8_t)(length >> 8);
    *to++ = (uint8_t)length;
    memcpy(to, body, length);
    memcpy(to + length, rest, left);
    return taken + length;
}

/* In its place. */
static void change_other(uint8_t *data, const struct value *value, unsigned seed)
{
    static const uint8_t single[] = {0x00, 0x01, 0x7f, 0xc0, 0xc2, 0xc3, 0xff};
    uint8_t *at = data + value->at;
    if (value->body > 0) {
        LLVMFuzzerMutate(at + value->head, value->body, value->body);
    } else if (*at < 0x80 || *at >= 0xe0 || (*at >= 0xc0 && *at <= 0xc3)) {
        *at = seed % 2 ? single[seed / 2 % sizeof single] : (uint8_t)(seed / 2 % 0x80);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct value value;
    unsigned kind = seed % 4;
    bool binary = kind < 2;
    size_t count = kind < 3 ? find_value(data, size, binary, SIZE_MAX, &value) : 0, changed = 0;
    if (count > 0) {
        find_value(data, size, binary, seed / 4 % count, &value);
        if (binary) {
            changed = change_binary(data, size, max, &value);
        } else {
            change_other(data, &value, seed / 4 / (unsigned)count);
            changed = size;
        }
    }
    return changed > 0 ? changed : LLVMFuzzerMutate(data, size, max);
}
