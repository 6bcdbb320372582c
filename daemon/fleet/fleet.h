/* SPDX-License-Identifier: MIT */
/* fleet: this attnd among those of other machines: a node, a hub, or neither (proto/FLEET.md). Loop
 * thread, unless said otherwise; nothing here waits for a server. */
#ifndef DAEMON_FLEET_FLEET_H
#define DAEMON_FLEET_FLEET_H

#include "config/config.h"
#include "daemon/base/inbox.h"
#include "daemon/store/store.h"
#include "proto/fleet.h"

struct fleet;
struct merged;

/* Starts the threads of the configured role; *ret_fleet is NULL when there is none. Returns 0, or
 * -1 with a sentence. `store` and `inbox` outlive it. */
int fleet_new(const struct config *config, struct store *store, struct inbox *inbox,
              struct fleet **ret_fleet, char *reterr);
/* The runs that are active here, for the signs of life of a node. */
void fleet_tell_runs(struct fleet *fleet, const struct fleet_beat_run *runs, uint32_t count);
/* The loop is through with a window that the hub has merged, and has set its code. Takes it over.
 */
void fleet_merged(struct fleet *fleet, struct merged **merged);
/* Any thread: appends the result of the method `fleet`, one map. `fleet` may be NULL. */
void fleet_encode(struct fleet *fleet, struct mpk_writer *writer);
/* A node sends what is left for so long. Before the store is freed. Accepts NULL. */
void fleet_free(struct fleet **fleet, uint64_t patience_ns);

#endif
