/* SPDX-License-Identifier: MIT */
/* Medians, because the odd one out must not move what it is compared with. Deviations of a few
 * ranks say little of their spread, so it is taken as larger there; and it has a floor, below which
 * a difference is none that matters, so that equal ranks are never odd. Squares are averaged over
 * the heads: a rank is odd by a little everywhere, or by one head alone. Simulated with ranks whose
 * means vary by 3 % of the entropy, in all heads alike, one window in a thousand has an odd one. */
#include "daemon/state/odd_ranks.h"

#include "proto/err.h"

#include <math.h>
#include <stdlib.h>

#define RANKS_MIN      3
#define MAD_TO_STD     1.4826 /* of a normal distribution */
#define FEW            6.0
#define FLOOR_RELATIVE 0.02
#define FLOOR_NATS     0.001
#define ODD_BEYOND     5.0

/* Moves the k-th smallest value to its place, with none above it before it and none below it behind
 * it: a hub does this for thousands of ranks in each head. */
static double odd_ranks_select(double *values, uint32_t count, uint32_t k)
{
    int64_t low = 0, high = (int64_t)count - 1, at = k;
    while (low < high) {
        double pivot = values[at];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) {
                i++;
            }
            while (pivot < values[j]) {
                j--;
            }
            if (i <= j) {
                double value = values[i];
                values[i++] = values[j];
                values[j--] = value;
            }
        }
        low = j < at ? i : low;
        high = at < i ? j : high;
    }
    return values[k];
}

/* Changes the order. */
static double odd_ranks_median(double *values, uint32_t count)
{
    double upper = odd_ranks_select(values, count, count / 2), lower = values[0];
    if (count % 2) {
        return upper;
    }
    for (uint32_t i = 1; i < count / 2; i++) {
        lower = fmax(lower, values[i]);
    }
    return (lower + upper) / 2;
}

static bool odd_ranks_has(const struct rank_means *means, uint32_t head)
{
    return head >= means->first && head - means->first < means->heads &&
           means->rows[head - means->first] > 0;
}

/* Adds the squared distances of one head; `values` has room for all ranks. Until all are added
 * `distance` is that of the furthest head. */
static void odd_ranks_add_head(struct odd_rank *ranks, uint32_t count, uint32_t head,
                               double *values, double *squares, uint32_t *judged)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (odd_ranks_has(ranks[i].means, head)) {
            values[have++] = ranks[i].means->mean[head - ranks[i].means->first];
        }
    }
    if (have < RANKS_MIN) {
        return;
    }
    double median = odd_ranks_median(values, have);
    for (uint32_t i = 0; i < have; i++) {
        values[i] = fabs(values[i] - median);
    }
    double spread = MAD_TO_STD * (1 + FEW / have) * odd_ranks_median(values, have);
    spread = fmax(fmax(spread, FLOOR_RELATIVE * fabs(median)), FLOOR_NATS);
    for (uint32_t i = 0; i < count; i++) {
        if (odd_ranks_has(ranks[i].means, head)) {
            double distance =
                (ranks[i].means->mean[head - ranks[i].means->first] - median) / spread;
            squares[i] += distance * distance;
            if (judged[i]++ == 0 || fabs(distance) > ranks[i].distance) {
                ranks[i].distance = fabs(distance);
                ranks[i].head = head;
                ranks[i].median = median;
            }
        }
    }
}

int odd_ranks_judge(struct odd_rank *ranks, uint32_t count, uint32_t heads)
{
    double *values = calloc(count + 1, sizeof *values),
           *squares = calloc(count + 1, sizeof *squares);
    uint32_t *judged = calloc(count + 1, sizeof *judged);
    int code = values && squares && judged ? 0 : ERR_MEMORY;
    for (uint32_t h = 0; h < heads && !code; h++) {
        odd_ranks_add_head(ranks, count, h, values, squares, judged);
    }
    for (uint32_t i = 0; i < count && !code; i++) {
        ranks[i].distance = judged[i] > 0 ? sqrt(squares[i] / judged[i]) : NAN;
        ranks[i].odd = ranks[i].distance > ODD_BEYOND;
    }
    free(values);
    free(squares);
    free(judged);
    return code;
}

int odd_ranks_farthest(const struct rank_entropy *entropy, uint32_t heads, double *ret_distance,
                       uint32_t *ret_rank)
{
    struct odd_rank *ranks = calloc(entropy->count + 1, sizeof *ranks);
    *ret_distance = NAN;
    *ret_rank = 0;
    if (!ranks) {
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < entropy->count; i++) {
        ranks[i].means = &entropy->means[i];
    }
    int code = odd_ranks_judge(ranks, entropy->count, heads);
    for (uint32_t i = 0; i < entropy->count && !code; i++) {
        if (ranks[i].distance > *ret_distance ||
            (isnan(*ret_distance) && !isnan(ranks[i].distance))) {
            *ret_distance = ranks[i].distance;
            *ret_rank = entropy->means[i].rank;
        }
    }
    free(ranks);
    return code;
}
