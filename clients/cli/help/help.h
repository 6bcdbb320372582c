/* SPDX-License-Identifier: MIT */
/* help: the table of commands as text for people. */
#ifndef CLIENTS_CLI_HELP_HELP_H
#define CLIENTS_CLI_HELP_HELP_H

#include "clients/cli/base/commands.h"

/* All commands. */
void help_print(FILE *out);
/* One command; or what it is when its first argument is of a kind, otherwise NULL. */
void help_print_command(const struct command *command, const struct option_kind *kind, FILE *out);

/* One command, or all of them when it is NULL, as JSON. Returns an exit code. */
int help_print_json(struct cli *cli, const struct command *command);

/* Explains that there is no such command; returns CLI_USAGE. */
int help_refuse_command(struct cli *cli, const char *name);

/* Explains a wrong number of arguments by a line of usage; returns CLI_USAGE. */
int help_refuse_words(struct cli *cli, const struct command *command);

#endif
