/* SPDX-License-Identifier: MIT */
/* hub: the thread that takes the parts of a fleet's nodes, merges windows, and hands them to the
 * loop (proto/FLEET.md). */
#ifndef DAEMON_FLEET_HUB_H
#define DAEMON_FLEET_HUB_H

#include "config/config.h"
#include "daemon/base/inbox.h"
#include "daemon/state/merged.h"
#include "daemon/store/store.h"
#include "proto/mpk.h"

struct hub;

/* Opens HISTORY.parts and starts the thread. All outlive it. Returns 0, or -1 with
 * a sentence. */
int hub_new(const struct config *config, struct store *store, struct inbox *inbox,
            struct hub **ret_hub, char *reterr);
/* Loop thread: a window, or other news, with its code. Takes it over. */
void hub_merged(struct hub *hub, struct merged **merged);
/* Any thread: the map of the method `fleet`. */
void hub_encode(struct hub *hub, struct mpk_writer *writer);
/* Accepts NULL. */
void hub_free(struct hub **hub);

#endif
