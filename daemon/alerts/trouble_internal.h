/* SPDX-License-Identifier: MIT */
/* trouble_internal: what is kept of each head and rule, for trouble.c and trouble_pack.c. */
#ifndef DAEMON_ALERTS_TROUBLE_INTERNAL_H
#define DAEMON_ALERTS_TROUBLE_INTERNAL_H

#include "daemon/alerts/internal.h"
#include "daemon/alerts/trouble.h"

enum { TROUBLE_SLOPE_WINDOWS = 5 }; /* long enough to average noise, short enough for an onset */

/* Where a head is by one rule; since when is counted anew with each. */
enum trouble_mode {
    TROUBLE_MODE_NONE,
    TROUBLE_MODE_UNDER_WAY, /* worth naming */
    TROUBLE_MODE_OUTSIDE,   /* beyond the bound, or not back at `clear` while it fires */
    TROUBLE_MODE_COUNT
};

/* One head and one rule. */
struct trouble_cell {
    double past[TROUBLE_SLOPE_WINDOWS]; /* what was compared, newest first */
    uint64_t since_epoch, since_step;
    uint32_t windows; /* since then */
    uint8_t count;    /* of past */
    uint8_t mode;     /* enum trouble_mode */
};

struct trouble_rule {
    uint32_t count;            /* 0 = nothing yet */
    struct trouble_cell *cell; /* [count], owned */
    struct alert_cells own;    /* of a rule about layers or the run */
};

struct trouble_layer {
    uint32_t key;                  /* alert_layer_pack */
    struct result_trouble *newest; /* one block, owned; NULL = none yet */
    UT_hash_handle hh;
    struct trouble_rule rules[]; /* [rule_count] */
};

/* Whether what the rule judges can be told of single heads. */
bool trouble_counts(const struct rule *rule);
/* NULL when there is none. */
struct trouble_layer *trouble_find(const struct alerts *alerts, struct layer_id id);
/* Made on first use; NULL when out of memory. */
struct trouble_layer *trouble_get(struct alerts *alerts, struct layer_id id);
/* Takes the block, in place of the one there is; NULL = none. */
void trouble_set_newest(struct trouble_layer *layer, struct result_trouble *newest);
/* Cells for so many heads; those of another number are forgotten. Returns 0 or ERR_MEMORY. */
int trouble_reserve(struct trouble_rule *cells, const struct rule *rule, uint32_t heads);
/* Forgets the cells of all rules. */
void trouble_forget(struct alerts *alerts, struct trouble_layer *layer);

#endif
