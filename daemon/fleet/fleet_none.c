/* SPDX-License-Identifier: MIT */
/* An attnd that was built without libnats. */
#include "daemon/fleet/fleet.h"

#include <stdio.h>

int fleet_new(const struct config *config, struct store *store, struct inbox *inbox,
              struct fleet **ret_fleet, char *reterr)
{
    (void)store;
    (void)inbox;
    *ret_fleet = NULL;
    if (config->fleet_role == CONFIG_ROLE_OFF) {
        return 0;
    }
    snprintf(
        reterr, CONFIG_ERROR_MAX,
        "fleet.role: '%s': this attnd was built without libnats, as those of pip and conda are, "
        "and is in no fleet; install the Debian package (deploy/package), or build it where "
        "libnats-dev is (valid: off)",
        config_role_name(config->fleet_role));
    return -1;
}

void fleet_tell_runs(struct fleet *fleet, const struct fleet_beat_run *runs, uint32_t count)
{
    (void)fleet;
    (void)runs;
    (void)count;
}

void fleet_merged(struct fleet *fleet, struct merged **merged)
{
    (void)fleet;
    (void)merged;
}

void fleet_encode(struct fleet *fleet, struct mpk_writer *writer)
{
    (void)fleet;
    mpk_put_map(writer, 1);
    mpk_pair_str(writer, "role", "off");
}

void fleet_free(struct fleet **fleet, uint64_t patience_ns)
{
    (void)fleet;
    (void)patience_ns;
}
