/* SPDX-License-Identifier: MIT */
/* page: the manual pages of attnctl and its commands, from the table of commands; and one of a
 * program's --help. */
#ifndef CLIENTS_CLI_HELP_PAGES_PAGE_H
#define CLIENTS_CLI_HELP_PAGES_PAGE_H

#include "clients/cli/base/commands.h"

/* attnctl(1) */
void page_of_attnctl(FILE *out);
/* attnctl-COMMAND(1) */
void page_of_command(const struct command *command, FILE *out);

/* attnd(8), of what attnd --help says. */
void page_of_help(const char *help, FILE *out);

#endif
