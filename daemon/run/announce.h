/* SPDX-License-Identifier: MIT */
/* announce: what becomes of the events that alerts.h finds: published on alert/<job>/, passed on to
 * a command or a webhook, kept in the history, counted and logged. Loop thread only. */
#ifndef DAEMON_RUN_ANNOUNCE_H
#define DAEMON_RUN_ANNOUNCE_H

#include "daemon/run/run.h"

/* One round of judging; `batch` takes the events too, NULL: none. */
struct announcer {
    struct run *run;
    struct store_batch *batch;
    uint32_t events;
};

struct alert_sink announce_sink(struct announcer *announcer);

/* Asks the rules about silence, and once more when something has come again. On a timer. */
void announce_silence(struct run *run, uint64_t now_ns);
/* The run has ended: nothing fires any more. */
void announce_end(struct run *run);

struct result_common announce_common(const struct run *run);

#endif
