/* SPDX-License-Identifier: MIT */
/* drop_totals: publishers report their own drops twice: each tensor message has the total of its
 * topic so far, and each event the total of the rank, of all topics together. Here both become one
 * truth: what an event tells first counts for the run alone, until messages of the layers tell
 * where it belongs. Pure. */
#ifndef DAEMON_INGEST_DROP_TOTALS_H
#define DAEMON_INGEST_DROP_TOTALS_H

#include <stdbool.h>
#include <stdint.h>

/* Whole numbers only: it is stored as it is. One of `unplaced` and `ahead` is 0. */
struct drop_total {
    uint64_t heard;    /* 0 or 1: an event has told */
    uint64_t told;     /* by the last event */
    uint64_t unplaced; /* of these: no topic has told of them yet */
    uint64_t ahead;    /* how many more topics have told of */
};

/* One per rank index, grown on demand. A zeroed struct is empty. */
struct drop_totals {
    struct drop_total *of_rank; /* owned */
    uint32_t count;
};

/* An event tells the rank's total. The first one that is heard says what is nobody's loss, unless
 * it is the first that was sent (`from_start`): attnd joined in the middle. Sets *ret_new to what
 * was not known before. Returns 0 or ERR_MEMORY. */
int drop_totals_event(struct drop_totals *totals, uint32_t rank_index, uint64_t total,
                      bool from_start, uint64_t *ret_new);
/* A topic tells of `dropped` more. Sets *ret_known to how many of them an event has told of before:
 * they belong to this topic now. Returns 0 or ERR_MEMORY. */
int drop_totals_topic(struct drop_totals *totals, uint32_t rank_index, uint64_t dropped,
                      uint64_t *ret_known);
void drop_totals_clear(struct drop_totals *totals);

#endif
