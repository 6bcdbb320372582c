/* SPDX-License-Identifier: MIT */
/* drift: how the windows of one layer differ from a baseline, per head and metric, and since when.
 *
 * Each head and metric has a baseline of its own: its first block of n = `windows` full windows in
 * which it had a value and after which it does not rise or fall any more, so that a head that comes
 * late, or takes turns at spectra, is judged all the same. A partial window is not learned from.
 * With m_1 .. m_n the means of the block's windows, b their mean, `slope` that of the least-squares
 * line through them and r the distances from it, a block is the baseline when
 *
 *     |slope| (n - 1) <= min(max(2 std(r), grain), 2 grain)
 *
 *     std(r) = sqrt(sum r^2 / (n - 2)); 0 for n <= 2
 *     grain  = metric_grain: max(resolution, 0.05 (maximum - minimum)) by metric.def; where that
 *              range is not finite max(resolution, 0.05 |b|)
 *
 * (2 grain: a fall that ends within the block makes std(r) large, too) and is forgotten otherwise,
 * with its histogram: the next window begins the next block. Windows that are given (drift_pin) are
 * the baseline as they are. With x the mean of a window:
 *
 *     delta = x - b
 *     shift = delta / max(std(m), grain)   std(m) unbiased (n - 1); 0 for n = 1
 *     js    = dist_js of the baseline's pooled histogram and the window's; row metrics only
 *
 * so a small difference has a small shift, also from a baseline that never moved.
 *
 * For the normalized entropies, whose value for uniform attention is 1 whatever the number of keys,
 * b is that 1 until there is a baseline, with std(m) = 0 and without js; and it stays 1 when a
 * block was forgotten before: a head that collapses in its first windows would else be compared
 * with its own collapsed plateau. Other metrics have no drift until there is a baseline.
 *
 * `change` comes from the two-sided Page-Hinkley test on the means of the windows after the
 * baseline (E. S. Page, Continuous inspection schemes, Biometrika 41, 1954; D. V. Hinkley,
 * Inference about the change-point from cumulative sum tests, Biometrika 58, 1971). With s =
 * max(std(m), 2^-20 |b|, 2^-40), where the bounds are 16 roundings of an f32 and what histograms
 * take for zero, and the level l, the mean of all windows of the head before this one since its
 * baseline began:
 *
 *     up_t   = max(0, up_t-1   + (x_t - l) / s - tolerance)
 *     down_t = max(0, down_t-1 - (x_t - l) / s - tolerance)
 *
 * (up is how far the cumulative sum has risen above its minimum, down how far it has fallen below
 * its maximum.) When one exceeds the threshold there was a change, and it began with the first
 * window since that sum was last 0. Then the test starts over, both sums 0, with x_t as the level.
 * A block that is forgotten is a change, too, which began with the first of those in succession.
 * With a baseline of one window there is no test.
 *
 * Windows that share rows have means that are not independent, and a std that is too small: of
 * rolling windows only those that do not overlap are learned (drift_may_learn).
 *
 * Memory: 64 bytes per head and metric, and about 3 per used histogram bucket of row metrics.
 * Pure; no clock; one owner at a time. */
#ifndef DAEMON_STATE_DRIFT_H
#define DAEMON_STATE_DRIFT_H

#include "daemon/state/layer_state.h"
#include "proto/mpk.h"

struct drift_rule {
    uint32_t windows;            /* that make a baseline, >= 1 */
    double tolerance, threshold; /* of Page-Hinkley, in stds of the baseline */
    uint32_t buckets;            /* of a baseline's histogram at most: window.buckets */
};

struct drift;

/* Without a baseline. NULL when out of memory. */
struct drift *drift_new(const struct drift_rule *rule, uint32_t heads);
void drift_free(struct drift **drift);

/* Whether a window may be learned from: it is full, and begins after all that were. Windows of a
 * run that goes on after a restart are not learned twice. */
bool drift_may_learn(const struct drift *drift, const struct result_window *window);

/* A window of the layer. `learn`: it becomes part of the baseline or moves the change detection
 * (drift_may_learn); else it is only compared. `last` is its last unit. Afterwards drift_result has
 * its numbers. Returns 0 or ERR_MEMORY (then without effect). */
int drift_window(struct drift *drift, const struct layer_state *state, uint64_t last, bool learn);

/* Works out again what drift_window said of the newest window, from what was packed after it:
 * without the baselines that it completed itself. The drift is good for nothing else afterwards.
 * The same errors. */
int drift_window_again(struct drift *drift, const struct layer_state *state, uint64_t last);

/* The numbers of the window given last, [heads], for summary_result.drift; NULL when no head had
 * anything of the metric to compare with. Borrowed until the next call. */
const struct result_drift *drift_result(const struct drift *drift, int metric);
/* Frees them, 32 bytes per head and metric, once they have been read. */
void drift_result_clear(struct drift *drift);

/* Takes these windows, in order, for the baseline instead of what was learned, and begins change
 * detection anew. Heads and metrics that have no value in them get no baseline. Returns 0 or
 * ERR_MEMORY (then without effect). */
int drift_pin(struct drift *drift, const struct layer_state *const *states, uint32_t count);

uint64_t drift_bytes(const struct drift *drift);
uint32_t drift_heads(const struct drift *drift);

/* For checkpoints: one MessagePack map, without the numbers of drift_result, and back. A baseline
 * that was learned under another rule, or before there was a slope test, stays as it is. Returns 0,
 * ERR_MEMORY, or ERR_STORE_FORMAT for what is no such map. */
int drift_pack(const struct drift *drift, struct mpk_writer *writer);
int drift_unpack(const struct drift_rule *rule, const void *data, size_t size,
                 struct drift **ret_drift);

#endif
