/* SPDX-License-Identifier: MIT */
/* restore: brings the runs of a registry back from what checkpoint.h kept: once, at the start.
 *
 * Unusable parts are left out and logged: a track whose rule is no longer in the config, a value
 * that cannot be read. A run that is left without its `about` does not come back. */
#ifndef DAEMON_RUN_RESTORE_H
#define DAEMON_RUN_RESTORE_H

#include "daemon/run/run.h"

struct restore;

/* `adopt` takes a run over that is complete, or returns false when there is no room. The others are
 * those of run_new. NULL when out of memory. */
struct restore *restore_new(const struct config *config, const struct result_sink *sink,
                            struct state_budget *budget, bool (*adopt)(void *data, struct run *run),
                            void *data, uint64_t now_ns);
/* Brings those back that attnd has forgotten, as well: they are left out at the start. */
void restore_forgotten(struct restore *restore);
/* Whether a value did not come back because there was no memory. */
bool restore_is_short(const struct restore *restore);
/* For store_each_kept, with the restore as its data. */
void restore_value(void *restore, const char *job, const uint8_t *run, const char *key,
                   const void *value, size_t size);
/* After the last value: settles what is known, and frees. Returns how many runs came back. */
uint32_t restore_finish(struct restore **restore);

#endif
