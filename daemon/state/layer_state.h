/* SPDX-License-Identifier: MIT */
/* layer_state: the numbers of one attention layer during one part of a window: a distribution per
 * head and metric, mergeable with the states of other parts. One owner at a time.
 *
 * Memory, with the default metrics and 48 buckets (tests/bench/state): 3.7 KiB per head of a layer
 * with 12 heads, everything and the heap's own bytes included, after 50 messages that spread as
 * wide as maps do: softmax of every temperature, so that most of the 28 histograms are full; 4.0
 * after 2,000. About 1.3 KiB after one message. It is bounded because histograms are: a bucket
 * takes as many bytes as the largest count beside it needs, 1 to 4, and a quarter to three more
 * for its key.
 *
 * Quantiles are off by at most half a bucket, summary_result.quantile_error: 1.1 % where a metric's
 * values of a head lie within a factor of 2.8 (48 buckets of 2.2 %), 2.2 % within 8, 4.4 % within
 * 64, else 9.1 %; below 2^-11.5 of the largest they count as zero then (workers/stats/hist.h). */
#ifndef DAEMON_STATE_LAYER_STATE_H
#define DAEMON_STATE_LAYER_STATE_H

#include "daemon/state/detail.h"
#include "daemon/state/position.h"
#include "daemon/state/rank_entropy.h"
#include "daemon/state/stat_set.h"
#include "daemon/state/tally.h"

struct head_state {
    struct stat_set stats;  /* metrics, and vectors from STAT_HISTS on */
    struct position newest; /* of the messages with that head; none yet: no position */
    uint64_t invalid_rows;  /* its share of the layer's; 0 with metrics.core off */
    uint8_t pattern;        /* enum pattern, of that message */
};

/* Fields are private to the files of layer_state, except the counts. */
struct layer_state {
    uint32_t heads;   /* of the model: heads_total */
    uint32_t buckets; /* of a histogram, at most */
    /* The shape of the newest message that has rows; of one of tier weights while there is no
     * other. */
    struct position newest; /* of the messages that have rows; none yet: no position */
    uint64_t epoch, step, time_ns;
    uint32_t shape[4];
    bool causal;
    enum message_type tier;
    uint32_t local_window; /* of local_mass */
    uint64_t rows, invalid_rows;
    uint64_t rows_of; /* the rows that `rows` were sampled from; equal to it when all were taken */
    double row_sum_error;
    uint64_t messages;
    struct tally tally;
    uint8_t *rank_bits; /* bit per rank from rank_first on, a multiple of 8; owned */
    uint32_t rank_first, rank_bytes;
    struct rank_entropy rank_entropy; /* empty while the rows are of one rank */
    bool on[METRIC_COUNT];            /* whether any message had this metric */
    bool has_aggregate[AGGREGATE_COUNT], has_vector[VECTOR_COUNT];
    struct head_state *head; /* [heads]; owned */
    struct stat_set across;  /* the across-head maps, and the sink rate */
    struct detail *detail;   /* of the newest message that had any; shared, NULL = none */
    struct detail *map;      /* of the newest message that was asked for one (message.wants_map):
                                map->map; shared, NULL = none. Not packed. */
    struct detail *weights;  /* of the newest message of tier weights; shared, NULL = none yet */
    struct position weights_newest;
};

/* An empty state, whose histograms use at most `buckets` (dist_limit). Returns NULL when out
 * of memory. */
struct layer_state *layer_state_new(uint32_t heads, uint32_t buckets);
void layer_state_free(struct layer_state **state);

/* Adds a measured message. Returns 0 or ERR_MEMORY (then it may be in partly). */
int layer_state_add(struct layer_state *state, const struct message *message,
                    const struct measured *measured);
/* Adds later parts, in order, of states with as many heads. All at once takes a third of the time
 * of one after the other. Return 0, or ERR_MEMORY (then they may be in partly). */
int layer_state_merge(struct layer_state *into, const struct layer_state *from);
int layer_state_merge_all(struct layer_state *into, const struct layer_state *const *from,
                          uint32_t count);

uint32_t layer_state_ranks(const struct layer_state *state);
/* Adds the entropies of its ranks, of one alone too, to those that are there, of at most `heads`
 * heads; nothing where they are not known. Returns 0 or ERR_MEMORY (then they may be in partly). */
int layer_state_ranks_entropy(const struct layer_state *state, uint32_t heads,
                              struct rank_entropy *into);

/* Memory in use, the allocator's own included. */
uint64_t layer_state_bytes(const struct layer_state *state);
/* The approximate size of a state of `heads` heads: to be reserved with it. */
uint64_t layer_state_new_bytes(uint32_t heads);

/* The distribution of one head's metric, copied; empty when there is none. Returns 0 or ERR_MEMORY.
 */
int layer_state_dist(const struct layer_state *state, int metric, uint32_t head,
                     struct dist *ret_dist);
/* Its moments alone. */
struct moments layer_state_moments(const struct layer_state *state, int metric, uint32_t head);
/* The moments of all metrics, in much less time than one by one. */
void layer_state_all_moments(const struct layer_state *state, uint32_t head,
                             struct moments ret_moments[METRIC_COUNT]);

/* One number's statistics: of a head, of an across-head map, of the layer. Return 0 or ERR_MEMORY.
 */
int layer_state_stat(const struct layer_state *state, int metric, uint32_t head,
                     struct result_stat *ret_stat);
/* Without quantiles, for which the histogram would have to be read: they are NaN; those of a matrix
 * are its one value. */
struct result_stat layer_state_stat_of_moments(const struct layer_state *state, int metric,
                                               uint32_t head);
int layer_state_map_stat(const struct layer_state *state, int aggregate, int stat,
                         struct result_stat *ret_stat);
int layer_state_sink_rate(const struct layer_state *state, struct result_stat *ret_stat);

/* For history, checkpoints, baselines and hubs: one MessagePack map with everything
 * (proto/PROTOCOL.md, section 6); unpack of pack is the same state, bit for bit. Unpack believes
 * nothing. Return 0, ERR_MEMORY, or ERR_STORE_FORMAT for what is no such map, or one of a later
 * version. */
int layer_state_pack(const struct layer_state *state, struct mpk_writer *writer);
int layer_state_unpack(const void *data, size_t size, struct layer_state **ret_state);
/* In half the time, for a question about one metric of the heads: the histograms of their other
 * metrics are not checked, and may not be read. Any other `metric`: none is. */
int layer_state_unpack_metric(const void *data, size_t size, int metric,
                              struct layer_state **ret_state);

/* A state as a summary: result borrows from the state and from what the view owns. Attach drift to
 * view->result before summary_encode. */
struct summary_view {
    struct summary_result result;
    struct summary_stats *stats; /* owned */
};

/* The layer as results have it, without its module. */
struct result_layer layer_state_describe(const struct layer_state *state, struct layer_id id);
/* Returns 0 or ERR_MEMORY. `job`, `run` and `state` outlive the view. */
int summary_view_init(struct summary_view *view, const struct layer_state *state,
                      struct layer_id id, const char *job, const uint8_t *run,
                      const struct result_window *window);
void summary_view_clear(struct summary_view *view);

#endif
