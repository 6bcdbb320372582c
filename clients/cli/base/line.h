/* SPDX-License-Identifier: MIT */
/* line: where the words are in a command line that no parser has read yet: which command it is
 * decides who reads it. Pure; any thread. */
#ifndef CLIENTS_CLI_BASE_LINE_H
#define CLIENTS_CLI_BASE_LINE_H

#include "clients/cli/base/commands.h"

/* The first word of argv[1] and behind it that is neither an option of the command nor an option's
 * value; argc = none. The command is NULL as long as nobody knows. */
int line_find_word(const struct command *command, int argc, char *const *argv);

/* Whether --help or -h is among the options of argv[1 .. argc - 1]. */
bool line_asks_help(const struct command *command, int argc, char *const *argv);

/* The first option "--name" that neither the command nor every command has; NULL = none. */
const char *line_find_unknown(const struct command *command, int argc, char *const *argv);

#endif
