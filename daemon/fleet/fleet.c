/* SPDX-License-Identifier: MIT */
/* Each role has a thread of its own behind the same calls: uplink.h is a node, hub.h a hub. */
#include "daemon/fleet/fleet.h"

#include "daemon/fleet/hub.h"
#include "daemon/fleet/uplink.h"

#include <stdio.h>
#include <stdlib.h>

struct fleet {
    struct uplink *uplink; /* a node; else NULL */
    struct hub *hub;       /* a hub; else NULL */
};

int fleet_new(const struct config *config, struct store *store, struct inbox *inbox,
              struct fleet **ret_fleet, char *reterr)
{
    *ret_fleet = NULL;
    if (config->fleet_role == CONFIG_ROLE_OFF) {
        return 0;
    }
    struct fleet *fleet = calloc(1, sizeof *fleet);
    if (!fleet) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the fleet: out of memory");
        return -1;
    }
    int rc = config->fleet_role == CONFIG_ROLE_HUB
                 ? hub_new(config, store, inbox, &fleet->hub, reterr)
                 : uplink_new(config, store, &fleet->uplink, reterr);
    if (rc != 0) {
        free(fleet);
        return -1;
    }
    *ret_fleet = fleet;
    return 0;
}

void fleet_tell_runs(struct fleet *fleet, const struct fleet_beat_run *runs, uint32_t count)
{
    if (fleet && fleet->uplink) {
        uplink_tell_runs(fleet->uplink, runs, count);
    }
}

void fleet_merged(struct fleet *fleet, struct merged **merged)
{
    if (fleet && fleet->hub) {
        hub_merged(fleet->hub, merged);
    }
}

void fleet_encode(struct fleet *fleet, struct mpk_writer *writer)
{
    if (fleet && fleet->uplink) {
        uplink_encode(fleet->uplink, writer);
    } else if (fleet) {
        hub_encode(fleet->hub, writer);
    } else {
        mpk_put_map(writer, 1);
        mpk_pair_str(writer, "role", "off");
    }
}

void fleet_free(struct fleet **fleet_p, uint64_t patience_ns)
{
    struct fleet *fleet = *fleet_p;
    if (!fleet) {
        return;
    }
    uplink_free(&fleet->uplink, patience_ns);
    hub_free(&fleet->hub);
    free(fleet);
    *fleet_p = NULL;
}
