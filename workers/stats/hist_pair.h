/* SPDX-License-Identifier: MIT */
/* hist_pair: the sum of two histograms as bytes, block beside block: for adding one to another,
 * where hist_sum, which is for many, would unpack and pack all of its counters. The result is the
 * same, bit for bit. One owner at a time. */
#ifndef WORKERS_STATS_HIST_PAIR_H
#define WORKERS_STATS_HIST_PAIR_H

#include "workers/stats/hist_bytes.h"

/* The bytes of a histogram that uses every key, and what is written past the end. */
#define HIST_PAIR_ROOM (1 + 3 * (HIST_KEYS / HIST_BLOCK + 1) + 4 * HIST_KEYS + 4)

/* The bytes of a histogram, by hist_sum_write, or accepted by hist_bytes_check; size 0: empty. */
struct hist_span {
    const uint8_t *bytes;
    uint32_t size;
};

struct hist_pair {
    uint8_t single[2][16];           /* of hist_pair_single */
    uint8_t room[3][HIST_PAIR_ROOM]; /* of hist_pair_sum */
};

/* The histogram of one value that occurs `count` times, after `halvings` halvings, as side 0 or 1;
 * valid until the next of that side. */
struct hist_span hist_pair_single(struct hist_pair *pair, int side, double x, uint32_t count,
                                  uint32_t halvings);
/* At the lower of their resolutions, halved until at most `limit` buckets are used; valid until the
 * next sum. */
struct hist_span hist_pair_sum(struct hist_pair *pair, struct hist_span a, struct hist_span b,
                               uint32_t limit);

#endif
