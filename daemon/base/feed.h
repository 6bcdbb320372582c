/* SPDX-License-Identifier: MIT */
/* feed: results on their way from the loop thread to the HTTP thread, bounded in bytes. */
#ifndef DAEMON_BASE_FEED_H
#define DAEMON_BASE_FEED_H

#include "proto/header.h"

#include <pthread.h>

/* A published map. Owned by whoever took it; freed with free(). */
struct published {
    struct published *next;
    char topic[TOPIC_MAX];
    size_t size;
    unsigned char map[];
};

struct feed {
    pthread_mutex_t lock;
    struct published *first, **last;
    uint64_t bytes, limit;
    bool lost; /* something found no room since the last feed_take */
};

void feed_init(struct feed *feed, uint64_t limit);
/* Frees what is in it. */
void feed_clear(struct feed *feed);
/* Copies. Returns false when there is no room, or no memory. Any thread. */
bool feed_put(struct feed *feed, const char *topic, const void *map, size_t size);
/* The whole list, oldest first, and whether something was lost before its end. Any thread. */
struct published *feed_take(struct feed *feed, bool *ret_lost);

#endif
