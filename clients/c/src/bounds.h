/* SPDX-License-Identifier: MIT */
/* bounds: the limits of daemons, which they announce by subscribing (PROTOCOL.md):
 *
 *     limits/<key=value;...>
 *
 * Pure. */
#ifndef CLIENTS_C_SRC_BOUNDS_H
#define CLIENTS_C_SRC_BOUNDS_H

#include "proto/header.h"
#include "clients/c/src/prefixes.h"

/* The revision of header keys that an attnd has to know: there was no release before it. */
#define BOUNDS_OLDEST 10

struct bounds {
    unsigned accepts; /* a bit per message type */
    uint64_t header;  /* the newest revision of its keys that they know, HEADER_REVISION at most */
    uint64_t max_message, max_entries, max_heads;
};

/* The strictest of all announced limits; without any, the types that are sent to
 * whoever says nothing, without bounds. Sets *ret_malformed to how many prefixes were ignored. */
struct bounds bounds_of(const struct prefixes *prefixes, uint64_t *ret_malformed);

/* Whether they take a message of `bytes` bytes, its topic and header included as far as they are
 * known. */
bool bounds_take(const struct bounds *bounds, const struct header *header, uint64_t bytes);

#endif
