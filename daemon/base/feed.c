/* SPDX-License-Identifier: MIT */
#include "daemon/base/feed.h"

#include <stdlib.h>
#include <string.h>

void feed_init(struct feed *feed, uint64_t limit)
{
    *feed = (struct feed){.limit = limit};
    feed->last = &feed->first;
    pthread_mutex_init(&feed->lock, NULL); /* cannot fail for a default mutex on Linux */
}

void feed_clear(struct feed *feed)
{
    while (feed->first) {
        struct published *next = feed->first->next;
        free(feed->first);
        feed->first = next;
    }
    pthread_mutex_destroy(&feed->lock);
}

bool feed_put(struct feed *feed, const char *topic, const void *map, size_t size)
{
    struct published *item = NULL;
    if (strlen(topic) < sizeof item->topic) {
        item = malloc(sizeof *item + size);
    }
    if (item) {
        item->next = NULL;
        item->size = size;
        strcpy(item->topic, topic);
        memcpy(item->map, map, size);
    }
    pthread_mutex_lock(&feed->lock);
    bool fits = item && feed->bytes + sizeof *item + size <= feed->limit;
    if (fits) {
        *feed->last = item;
        feed->last = &item->next;
        feed->bytes += sizeof *item + size;
    } else {
        feed->lost = true;
    }
    pthread_mutex_unlock(&feed->lock);
    if (!fits) {
        free(item);
    }
    return fits;
}

struct published *feed_take(struct feed *feed, bool *ret_lost)
{
    pthread_mutex_lock(&feed->lock);
    struct published *first = feed->first;
    *ret_lost = feed->lost;
    feed->first = NULL;
    feed->last = &feed->first;
    feed->bytes = 0;
    feed->lost = false;
    pthread_mutex_unlock(&feed->lock);
    return first;
}
