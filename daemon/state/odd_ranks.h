/* SPDX-License-Identifier: MIT */
/* odd_ranks: which ranks have other mean entropies than most (proto/PROTOCOL.md, section 4). Pure.
 */
#ifndef DAEMON_STATE_ODD_RANKS_H
#define DAEMON_STATE_ODD_RANKS_H

#include "daemon/state/rank_entropy.h"

struct odd_rank {
    const struct rank_means *means; /* borrowed */
    uint32_t node;                  /* whose it is; for the caller */
    double distance;                /* NaN: less than three ranks have its heads */
    uint32_t head;                  /* the furthest of its heads */
    double median;                  /* of the ranks, there */
    bool odd;
};

/* Finds the rank that is farthest from the others in a layer with `heads` heads. A distance of NaN
 * says that there are less than three ranks. Returns 0 or ERR_MEMORY. */
int odd_ranks_farthest(const struct rank_entropy *entropy, uint32_t heads, double *ret_distance,
                       uint32_t *ret_rank);

/* Fills in the rest of each, of a layer with `heads` heads. Returns 0 or ERR_MEMORY. */
int odd_ranks_judge(struct odd_rank *ranks, uint32_t count, uint32_t heads);

#endif
