/* SPDX-License-Identifier: MIT */
/* recall: the newest summaries of a run that came back (restore.h), made again from the newest
 * windows of the history: once, at the start. */
#ifndef DAEMON_RUN_RECALL_H
#define DAEMON_RUN_RECALL_H

#include "daemon/run/run.h"

/* Gives the summary of each layer and track to the sink's `recall`, which is not NULL. Layers that
 * have no window in the history are left out. Returns false when there is no room for more. */
bool recall_run(struct run *run);

#endif
