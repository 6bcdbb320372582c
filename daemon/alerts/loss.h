/* SPDX-License-Identifier: MIT */
/* loss: what rules know of the loss that a training logs: which of its last values were not finite,
 * and whether its smoothed curve has risen and stays high. 1.2 KB a run, whatever its length. Pure;
 * one owner. */
#ifndef DAEMON_ALERTS_LOSS_H
#define DAEMON_ALERTS_LOSS_H

#include "proto/named.h"
#include "proto/result.h"

#define LOSS_LOGGED 32  /* newest values of which it is known which ones were not finite */
#define LOSS_KEPT   128 /* newest finite values: the largest length that is smoothed over */

/* Fields are read-only outside of loss.c. Checkpoints have them as memory does: each has 8 bytes.
 */
struct loss {
    uint64_t series;                     /* of the names in loss.c; LOSS_NONE: none has come */
    uint64_t rank, time_ns, epoch, step; /* the rank that is followed; its newest value */
    uint64_t logged, broken; /* values; a bit for each of the newest that was not finite, the last
                                one lowest */
    /* The curve, of finite values: */
    uint64_t count;
    uint64_t near;               /* the last value was near the best; of two on end: */
    uint64_t well, ill;          /* the last step of two; the first one after it that was not
                                    near, LOSS_NEVER: none was */
    uint64_t lowest_step;        /* of `lowest` */
    double level, lowest;        /* smoothed: now, and at its best */
    double top, best, fallen;    /* levels: where it began, the best one that counts now; the
                                    longest way down */
    double spread, slow, wander; /* of values around the level, of the level around its own mean */
    double risen;                /* loss_risen */
    double kept[LOSS_KEPT];      /* the newest values, a ring */
};

#define LOSS_NONE  UINT64_MAX
#define LOSS_NEVER UINT64_MAX

void loss_init(struct loss *loss);
/* Looks for the loss among the numbers that a rank has logged together. Returns whether there was a
 * value, and it has not come before. */
bool loss_take(struct loss *loss, uint32_t rank, const struct result_common *at,
               const struct named_values *values);
/* The share of the newest values that were not finite. */
double loss_broken(const struct loss *loss);
/* Whether the newest values from some on are all not finite; else finite ones are between. */
bool loss_stays_broken(const struct loss *loss);
/* The share of the way down that the loss has gone up again, and stays at; NaN: not known yet, as
 * while it goes up, and while it falls again. */
static inline double loss_risen(const struct loss *loss)
{
    return loss->risen;
}
/* The name under which it is logged. */
const char *loss_name(const struct loss *loss);
/* Whether a state that was read from a checkpoint is one. */
bool loss_is_sound(const struct loss *loss);

#endif
