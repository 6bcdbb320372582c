/* SPDX-License-Identifier: MIT */
/* line: where the words are in a command line that no parser has read yet: which command it is
 * decides who reads it. Pure; any thread. */
#ifndef CLI_LINE_H
#define CLI_LINE_H

#include <stdbool.h>

/* The first word at `at` or behind it that is neither an option nor an option's value; argc = none.
 */
int line_find_word(int argc, char *const *argv, int at);

/* Whether --help or -h is among the options of argv[1 .. argc - 1]. */
bool line_asks_help(int argc, char *const *argv);

#endif
