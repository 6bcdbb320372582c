/* SPDX-License-Identifier: MIT */
/* attnctl: asks a running attnd, or measures files without one. The commands are in commands.c. */
#include "clients/cli/base/commands.h"
#include "clients/cli/help/help.h"
#include "clients/cli/base/out.h"

#include <string.h>

/* A command's options are its own, those of every command, and no others. A run is an option beside
 * its job. */
static int check_usage(struct cli *cli, const struct command *command)
{
    unsigned foreign = cli->args->given & ~(command->options | ARGS_EVERY_COMMAND);
    int words = cli->args->word_count - 1;
    const char *job = words > 0 ? cli->args->words[1] : "";
    const char *slash = command->options & ARGS_RUN ? strchr(job, '/') : NULL;
    if (foreign) {
        return cli_usage(cli, "--%s is not an option of %s (see attnctl %s --help)",
                         args_option_name(foreign), command->name, command->name);
    }
    if (words < command->words_min || words > command->words_max) {
        return help_refuse_words(cli, command);
    }
    if (cli->args->run && words == 0) {
        return cli_usage(cli, "--run needs a job: attnctl %s JOB --run %s", command->name,
                         cli->args->run);
    }
    if (slash) {
        return cli_usage(cli, "'%.200s': not a job; its run is an option: attnctl %s %.*s --run %s",
                         job, command->name, slash > job ? (int)(slash - job) : 3,
                         slash > job ? job : "JOB", slash[1] ? slash + 1 : "RUN");
    }
    return CLI_OK;
}

/* Says the error, and the option that was meant instead of an unknown one, which may be NULL. */
static int refuse_option(struct cli *cli, const char *error, const char *unknown)
{
    const char *near = unknown ? command_nearest_option(cli->command, unknown) : NULL;
    return cli_usage(cli, "%s%s%s%s (see attnctl%s%s --help)", error,
                     near ? ": did you mean --" : "", near ? near : "", near ? "?" : "",
                     cli->command ? " " : "", cli->command ? cli->command->name : "");
}

/* Takes the command's name out of argv: what is left are options and arguments. */
static int run_alone(struct cli *cli, const struct command *command, int argc, char **argv, int at)
{
    memmove(argv + at, argv + at + 1, (size_t)(argc - at) * sizeof *argv);
    argc--;
    int word = line_find_word(command, argc, argv);
    if (line_asks_help(command, command->passes_on ? word : argc, argv)) {
        help_print_command(command, word < argc ? command_find_kind(command, argv[word]) : NULL,
                           cli->out);
        return CLI_OK;
    }
    const char *unknown = line_find_unknown(command, argc, argv);
    if (unknown) { /* the command need not know what was meant */
        char error[ARGS_ERROR_MAX];
        snprintf(error, sizeof error, "no option %.100s", unknown);
        return refuse_option(cli, error, unknown);
    }
    if (command->passes_on && word < argc) {
        /* options may stand before the word; to the other program it comes first */
        char *first = argv[word];
        memmove(argv + 2, argv + 1, (size_t)(word - 1) * sizeof *argv);
        argv[1] = first;
    }
    return command->run_alone(cli, argc, argv);
}

static int main_dispatch(struct cli *cli, struct args *args, int argc, char **argv)
{
    char error[ARGS_ERROR_MAX];
    int at = line_find_word(NULL, argc, argv);
    const struct command *command = at < argc ? command_find(argv[at]) : NULL;
    if (at < argc && !command) {
        return help_refuse_command(cli, argv[at]);
    }
    cli->command = command;
    if (command && command->run_alone) {
        return run_alone(cli, command, argc, argv, at);
    }
    if (args_parse(argc, argv, args, error) != 0) {
        return refuse_option(cli, error, args->unknown);
    }
    if (!command || args->given & ARGS_VERSION) {
        /* A command line without a command. */
        bool asked = cli->args->given & ARGS_HELP;
        if (cli->args->given & ARGS_VERSION) {
            fputs("attnctl " ATTND_VERSION "\n", cli->out);
        } else {
            help_print(asked ? cli->out : cli->err);
        }
        return cli->args->given & (ARGS_HELP | ARGS_VERSION) ? CLI_OK : CLI_USAGE;
    }
    if (cli->args->given & ARGS_HELP) {
        help_print_command(command, NULL, cli->out);
        return CLI_OK;
    }
    int code = check_usage(cli, command);
    if (code != CLI_OK) {
        return code;
    }
    return command->offline ? command->run(cli) : cli_run_connected(cli, command->run);
}

int main(int argc, char **argv)
{
    struct args args = {0};
    struct cli cli = {.args = &args, .out = stdout, .err = stderr, .width = out_width(stdout)};
    out_prepare();
    const char *first = argc > 1 ? argv[1] : "";
    int code = strcmp(first, COMPLETE_COMMAND) == 0    ? complete_print(argc - 2, argv + 2, stdout)
               : strcmp(first, PLOT_MAPS_COMMAND) == 0 ? plot_maps(&cli, argc - 2, argv + 2)
                                                       : main_dispatch(&cli, &args, argc, argv);
    return out_end(stdout) ? code : cli_fail(&cli, CLI_FINDING, "cannot write the output");
}
