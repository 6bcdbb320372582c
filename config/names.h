/* SPDX-License-Identifier: MIT */
/* names: the valid names, for messages about unknown ones. Private to config/. Pure; any thread. */
#ifndef CONFIG_NAMES_H
#define CONFIG_NAMES_H

#include "config/config.h"

/* Number of single-character edits between two names; names beyond 31 bytes count as far away. */
unsigned names_distance(const char *a, const char *b);

/* The names a user could have written, and the closest one. */
struct names {
    char list[CONFIG_ERROR_MAX / 2]; /* comma-separated */
    size_t used;
    const char *wanted, *closest;
    unsigned distance;
};

/* Begin with {.wanted = ..., .distance = 32}. */
void names_add(struct names *names, const char *name);

/* "; did you mean budget?" when a name is within two edits, else "". */
const char *names_guess(const struct names *names, char ret_text[64]);

#endif
