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

#define BOUNDS_Q_STRIDE 4 /* the revision that has q_stride: others would take rows for a block */
#define BOUNDS_OUTPUT   6 /* the revision that has dout, wo_r and x_norm */
#define BOUNDS_MAPS     9 /* the revision that has maps beside states */
#define BOUNDS_VALUES   8 /* the revision that has v, wo_r and x_norm beside weights */

struct bounds {
    unsigned accepts; /* a bit per message type */
    uint32_t header;  /* revision of its keys */
    uint64_t max_message, max_entries, max_heads;
    uint64_t maps, maps_every; /* cells a side, 0 = none are wanted; ms between those of a layer */
};

/* The strictest of all announced limits; without any, the types of version 1 without bounds. Sets
 * *ret_malformed to how many prefixes were ignored. */
struct bounds bounds_of(const struct prefixes *prefixes, uint64_t *ret_malformed);

/* Whether they take a message of `bytes` bytes, its topic and header included as far as they are
 * known. */
bool bounds_take(const struct bounds *bounds, const struct header *header, uint64_t bytes);

/* Whether they know an event. */
bool bounds_know(const struct bounds *bounds, enum event_type event);

#endif
