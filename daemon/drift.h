/* SPDX-License-Identifier: MIT */
/* drift: how the windows of one layer differ from a baseline, per head and metric, and since when.
 *
 * The baseline is the first `windows` full windows seen (a partial one is not learned from), or
 * states that are given. Per head and metric: delta of the means; z = delta over the standard
 * deviation of the baseline's window means; js = Jensen-Shannon divergence (natural logarithm, at
 * most ln 2) of the pooled histograms, row metrics only. A change point is found by the two-sided
 * Page-Hinkley test on the window means (Page 1954; Hinkley 1971), in units of the baseline's std.
 *
 * Pure; no clock; one owner at a time. */
#ifndef DAEMON_DRIFT_H
#define DAEMON_DRIFT_H

#include "layer_state.h"
#include "mpk.h"
#include "result.h"

struct drift_rule {
    uint32_t windows;            /* that make a baseline, >= 1 */
    double tolerance, threshold; /* of Page-Hinkley, in stds of the baseline */
};

struct drift;

/* Without a baseline. NULL when out of memory. */
struct drift *drift_new(const struct drift_rule *rule, uint32_t heads);
void drift_free(struct drift **drift);

/* A window of the layer. `learn`: it is full and newer than all before, so it becomes part of the
 * baseline or moves the change detection; else it is only compared. `last` is its last unit.
 * Afterwards drift_result has its numbers. Returns 0 or ERR_MEMORY (then without effect). */
int drift_window(struct drift *drift, const struct layer_state *state, uint64_t last, bool learn);

/* The numbers of the window given last, [heads], for summary_result.drift; NULL when the metric has
 * no baseline. Borrowed until the next call. */
const struct result_drift *drift_result(const struct drift *drift, int metric);

/* How many windows the baseline has; it is complete when that is rule.windows. */
uint32_t drift_learned(const struct drift *drift);

/* Takes these windows, in order, for the baseline instead of what was learned, and begins change
 * detection anew. Returns 0 or ERR_MEMORY (then without effect). */
int drift_pin(struct drift *drift, const struct layer_state *const *states, uint32_t count);

uint64_t drift_bytes(const struct drift *drift);

/* For checkpoints: one MessagePack map, and back. Returns 0, ERR_MEMORY, or ERR_STORE_FORMAT for
 * what is no such map. */
int drift_pack(const struct drift *drift, struct mpk_writer *writer);
int drift_unpack(const struct drift_rule *rule, const void *data, size_t size,
                 struct drift **ret_drift);

#endif
