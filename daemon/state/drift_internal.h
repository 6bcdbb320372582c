/* SPDX-License-Identifier: MIT */
/* drift_internal: the parts of a drift, for drift.c and drift_pack.c. */
#ifndef DAEMON_STATE_DRIFT_INTERNAL_H
#define DAEMON_STATE_DRIFT_INTERNAL_H

#include "daemon/state/drift.h"
#include "daemon/state/packed_hists.h"

#include <math.h>

enum drift_side { DRIFT_UP, DRIFT_DOWN, DRIFT_SIDES };

/* One head's metric: its baseline, and the change detection that begins when that is complete. */
struct drift_cell {
    double mean, m2; /* of the baseline's window means (mean: or uniform); m2: squared deviations */
    union {
        double level; /* once it is complete: mean of the windows that the next is compared with */
        double trend; /* until then: sum of (i - mean of i) (window mean - mean), for the slope */
    };
    double change; /* last unit of the window with which the newest change began; NaN = none */
    double since[DRIFT_SIDES]; /* last unit of the window with which the sum, or the block (UP),
                                  began, or the baseline was complete (DOWN) */
    float sum[DRIFT_SIDES];    /* in stds: it only meets a threshold, 24 bits will do */
    uint32_t count;            /* windows of the baseline, or of the block that may become it */
    uint32_t level_count;      /* windows of the level; 0 until the baseline is complete */
};

struct drift {
    struct drift_rule rule;
    uint32_t heads;
    uint32_t windows;                      /* that make this baseline: the rule's when it began */
    bool pinned;                           /* given: metrics that are not in it are not learned */
    bool begun;                            /* `last` is meaningful */
    uint64_t last;                         /* last unit of the newest window learned from */
    struct drift_cell *cell[METRIC_COUNT]; /* [heads] each; NULL until there is a value */
    struct packed_hists hists[METRIC_ROW_COUNT]; /* of the baseline; of all heads, once there
                                                    is a cell */
    struct result_drift *result[METRIC_COUNT];   /* [heads]; NULL = none */
};

/* Has learned nothing. */
static inline struct drift_cell drift_cell_empty(void)
{
    return (struct drift_cell){.change = NAN};
}

/* Whether the baseline is complete. */
static inline bool drift_cell_ready(const struct drift *drift, const struct drift_cell *cell)
{
    return drift->pinned ? cell->count > 0 : cell->count >= drift->windows;
}

#endif
