/* SPDX-License-Identifier: MIT */
/* check: judges a recording by alert rules, for the CI of training runs: `attnctl check` becomes
 * `attnd --judge`. attnd says what is wrong in the name of the program that it was started as. */
#include "clients/cli/base/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* From where attnctl is: installed, and in a build directory. */
static const char *const beside[] = {"attnd", "../../daemon/attnd"};

int cmd_check(struct cli *cli)
{
    const struct args *args = cli->args;
    const char *line[8] = {"attnctl", "--judge", args->words[1]};
    char *const *argv = (char *const *)(uintptr_t)line;
    char own[4096], path[sizeof own + 32];
    int count = 3;
    if (args->rules) {
        line[count++] = "--config";
        line[count++] = args->rules;
    }
    if (args->given & ARGS_JSON) {
        line[count++] = "--json";
    }
    ssize_t length = readlink("/proc/self/exe", own, sizeof own);
    while (length > 0 && own[length - 1] != '/') {
        length--;
    }
    for (size_t i = 0; length > 0 && i < sizeof beside / sizeof beside[0]; i++) {
        snprintf(path, sizeof path, "%.*s%s", (int)length, own, beside[i]);
        execv(path, argv);
    }
    execvp("attnd", argv);
    return cli_usage(cli,
                     "cannot run attnd, which judges recordings: %s; install it beside attnctl or "
                     "in a directory of PATH",
                     strerror(errno));
}
