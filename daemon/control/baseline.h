/* SPDX-License-Identifier: MIT */
/* baseline: gives a layer's drift the windows of the history that it is to be compared with,
 * instead of the first ones it has seen itself. Loop thread. */
#ifndef DAEMON_CONTROL_BASELINE_H
#define DAEMON_CONTROL_BASELINE_H

#include "daemon/history/history.h"
#include "daemon/run/registry.h"

/* The windows to compare with. */
struct baseline_source {
    char run[2 * RUN_BYTES + 1]; /* of the same job, by its first digits */
    bool has_last;
    uint64_t last; /* the one that ends with this unit; else the first drift.windows */
};

/* The windows of this layer and track have been looked up: `code` is 0 and they are its baseline
 * now, or an error and nothing has changed. */
typedef void baseline_done(void *data, int code, const char *detail);

/* Looks them up; `done` is called later, never from inside this call. The pinned layer is found by
 * name then: run and stream may have gone meanwhile (ERR_RUN_UNKNOWN). `registry` and `config`
 * outlive the history. Returns 0, or an error of history_ask: then `done` is not called. */
int baseline_pin(struct history *history, struct registry *registry, const struct config *config,
                 const struct run *run, const struct stream *stream, uint32_t track,
                 const struct baseline_source *source, baseline_done *done, void *data);

#endif
