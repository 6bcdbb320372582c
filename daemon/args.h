/* SPDX-License-Identifier: MIT */
/* args: attnd's command line. */
#ifndef DAEMON_ARGS_H
#define DAEMON_ARGS_H

#include "config/config.h"

struct args_result {
    bool answered;     /* --help, --version, --print-config or --check-config was, on stdout */
    bool has_file;     /* --config was given */
    const char *judge; /* --judge: a recording, and the config is a judge's (judge.h); or NULL */
    bool json;         /* its verdict is wanted as JSON */
};

/* Reads the command line over *config: --config FILE first, then each --set, then the address
 * (--address, $ATTND_ADDRESS, or this user's directory), then the cross-checks.
 * Returns 0 with *ret_result, or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes): a usage or
 * config error, exit status 2. Only a config that is to be used, not answered, is to be cleared. */
int args_read(int argc, char **argv, struct config *config, struct args_result *ret_result,
              char *reterr);

/* Reads the same command line once more, and its file as it is now. Returns 0 or -1, as above. */
int args_read_again(int argc, char **argv, struct config *ret_config, char *reterr);

#endif
