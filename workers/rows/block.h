/* SPDX-License-Identifier: MIT */
/* block: measures a range of query rows of one message, over all samples and heads.
 *
 * A message is cut into blocks of rows, one job each; blocks share nothing, and merged in the order
 * of their rows they give what one block over all rows would have given. A block covers all heads
 * and samples of its rows, so the across-head maps need no locks. The formulas are in KERNELS.md.
 *
 * Owned by one thread at a time: a worker fills it, the loop thread merges it. */
#ifndef WORKERS_ROWS_BLOCK_H
#define WORKERS_ROWS_BLOCK_H

#include "workers/stats/dist.h"
#include "workers/base/isa.h"
#include "workers/rows/map_pool.h"
#include "proto/metric.h"
#include "workers/base/scratch.h"

/* The metrics to compute. */
struct block_plan {
    bool group[METRIC_GROUP_COUNT]; /* CORE, IMPORTANCE, PAIRS; others are not a block's business */
    bool maps;                      /* sum, mean and max over the heads */
    bool gradient;         /* tier qk: the sums of importance_gradient, from dout, which was sent */
    uint32_t top_pairs;    /* 1..TOP_PAIRS_MAX */
    uint32_t local_window; /* local_mass: how far keys are away at most, in positions */
};

/* One head's share. */
struct head_block {
    struct dist row[METRIC_ROW_COUNT]; /* per-row values of sound rows */
    struct moments entries;            /* valid entries of sound rows */
    double neighbour_sum;     /* A[i,i-1] + A[i,i+1] over sound rows: locality's numerator */
    uint64_t neighbour_count; /* how many such entries exist */
    /* tier qk only */
    struct moments logits;         /* scaled, capped logits of valid entries of sound rows */
    struct moments cosine;         /* of query and key vectors, over the same entries */
    struct moments q_norm, k_norm; /* lengths of the vectors of valid queries, of valid keys */
    struct moments output_norm;    /* |A V| of sound rows */
    struct moments norm_weighted_entropy; /* of |A_ij v_j| made a distribution over j */
    struct moments write_norm;            /* |R_h A V| of sound rows */
    struct moments residual_share;        /* the same over |x| */
    double gradient;                      /* sum |A dL/dA| over sound rows */
};

/* One (sample, head)'s share of the importance score. */
struct importance_block {
    double entropy;         /* -sum P ln(P + 1e-8), P = softmax of each row of A */
    struct moments entries; /* all entries as sent */
};

/* The maps a block keeps: AGGREGATE_SUM, _MEAN, _MAX. The others need a pass of their own. */
#define BLOCK_MAPS 3

struct block {
    struct block_plan plan;
    uint32_t batch, heads;
    uint64_t rows, invalid_rows; /* sound and unsound: together every (sample, head, valid query) */
    double row_sum_error;        /* NaN while no row with a valid key and a finite sum was seen */
    struct head_block *head;     /* [heads] */
    struct importance_block *importance; /* [batch][heads]; NULL when the group is off */
    struct moments map[BLOCK_MAPS];      /* entries of the across-head maps, pooled over samples */
    struct pair *pairs;                  /* best pair_count so far, descending; NULL when off */
    uint32_t pair_count;
    struct map_pool *pool; /* what its rows of the head-mean map are added to, as long as they are
                              computed; NULL = off; not merged; the owner's */
};

/* An empty block: rows are counted whatever the plan says. Returns 0 or ERR_MEMORY. */
int block_init(struct block *block, const struct attention *a, const struct block_plan *plan);
/* Adds the rows [row_begin, row_end) of every sample and head, by the scalar reference: compiled
 * without vectorising, one formula per function. Returns 0 or ERR_MEMORY (the block is then only
 * good for block_clear). */
int block_compute_ref(struct block *block, const struct attention *a, uint32_t row_begin,
                      uint32_t row_end, struct scratch *scratch);
/* Merges the block of the rows that follow. Returns 0 or ERR_MEMORY, as above. */
int block_merge(struct block *into, const struct block *from);
/* The same by the fast kernels of an instruction set (isa.h), within the tolerances of KERNELS.md.
 * Rows that are out of the ordinary (not finite, not a distribution) go through the reference. */
int block_compute(struct block *block, const struct attention *a, uint32_t row_begin,
                  uint32_t row_end, enum isa isa, struct scratch *scratch);
void block_clear(struct block *block);
/* For kernels: offers one entry of the head-mean map; the best plan.top_pairs stay. */
void block_offer_pair(struct block *block, struct pair pair);

/* The message's own numbers: ret_value[metric][heads] for every metric of the plan's groups but
 * SPECTRUM (NaN where it does not exist); other groups' entries are left as they are, NULL entries
 * are skipped. Row metrics give their mean over the rows; importance_gradient is
 * measure's, and NaN here. */
void block_values(const struct block *block, double *const ret_value[METRIC_COUNT]);
/* mean, max, min, std of an across-head map; NaN without entries. */
void block_map_stats(const struct moments *map, double ret_stat[MAP_STAT_COUNT]);

#endif
