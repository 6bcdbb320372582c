/* SPDX-License-Identifier: MIT */
/* nearest: which of several words somebody may have meant. Pure; any thread. */
#ifndef CLIENTS_CLI_BASE_NEAREST_H
#define CLIENTS_CLI_BASE_NEAREST_H

#define NEAREST_FAR 64

struct nearest {
    char text[NEAREST_FAR + 1]; /* what was written */
    const char *best;           /* borrowed; NULL = nothing is near */
    int distance;               /* of the best */
};

void nearest_init(struct nearest *nearest, const char *text);
/* Of "--name" or "--name=value" it is the name that counts. */
void nearest_init_option(struct nearest *nearest, const char *option);

/* Considers one that is valid: what was written may be its beginning, or differ by few letters, or
 * abbreviate it. Of equally near ones the first stays. */
void nearest_try(struct nearest *nearest, const char *word);

/* Insertions, deletions, replacements and swaps of neighbours that make one text of the other; at
 * most NEAREST_FAR, which is also said of texts longer than 63. */
int nearest_distance(const char *a, const char *b);

#endif
