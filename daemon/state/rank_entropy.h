/* SPDX-License-Identifier: MIT */
/* rank_entropy: the mean entropy of the rows of each head by rank, so that one sees which rank is
 * the odd one out. It has the RANK_ENTROPY_MAX lowest ranks, whatever was added first: a rank that
 * is there has all its rows, because no sum of parts has it further down than the whole. One owner
 * at a time. */
#ifndef DAEMON_STATE_RANK_ENTROPY_H
#define DAEMON_STATE_RANK_ENTROPY_H

#include "proto/mpk.h"

#define RANK_ENTROPY_MAX 64

/* The heads from the first to the last with rows; a rank without rows is not there. */
struct rank_means {
    uint32_t rank, first, heads;
    uint64_t *rows; /* [heads]; owned, with the means behind them */
    double *mean;   /* [heads]; 0 without rows */
};

/* A zeroed struct is empty. */
struct rank_entropy {
    struct rank_means *means; /* [count], ascending; owned */
    uint32_t count;
};

void rank_entropy_clear(struct rank_entropy *entropy);
/* Memory that it takes, the allocator's included. */
uint64_t rank_entropy_bytes(const struct rank_entropy *entropy);

/* Adds rows[heads] of a rank with these means, from head `first` on. Returns 0 or ERR_MEMORY. */
int rank_entropy_add(struct rank_entropy *entropy, uint32_t rank, uint32_t first, uint32_t heads,
                     const uint64_t *rows, const double *mean);
/* Adds those of the first `heads` heads. Returns 0 or ERR_MEMORY (then some may be in). */
int rank_entropy_merge(struct rank_entropy *into, const struct rank_entropy *from, uint32_t heads);

/* Writes a list, which is not empty. */
void rank_entropy_pack(const struct rank_entropy *entropy, struct mpk_writer *writer);
/* For a layer with `heads` heads, into an empty one, which is to be cleared in any case. Believes
 * nothing, and takes memory in proportion to the list. Returns 0, ERR_STORE_FORMAT or ERR_MEMORY.
 */
int rank_entropy_unpack(const msgpack_object *list, uint32_t heads, struct rank_entropy *entropy);

#endif
