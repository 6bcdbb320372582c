/* SPDX-License-Identifier: MIT */
/* bridge: what is known here of the options of attnctl bridge, which Python reads. */
#ifndef CLIENTS_CLI_BRIDGE_H
#define CLIENTS_CLI_BRIDGE_H

#include "clients/cli/base/option.h"

void bridge_each_option(option_visitor *visit, void *data);

#endif
