/* SPDX-License-Identifier: MIT */
/* packed_hists: one histogram per head in as few bytes as they need, about 3 per used bucket
 * instead of 8, to be kept for long and read in order.
 *
 *     head 0             head 1
 *     used  halvings  first key  count  (gap - 1  count) ...   used ...   all as LEB128
 *
 * `used` 0 is an empty histogram and ends there. The first key is zigzag-coded. Counts are exact.
 * Pure; one owner at a time. */
#ifndef DAEMON_STATE_PACKED_HISTS_H
#define DAEMON_STATE_PACKED_HISTS_H

#include "workers/stats/dist.h"

#include <stdbool.h>

/* A zeroed struct is empty. */
struct packed_hists {
    uint8_t *bytes; /* owned */
    size_t size, capacity;
};

void packed_hists_clear(struct packed_hists *packed);
/* Appends one head's. Returns 0 or ERR_MEMORY, then without effect. */
int packed_hists_add(struct packed_hists *packed, const struct hist *hist);
/* Appends `size` bytes of another. */
int packed_hists_copy(struct packed_hists *packed, const uint8_t *bytes, size_t size);
/* Gives back what was reserved too much. */
void packed_hists_trim(struct packed_hists *packed);

/* Where to read on; begins as {bytes, bytes + size}. */
struct packed_cursor {
    const uint8_t *at, *end;
};

/* The next head's as a distribution without moments but their n; *ret_dist is overwritten, and the
 * caller's to clear. Returns 0, ERR_MEMORY, or ERR_STORE_FORMAT for what packed_hists_add does not
 * write. Without ret_dist it is only checked and passed over. */
int packed_hists_next(struct packed_cursor *cursor, struct dist *ret_dist);

#endif
