/* SPDX-License-Identifier: MIT */
/* restore: brings the runs of a registry back from what checkpoint.h kept: once, at the start.
 *
 * Unusable parts are left out and logged: a track whose rule is no longer in the config, a value
 * that cannot be read. A run that is left without its `about` does not come back. */
#ifndef DAEMON_RUN_RESTORE_H
#define DAEMON_RUN_RESTORE_H

#include "daemon/run/run.h"

struct restore {
    /* of the caller */
    const struct config *config; /* this and the next two as for run_new */
    const struct result_sink *sink;
    struct state_budget *budget;
    bool (*adopt)(void *data, struct run *run); /* takes a run over that is complete, or returns
                                                   false when there is no room */
    void *data;
    uint64_t now_ns;
    bool of_forgotten; /* brings those back, too, that attnd has forgotten */
    /* zeroed by the caller; what has become of it */
    bool is_short; /* a value did not come back, as there was no memory */
    uint32_t runs; /* that came back, after restore_finish */
    /* zeroed by the caller; private */
    struct run *run; /* whose values are coming; NULL: it is left out */
    char job[JOB_NAME_MAX + 1];
    uint8_t id[RUN_BYTES];
    bool has_track[TRACKS_MAX];         /* of the config: it was there when this was saved */
    char unknown_track[TRACK_NAME_MAX]; /* said last */
};

/* For store_each_kept, with the restore as its data. */
void restore_value(void *restore, const char *job, const uint8_t *run, const char *key,
                   const void *value, size_t size);
/* After the last value: settles what is known. */
void restore_finish(struct restore *restore);

#endif
