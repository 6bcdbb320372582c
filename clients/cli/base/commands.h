/* SPDX-License-Identifier: MIT */
/* commands: the table of attnctl's commands. Dispatch, --help, the man pages and the completion
 * come from it, so that a command is described once.
 *
 * To add a command: write int cmd_NAME(struct cli *), or of a question show_NAME, in query/NAME.c,
 * declare it in cli.h, add a row to commands.c at the place where --help shall list it, and options
 * that are new to the table of args.c. Its man page, its completion and the test of all commands
 * then come by themselves. */
#ifndef CLIENTS_CLI_BASE_COMMANDS_H
#define CLIENTS_CLI_BASE_COMMANDS_H

#include "clients/cli/base/unknown.h"
#include "clients/cli/base/option.h"

enum command_group {
    COMMANDS_NOW,
    COMMANDS_PAST,
    COMMANDS_ASK,
    COMMANDS_FILES,
    COMMANDS_MORE,
    COMMANDS_GROUPS
};
extern const char *const command_group_title[COMMANDS_GROUPS];

#define COMMAND_EXAMPLES_MAX 3

struct command {
    const char *name;
    const char *arguments; /* as the usage shows them: "JOB FILE"; "" = none */
    const char *words;     /* what completes each of them, see help.h; NULL = nothing does */
    const char *help;      /* one line for the list */
    const char *text;      /* what else there is to say, as one paragraph; NULL = nothing */
    const char *finding;   /* when it ends with 1: "something fires"; NULL = as any command */
    enum command_group group;
    unsigned options;         /* enum args_option, besides ARGS_EVERY_COMMAND */
    int words_min, words_max; /* arguments that it takes */
    bool offline;             /* asks no attnd: `run` is called without a connection */
    bool people;              /* for people alone: --json is not shown, and refused by `run` */
    int (*run)(struct cli *cli);
    /* For a question: the method of the command's name is asked, with the job, and the run,
     * the layer, the range and the limit of its options. See ask_past, ask_limit, cli_show. */
    bool patient;
    uint64_t limit;
    answer_reader *show, *judge;
    const char *examples[COMMAND_EXAMPLES_MAX]; /* a shell's lines */

    /* For commands that read their command line themselves, then without the command's name;
     * otherwise NULL. --help and options that there are none are not theirs to answer. */
    int (*run_alone)(struct cli *cli, int argc, char **argv);
    const struct option_table *own; /* options: theirs */
    /* For commands whose first argument selects the options that apply: the kind of that name, NULL
     * = none; and whether an option of `own` applies to it. */
    const struct option_kind *(*find_kind)(const char *name);
    bool (*takes)(const struct option_kind *kind, const struct option_text *option);
    bool passes_on; /* what follows its first argument is another program's, --help too; it comes
                       first */
    /* Text at most 80 columns wide, in front of and behind the options; NULL = none. */
    void (*print_before)(FILE *out), (*print_after)(FILE *out);
};

extern const struct command commands[];
extern const int command_count;

/* NULL = there is none. */
const struct command *command_find(const char *name);

/* The effect of a command's first argument; NULL when it has none. */
const struct option_kind *command_find_kind(const struct command *command, const char *word);
/* The options that are shown of a command: its own, of a kind (NULL = of all; titles without an
 * option are left out), and the common ones that apply to it. Without a command: those that stand
 * before any. */
struct option_list command_options(const struct command *command, const struct option_kind *kind);

/* The probable meaning of an unknown command name, or of an option ("--jsno") of a command; NULL as
 * command: of any. NULL = nothing is near. */
const char *command_nearest(const char *name);
const char *command_nearest_option(const struct command *command, const char *option);

/* Whether the next word is the value of an option "--name", perhaps abbreviated, of a command;
 * NULL: of whichever command has such an option first. */
bool command_option_takes_next(const struct command *command, const char *option);

/* The first word of argv[1] and behind it that is neither an option of the command nor an option's
 * value; argc = none. The command is NULL as long as nobody knows. */
int line_find_word(const struct command *command, int argc, char *const *argv);

/* Whether --help or -h is among the options of argv[1 .. argc - 1]. */
bool line_asks_help(const struct command *command, int argc, char *const *argv);

/* The first option "--name" that neither the command nor every command has; NULL = none. */
const char *line_find_unknown(const struct command *command, int argc, char *const *argv);

#endif
