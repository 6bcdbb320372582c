/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/line.h"

#include <string.h>

/* "-" is a word: it stands for standard input. */
static bool is_option(const char *text)
{
    return text[0] == '-' && text[1] != '\0';
}

int line_find_word(const struct command *command, int argc, char *const *argv)
{
    int at = 1;
    while (at < argc && is_option(argv[at])) {
        if (strcmp(argv[at], "--") == 0) {
            return at + 1;
        }
        at += 1 + command_option_takes_next(command, argv[at]);
    }
    return at < argc ? at : argc;
}

bool line_asks_help(const struct command *command, int argc, char *const *argv)
{
    for (int at = 1; at < argc; at++) {
        if (strcmp(argv[at], "--") == 0) {
            return false;
        }
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            return true;
        }
        if (is_option(argv[at])) {
            at += command_option_takes_next(command, argv[at]);
        }
    }
    return false;
}

const char *line_find_unknown(const struct command *command, int argc, char *const *argv)
{
    for (int at = 1; at < argc && strcmp(argv[at], "--") != 0; at++) {
        bool option = strncmp(argv[at], "--", 2) == 0;
        if (option && !command_has_option(command, argv[at])) {
            return argv[at];
        }
        if (option) {
            at += command_option_takes_next(command, argv[at]);
        }
    }
    return NULL;
}
