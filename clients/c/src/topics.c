/* SPDX-License-Identifier: MIT */
#include "clients/c/src/topics.h"

#include <stdlib.h>

static size_t topics_key_of(struct layer_id id)
{
    return (size_t)id.layer * 4 + (size_t)id.stack * 2 + (size_t)id.site;
}

/* Where the topic is or belongs: layers are small numbers in a row, so they seldom collide. */
static size_t topics_place(const struct topics *topics, struct layer_id id)
{
    size_t at = topics_key_of(id) & (topics->capacity - 1);
    while (topics->slots[at] && topics_key_of(topics->slots[at]->id) != topics_key_of(id)) {
        at = (at + 1) & (topics->capacity - 1);
    }
    return at;
}

static bool topics_grow(struct topics *topics)
{
    struct topics larger = {.capacity = topics->capacity ? 2 * topics->capacity : 64};
    if (2 * topics->count < topics->capacity) {
        return true;
    }
    larger.slots = calloc(larger.capacity, sizeof(struct topic *));
    if (!larger.slots) {
        return false;
    }
    for (size_t i = 0; i < topics->capacity; i++) {
        if (topics->slots[i]) {
            larger.slots[topics_place(&larger, topics->slots[i]->id)] = topics->slots[i];
        }
    }
    larger.count = topics->count;
    free(topics->slots);
    *topics = larger;
    return true;
}

struct topic *topics_get(struct topics *topics, struct layer_id id)
{
    struct topic *topic = topics->capacity ? topics->slots[topics_place(topics, id)] : NULL;

    if (topic || !topics_grow(topics)) {
        return topic;
    }
    topic = calloc(1, sizeof *topic);
    if (topic) {
        topic->id = id;
        topics->slots[topics_place(topics, id)] = topic;
        topics->count++;
    }
    return topic;
}

void topics_clear(struct topics *topics)
{
    for (size_t i = 0; i < topics->capacity; i++) {
        free(topics->slots[i]);
    }
    free(topics->slots);
    *topics = (struct topics){0};
}
