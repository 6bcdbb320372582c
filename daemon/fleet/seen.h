/* SPDX-License-Identifier: MIT */
/* seen: a set of numbers that is nearly a range: which rows of a node's outbox a hub has. One
 * thread. A zeroed struct is empty. */
#ifndef DAEMON_FLEET_SEEN_H
#define DAEMON_FLEET_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* With one range more the smallest one is forgotten, of several the highest: its rows count as
 * lacking, and are asked for again. None is ever taken for here that is not. */
#define SEEN_RANGES_MAX 4096

struct seen_range {
    uint64_t first, last;
};

struct seen {
    struct seen_range *ranges; /* ascending, with a hole between each two; owned */
    uint32_t count, capacity;
};

bool seen_has(const struct seen *seen, uint64_t number);
/* Adds [first, last]; first >= 1. Returns 0 or ERR_MEMORY, then without effect. */
int seen_add(struct seen *seen, uint64_t first, uint64_t last);
/* All from 1 up to here are in it; 0: not even 1. */
uint64_t seen_low(const struct seen *seen);
/* The first hole above `after`, at or below `top`. Returns false when there is none. */
bool seen_hole(const struct seen *seen, uint64_t after, uint64_t top, struct seen_range *ret_hole);
/* How many numbers from 1 to `top` are not in it. */
uint64_t seen_lacking(const struct seen *seen, uint64_t top);
/* Reads what `ranges` was: sorted, with holes. Returns 0, ERR_STORE_FORMAT or ERR_MEMORY. */
int seen_load(struct seen *seen, const void *ranges, size_t size);
void seen_clear(struct seen *seen);

#endif
