/* SPDX-License-Identifier: MIT */
/* tally: counts of what did not make it into the numbers of one layer, one window or one run. */
#ifndef DAEMON_STATE_TALLY_H
#define DAEMON_STATE_TALLY_H

#include "proto/err.h"
#include "proto/result.h"
#include "daemon/ingest/sequence.h"

/* A zeroed struct is empty. */
struct tally {
    uint64_t lost;               /* sent, and not arrived */
    uint64_t source;             /* dropped by the publishers themselves */
    uint64_t dropped[ERR_COUNT]; /* arrived and not used, by err_index */
};

void tally_losses(struct tally *tally, const struct losses *losses);
/* `count` messages that the publishers have dropped count elsewhere now. */
void tally_take_source(struct tally *tally, uint64_t count);
/* `code` is an error of err.def. */
void tally_drop(struct tally *tally, int code);
void tally_merge(struct tally *into, const struct tally *from);

/* "source" and every reason. */
#define TALLY_REASONS_MAX (ERR_COUNT + 1)
/* Writes the counts that are not zero, as the `dropped` of a result; returns how many. */
uint32_t tally_reasons(const struct tally *tally,
                       struct reason_count ret_reasons[TALLY_REASONS_MAX]);

#endif
