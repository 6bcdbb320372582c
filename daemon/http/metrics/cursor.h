/* SPDX-License-Identifier: MIT */
/* cursor: reads the few values that are wanted of a published map, in place, without allocating: a
 * summary of 32 heads has 10,000 others. Never reads beyond the end; after anything unexpected it
 * has failed, and all that follows reads as nothing. Pure. */
#ifndef DAEMON_HTTP_METRICS_CURSOR_H
#define DAEMON_HTTP_METRICS_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
    const uint8_t *at, *end;
    bool failed;
};

struct cursor cursor_of(const void *map, size_t size);
/* Opens a map or list. Returns the number of pairs or values that follow; 0 after a failure. */
uint32_t cursor_map(struct cursor *cursor);
uint32_t cursor_list(struct cursor *cursor);
/* Text, not terminated: *ret_length bytes; "" after a failure. */
const char *cursor_text(struct cursor *cursor, uint32_t *ret_length);
/* A number; NaN for nil. Integers beyond 2^53 give the nearest double. */
double cursor_number(struct cursor *cursor);
/* A whole number. */
uint64_t cursor_count(struct cursor *cursor);
/* Passes over one value, whatever it is. */
void cursor_skip(struct cursor *cursor);

/* Whether the text is this word. */
bool cursor_is(const char *text, uint32_t length, const char *word);

#endif
