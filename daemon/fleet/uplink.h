/* SPDX-License-Identifier: MIT */
/* uplink: a node's thread that sends the rows of the outbox to the stream of the fleet, says that
 * the node lives, and answers what hubs ask (proto/FLEET.md). Nobody waits for it, but uplink_free.
 */
#ifndef DAEMON_FLEET_UPLINK_H
#define DAEMON_FLEET_UPLINK_H

#include "config/config.h"
#include "daemon/store/store.h"
#include "proto/fleet.h"

struct uplink;

/* Starts the thread. Returns 0, or -1 with a sentence of at most CONFIG_ERROR_MAX bytes. `store`
 * outlives it. */
int uplink_new(const struct config *config, struct store *store, struct uplink **ret_uplink,
               char *reterr);
/* Any thread: the runs that are active, for the signs of life; at most FLEET_RUNS_MAX of them. */
void uplink_tell_runs(struct uplink *uplink, const struct fleet_beat_run *runs, uint32_t count);
/* Any thread: the map of the method `fleet`. */
void uplink_encode(struct uplink *uplink, struct mpk_writer *writer);
/* Sends what is left for so long, says goodbye, and frees. Accepts NULL. */
void uplink_free(struct uplink **uplink, uint64_t patience_ns);

#endif
