/* SPDX-License-Identifier: MIT */
/* restore_counts: sequences and counts of runs and layers, as checkpoint.c packed them. They are
 * in the map that is read. */
#ifndef DAEMON_RUN_RESTORE_COUNTS_H
#define DAEMON_RUN_RESTORE_COUNTS_H

#include "daemon/run/run.h"
#include "daemon/run/stream.h"
#include "daemon/state/stored.h"

void restore_sequences(struct stored *in, const char *key, struct sequences *sequences);
/* The run has used the reliable lane if they are there. Takes over what is newer. */
void restore_reliable(struct run *run, struct stored *in, struct sequences *into);
void restore_tally(struct stored *in, const char *key, struct tally *tally);
void restore_counts(struct stored *in, struct counts *counts);
void restore_drop_totals(struct stored *in, struct run *run);

#endif
