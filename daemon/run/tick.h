/* SPDX-License-Identifier: MIT */
/* tick: the changes of a run as time goes by, without messages. Loop thread only, on a timer. */
#ifndef DAEMON_RUN_TICK_H
#define DAEMON_RUN_TICK_H

#include "daemon/run/run.h"

/* The baselines of layers silent for this long are written to the history and freed. */
#define TICK_STREAM_IDLE_NS UINT64_C(3600000000000)

/* Closes and publishes what may be, shows windows that have gone quiet, judges silence, frees what
 * has long been idle, publishes the job map when dirty, and goes idle or ended. */
void tick_run(struct run *run, uint64_t now_ns);
/* Whether there is anything that a tick could find to do. */
bool tick_wanted(const struct run *run);

#endif
