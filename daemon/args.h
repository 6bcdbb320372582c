/* SPDX-License-Identifier: MIT */
/* args: attnd's command line. */
#ifndef DAEMON_ARGS_H
#define DAEMON_ARGS_H

#include "config.h"

enum args_action {
    ARGS_RUN,
    ARGS_DONE, /* --help, --version, --print-config or --check-config was answered on stdout */
};

/* Reads the command line over *config: --config FILE first, then each --set, then the cross-checks.
 * Returns 0 with *ret_action, or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes): a usage or
 * config error, exit status 2. */
int args_read(int argc, char **argv, struct config *config, enum args_action *ret_action,
              char *reterr);

#endif
