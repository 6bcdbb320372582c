/* SPDX-License-Identifier: MIT */
/* bridge: the options of attnctl bridge, which Python reads, as far as they are known here. */
#ifndef CLIENTS_CLI_BRIDGE_H
#define CLIENTS_CLI_BRIDGE_H

#include "clients/cli/base/option.h"

void bridge_each_option(option_visitor *visit, void *data);

#endif
