/* SPDX-License-Identifier: MIT */
/* attnd: args, config, daemon, run. */
#include "args.h"
#include "daemon.h"
#include "log.h"

#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2 };

static int complain(const char *message, int status)
{
    fprintf(stderr, "attnd: %s\n", message);
    return status;
}

int main(int argc, char **argv)
{
    struct config config;
    struct daemon *daemon = NULL;
    enum args_action action;
    char error[CONFIG_ERROR_MAX];

    if (args_read(argc, argv, &config, &action, error) != 0)
        return complain(error, EXIT_USAGE);
    if (action == ARGS_DONE)
        return EXIT_SUCCESS;
    log_setup((enum log_level)config.log_level, config.log_format == CONFIG_FORMAT_JSON);
    if (daemon_new(&config, &daemon, error) != 0)
        return complain(error, EXIT_FAILURE);
    daemon_run(daemon);
    daemon_free(&daemon);
    config_clear(&config);
    return EXIT_SUCCESS;
}
