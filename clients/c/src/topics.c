/* SPDX-License-Identifier: MIT */
#include "clients/c/src/topics.h"

#include <search.h>
#include <stdlib.h>

static int topics_order(const void *a, const void *b)
{
    uint32_t x = header_layer_key(((const struct topic *)a)->id);
    uint32_t y = header_layer_key(((const struct topic *)b)->id);
    return (x > y) - (x < y);
}

struct topic *topics_get(struct topics *topics, struct layer_id id)
{
    struct topic wanted = {.id = id}, *topic;
    struct topic *const *found = tfind(&wanted, &topics->root, topics_order);
    if (found) {
        return *found;
    }
    topic = calloc(1, sizeof *topic);
    if (!topic) {
        return NULL;
    }
    topic->id = id;
    if (!tsearch(topic, &topics->root, topics_order)) {
        free(topic);
        return NULL;
    }
    return topic;
}

void topics_clear(struct topics *topics)
{
    tdestroy(topics->root, free);
    topics->root = NULL;
}
