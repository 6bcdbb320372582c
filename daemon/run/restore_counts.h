/* SPDX-License-Identifier: MIT */
/* restore_counts: sequences and counts of runs and layers, as checkpoint.c packed them. Each takes
 * the map that they are in, and returns 0, ERR_STORE_FORMAT or ERR_MEMORY. */
#ifndef DAEMON_RUN_RESTORE_COUNTS_H
#define DAEMON_RUN_RESTORE_COUNTS_H

#include "daemon/run/run.h"
#include "daemon/run/stream.h"

int restore_sequences(const msgpack_object *map, const char *key, struct sequences *sequences);
/* The run has used the reliable lane if they are there. Takes over what is newer. */
int restore_reliable(struct run *run, const msgpack_object *map, struct sequences *into);
int restore_tally(const msgpack_object *map, const char *key, struct tally *tally);
int restore_counts(const msgpack_object *map, struct counts *counts);
int restore_drop_totals(const msgpack_object *map, struct run *run);

#endif
