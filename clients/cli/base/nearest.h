/* SPDX-License-Identifier: MIT */
/* nearest: finds the word, of several, that a mistyped word probably means. Pure; any thread. */
#ifndef CLIENTS_CLI_BASE_NEAREST_H
#define CLIENTS_CLI_BASE_NEAREST_H

#define NEAREST_FAR 64

struct nearest {
    char text[NEAREST_FAR + 1]; /* what was written */
    const char *best;           /* borrowed; NULL = nothing is near */
    int distance;               /* of the best */
};

void nearest_init(struct nearest *nearest, const char *text);
/* The name counts in "--name" and in "--name=value". */
void nearest_init_option(struct nearest *nearest, const char *option);

/* Considers one that is valid: what was written may be its beginning, or differ by few letters, or
 * abbreviate it. The first of equally near ones stays. */
void nearest_try(struct nearest *nearest, const char *word);

/* Insertions, deletions, replacements and swaps of neighbours that make one text of the other; at
 * most NEAREST_FAR, which is also said of texts longer than 63. */
int nearest_distance(const char *a, const char *b);

#endif
