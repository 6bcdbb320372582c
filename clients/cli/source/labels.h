/* SPDX-License-Identifier: MIT */
/* labels: the texts of tokens, as valid UTF-8: bytes that are not become U+FFFD. One thread. */
#ifndef CLIENTS_CLI_SOURCE_LABELS_H
#define CLIENTS_CLI_SOURCE_LABELS_H

#include "proto/mpk.h"

/* More are no text that somebody looks at. */
#define LABELS_MAX 16777216

/* A zeroed struct is empty. */
struct labels {
    char **items; /* [count]; owned */
    uint32_t count, room;
};

/* Adds a copy. Returns 0, ERR_MEMORY, or ERR_TOO_LARGE when there are LABELS_MAX; so do the next
 * three. */
int labels_add(struct labels *labels, const char *text, size_t len);
/* Adds each of a list of texts; what is none is left out. */
int labels_add_list(struct labels *labels, const msgpack_object *list);
/* Adds the words between blanks. */
int labels_add_words(struct labels *labels, const char *text);
/* Adds the lines of a file; an empty one is an empty text. Returns also -1, with errno. */
int labels_add_file(struct labels *labels, const char *path);
/* NULL when there is none. */
const char *labels_get(const struct labels *labels, uint32_t index);
void labels_clear(struct labels *labels);

#endif
