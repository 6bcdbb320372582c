/* SPDX-License-Identifier: MIT */
/* help: the table of commands as text for people. */
#ifndef CLIENTS_CLI_HELP_HELP_H
#define CLIENTS_CLI_HELP_HELP_H

#include "clients/cli/base/commands.h"

/* All commands. */
void help_print(FILE *out);
/* One command; or what it is when its first argument is of a kind, otherwise NULL. */
void help_print_command(const struct command *command, const struct option_kind *kind, FILE *out);

/* Explains that there is no such command; returns CLI_USAGE. */
int help_refuse_command(struct cli *cli, const char *name);

/* Explains a wrong number of arguments by a line of usage; returns CLI_USAGE. */
int help_refuse_words(struct cli *cli, const struct command *command);

/* complete: candidates for the word being typed, for the shells' completion.
 *
 * The shells' scripts (completion/) know nothing of the commands: they ask
 *
 *     attnctl __complete WORD...
 *
 * with the words behind attnctl as far as the cursor; the last one, perhaps empty, is to be
 * completed. Each line of the answer is a candidate, perhaps with its meaning behind a tab. The
 * line ":FILE" means that names of files may follow, too. An answer that ends with "=" or "/" is to
 * be continued without a blank.
 *
 * The table of commands gives the kind of each argument, the tables of options the kind of each
 * value, by one word:
 *
 *     encoder|decoder      one of these
 *     core|pairs|all,      several of these with commas between them
 *     FILE                 the name of a file or directory
 *     METRIC, COMMAND      a metric, a command
 *     JOB, LAYER           nothing: only attnd knows them, and it is not asked
 *     FILE|JOB             either
 *     FILE...              the same for all that follow */
#define COMPLETE_COMMAND "__complete"

/* Prints the answer. Returns an exit code: CLI_OK, whatever the words are. */
int complete_print(int argc, char **argv, FILE *out);

#endif
