/* SPDX-License-Identifier: MIT */
/* unknown: builds "unknown X; did you mean Y?" for a name that does not exist. One thread. */
#ifndef CLIENTS_CLI_BASE_UNKNOWN_H
#define CLIENTS_CLI_BASE_UNKNOWN_H

#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"

/* The word, of several, that a mistyped one probably means. */

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

/* Names that a sentence lists at most. */
#define UNKNOWN_LISTED 10

struct unknown {
    struct nearest nearest;
    char best[FIELD_NAME_MAX];                        /* "" = nothing is near */
    char list[UNKNOWN_LISTED * (FIELD_NAME_MAX + 2)]; /* of the first ones, with commas */
    uint32_t count;
};

void unknown_init(struct unknown *unknown, const char *name);
/* Adds one that there is; each once. */
void unknown_add(struct unknown *unknown, const char *name);

/* The text behind the name: ": did you mean 'entropy'?"; or " (valid: entropy, variance, ..., 85 in
 * all: see attnctl summary gpt --json)", where `see` names the command that lists all of them. */
#define UNKNOWN_TEXT_MAX 1280
void unknown_text(const struct unknown *unknown, const char *see, char ret_text[UNKNOWN_TEXT_MAX]);

/* Refuses the --metric that no layer of an answer of `windows` has. Returns CLI_OK, also when the
 * answer has no layer, or CLI_USAGE. */
int unknown_in_run(struct cli *cli, const msgpack_object *result);

/* Where nobody can be asked which metrics there are: refuses a --metric that is unknown and near
 * one that is known. A name far from all may be of a newer attnd. Returns CLI_OK or CLI_USAGE. */
int unknown_check_metric(struct cli *cli);

#endif
