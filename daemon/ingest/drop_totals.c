/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/drop_totals.h"

#include "daemon/base/grow.h"
#include "daemon/ingest/sequence.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

static struct drop_total *drop_totals_of(struct drop_totals *totals, uint32_t rank_index)
{
    return grow_to(&totals->of_rank, rank_index, &totals->count, sizeof *totals->of_rank)
               ? &totals->of_rank[rank_index]
               : NULL;
}

/* Takes up to `wanted` off *number; returns how much. */
static uint64_t drop_totals_take_off(uint64_t *number, uint64_t wanted)
{
    uint64_t taken = *number < wanted ? *number : wanted;
    *number -= taken;
    return taken;
}

int drop_totals_event(struct drop_totals *totals, uint32_t rank_index, uint64_t total,
                      bool from_start, uint64_t *ret_new)
{
    struct drop_total *rank = drop_totals_of(totals, rank_index);
    if (!rank) {
        return ERR_MEMORY;
    }
    bool joins = !rank->heard && !from_start;
    rank->heard = 1;
    *ret_new = 0;
    if (joins || total < rank->told) {
        *rank =
            (struct drop_total){.heard = 1, .told = total, .unplaced = joins ? 0 : rank->unplaced};
        return 0;
    }
    uint64_t grown = total - rank->told;
    if (grown > SEQUENCE_DROPPED_MAX) {
        return 0; /* not believed */
    }
    rank->told = total;
    *ret_new = grown - drop_totals_take_off(&rank->ahead, grown);
    rank->unplaced += *ret_new;
    return 0;
}

int drop_totals_topic(struct drop_totals *totals, uint32_t rank_index, uint64_t dropped,
                      uint64_t *ret_known)
{
    struct drop_total *rank = drop_totals_of(totals, rank_index);
    if (!rank) {
        return ERR_MEMORY;
    }
    *ret_known = drop_totals_take_off(&rank->unplaced, dropped);
    rank->ahead += dropped - *ret_known;
    return 0;
}

void drop_totals_clear(struct drop_totals *totals)
{
    free(totals->of_rank);
    *totals = (struct drop_totals){0};
}
