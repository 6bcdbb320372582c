/* SPDX-License-Identifier: MIT */
/* prefixes: the set of topic prefixes somebody has subscribed to. One thread. */
#ifndef CLIENTS_C_SRC_PREFIXES_H
#define CLIENTS_C_SRC_PREFIXES_H

#include <stdbool.h>
#include <stddef.h>

/* A plan names at most two topics per layer; beyond this many prefixes the rest is not wanted. */
#define PREFIXES_MAX 4096

struct prefix {
    char *text;
    size_t len;
};

struct prefixes {
    struct prefix *items; /* owned; unordered */
    size_t count;
};

/* Applies an XPUB notice: 0x01 prefix adds, 0x00 prefix removes; anything else is ignored. Returns
 * false when there was no memory for an addition. */
bool prefixes_apply(struct prefixes *prefixes, const void *notice, size_t len);

/* Whether the topic begins with any of them. O(prefixes): a handful in practice. */
bool prefixes_match(const struct prefixes *prefixes, const char *topic);

/* Whether anything below a root ("tensor/job/") is asked for: a prefix of the root, or one it is a
 * prefix of. */
bool prefixes_touch(const struct prefixes *prefixes, const char *root);

/* Whether this is one of them. */
bool prefixes_have(const struct prefixes *prefixes, const char *text);

/* Empties the set. */
void prefixes_clear(struct prefixes *prefixes);

#endif
