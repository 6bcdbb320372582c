/* SPDX-License-Identifier: MIT */
/* sketch_judge: what the sketch of a capture says of the weights of each head: whether they are
 * finite, move, or have been replaced, and whether ranks have the same. Loop thread. */
#ifndef DAEMON_STATE_SKETCH_JUDGE_H
#define DAEMON_STATE_SKETCH_JUDGE_H

#include "daemon/state/sketch.h"

/* Faults of a head; 1: it is so, 0: it is not, NaN: nothing tells. */
enum sketch_fault {
    SKETCH_FAULT_INVALID, /* a place of a matrix is NaN or infinite */
    /* A matrix that requires gradients is what it was in the capture before, but for rounding and
     * a factor, which is what weight decay takes, while the median head has moved. */
    SKETCH_FAULT_STILL,
    /* A matrix points elsewhere at once; falls by a twentieth in each capture since then. */
    SKETCH_FAULT_REPLACED,
    SKETCH_FAULTS
};

struct sketch_judged {
    uint32_t heads; /* of the layer */
    double apart;   /* share of its heads of which ranks have other bits; NaN: one rank sent it */
    /* [heads] each, and the matrix that it is about, the first one (enum projection); owned, in one
     * block */
    double *fault[SKETCH_FAULTS];
    int32_t *matrix[SKETCH_FAULTS];
};

/* Measures the open capture against the one before it: how far each head has turned, over the norm
 * that it had, and their median of each matrix. Before sketch_judge. Returns 0 or ERR_MEMORY. */
int sketch_measure(struct sketch *sketch);
/* The median of these numbers, those that are NaN left out; `values` are in another order then. */
struct sketch_median sketch_median_of(float *values, uint32_t count);
/* `median`: of each matrix, over the layers of the model. Before sketch_finish.
 * Returns 0 or ERR_MEMORY. */
int sketch_judge(struct sketch *sketch, const struct sketch_median median[PROJECTION_COUNT],
                 struct sketch_judged *ret_judged);
void sketch_judged_clear(struct sketch_judged *judged);

#endif
