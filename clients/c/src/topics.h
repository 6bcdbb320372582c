/* SPDX-License-Identifier: MIT */
/* topics: the counters of every layer that was ever asked about. One thread at a time. */
#ifndef CLIENTS_C_SRC_TOPICS_H
#define CLIENTS_C_SRC_TOPICS_H

#include "proto/header.h"

struct topic {
    struct layer_id id;
    uint64_t seq, dropped; /* of the next message */
    /* The decision of subscriptions and plan for it, as of their `generation`; 0: not looked up
     * yet. */
    uint64_t generation;
    bool subscribed, planned;
};

struct topics {
    void *root; /* of libc's tree (tsearch); owns the topics */
};

/* The topic of a layer, made when it is new. It stays where it is until topics_clear. NULL when out
 * of memory. At most LAYER_MAX * 4 can be. */
struct topic *topics_get(struct topics *topics, struct layer_id id);
void topics_clear(struct topics *topics);

#endif
