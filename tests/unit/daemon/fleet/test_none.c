/* SPDX-License-Identifier: MIT */
/* An attnd that was built without libnats. */
#include "tests/unit/unit.h"

#include "daemon/fleet/fleet.h"

TEST(a_role_is_refused_and_says_what_to_install)
{
    struct config config = {.fleet_role = CONFIG_ROLE_NODE};
    struct fleet *fleet = NULL;
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(fleet_new(&config, NULL, NULL, &fleet, error), -1);
    assert_null(fleet);
    assert_string_equal(error,
                        "fleet.role: 'node': this attnd was built without libnats, as those of "
                        "pip and conda are, and is in no fleet; install the Debian package "
                        "(deploy/package), or build it where libnats-dev is (valid: off)");
}

TEST(without_a_role_it_starts)
{
    struct config config = {.fleet_role = CONFIG_ROLE_OFF};
    struct fleet *fleet = NULL;
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(fleet_new(&config, NULL, NULL, &fleet, error), 0);
    assert_string_equal(error, "");
}
