/* SPDX-License-Identifier: MIT */
/* hist_sum: the sum of many histograms as bytes, with a counter for every key.
 *
 * Bytes are what is kept: a histogram of 48 buckets takes about 65 of them while its counts are
 * below 256, and some 90 when they are in the thousands. One owner at a time. */
#ifndef WORKERS_STATS_HIST_SUM_H
#define WORKERS_STATS_HIST_SUM_H

#include "workers/stats/hist_bytes.h"

#define HIST_SUM_BLOCKS 1204 /* of all resolutions */
#define HIST_SUM_WORDS  22   /* of 64 blocks; a resolution begins with a new one */

/* A zeroed struct is empty. */
struct hist_sum {
    uint32_t resolutions;                         /* bit per number of halvings in use */
    uint64_t touched[HIST_SUM_WORDS];             /* bit per block that has counts */
    uint32_t count[HIST_SUM_BLOCKS * HIST_BLOCK]; /* by resolution and key */
};

/* Add to the sum; counts saturate. */
void hist_sum_add_value(struct hist_sum *sum, double x, uint32_t count);
void hist_sum_add(struct hist_sum *sum, const struct hist *h);
/* Reads the output of hist_sum_write, or bytes that hist_bytes_check accepted. */
void hist_sum_add_bytes(struct hist_sum *sum, const uint8_t *bytes, size_t size);

/* Writes the sum, at the lowest of its resolutions, halved until at most `limit` buckets are used,
 * to bytes[hist_bytes_max(limit)], and leaves it empty. Returns how many bytes; 0 when it was
 * empty. */
size_t hist_sum_write(struct hist_sum *sum, uint32_t limit, uint8_t *bytes);

void hist_sum_clear(struct hist_sum *sum);

#endif
