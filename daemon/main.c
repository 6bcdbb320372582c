/* SPDX-License-Identifier: MIT */
/* attnd: args, config, daemon, run; or a verdict. */
#include "daemon/arenas.h"
#include "daemon/args.h"
#include "daemon/daemon.h"
#include "daemon/judge.h"
#include "daemon/restart.h"
#include "daemon/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { EXIT_USAGE = 2 };

static int complain(const char *message, int status)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, message); /* attnctl check too */
    return status;
}

int main(int argc, char **argv)
{
    struct config config;
    struct daemon *daemon = NULL;
    struct args_result result;
    char error[CONFIG_ERROR_MAX];

    if (args_read(argc, argv, &config, &result, error) != 0) {
        return complain(error, EXIT_USAGE);
    }
    if (result.answered) {
        return EXIT_SUCCESS;
    }
    arenas_limit();
    umask(077); /* what attnd makes is for its user alone */
    log_setup((enum log_level)config.log_level, config.log_format == CONFIG_FORMAT_JSON);
    if (result.judge) {
        int status = judge_recording(result.judge, result.json, &config);
        config_clear(&config);
        return status;
    }
    restart_on_abort(argv);
    if (daemon_new(&config, result.has_file ? argc : 0, argv, &daemon, error) != 0) {
        config_clear(&config);
        return complain(error, EXIT_FAILURE);
    }
    daemon_run(daemon);
    daemon_free(&daemon);
    config_clear(&config);
    return EXIT_SUCCESS;
}
