/* SPDX-License-Identifier: MIT */
/* bridge: what is known here of the options of attnctl bridge, which Python reads. */
#ifndef CLI_BRIDGE_H
#define CLI_BRIDGE_H

#include "option.h"

void bridge_each_option(option_visitor *visit, void *data);

#endif
