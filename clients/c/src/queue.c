/* SPDX-License-Identifier: MIT */
/* The way of a message to the sending thread.
 *
 * It is counted as published when it comes, and leaves in exactly one of four ways: it is skipped,
 * dropped, sent, or still queued. Bytes are reserved before they are copied, so that threads that
 * copy at the same time cannot overrun the bound together. */
#include "clients/c/src/publisher.h"

#include <unistd.h>

bool queue_rouse(attn_publisher *publisher)
{
    bool asleep = publisher->asleep;
    publisher->asleep = false;
    return asleep;
}

void queue_wake(attn_publisher *publisher, bool asleep)
{
    const uint64_t one = 1;
    if (asleep) {
        (void)!write(publisher->wake, &one, sizeof one); /* cannot be full */
    }
}

void publisher_position(attn_publisher *publisher, uint64_t *ret_epoch, uint64_t *ret_step)
{
    pthread_mutex_lock(&publisher->lock);
    *ret_epoch = publisher->epoch;
    *ret_step = publisher->step;
    pthread_mutex_unlock(&publisher->lock);
}

int queue_skip(attn_publisher *publisher)
{
    atomic_fetch_add_explicit(&publisher->skipped, 1, memory_order_relaxed);
    return ATTN_SKIPPED;
}

/* Under the lock. */
static bool queue_has_room(const attn_publisher *publisher, uint64_t bytes)
{
    uint64_t max = publisher->options.max_queued_bytes;
    return !publisher->stalled &&
           publisher->counts.queued < publisher->options.max_queued_messages && bytes <= max &&
           atomic_load(&publisher->queued_bytes) <= max - bytes;
}

void queue_look_up(attn_publisher *publisher, struct topic *topic)
{
    char name[TOPIC_MAX];
    if (topic->generation == publisher->generation) {
        return;
    }
    topic_layer("tensor", publisher->identity.job, topic->id, name);
    topic->subscribed = prefixes_match(&publisher->prefixes, name);
    topic->planned = plan_takes_layer(&publisher->plan, topic->id);
    topic->generation = publisher->generation;
}

bool queue_drop(attn_publisher *publisher, struct topic *topic, int rc)
{
    publisher->counts.dropped++;
    publisher->counts.too_large += rc == ATTN_E_TOO_LARGE;
    if (topic) {
        topic->dropped++;
    }
    if (topic == &publisher->events) {
        return false;
    }
    publisher->tensors_dropped++;
    bool first = !publisher->untold;
    publisher->untold = true;
    return first && publisher->has_event_reader && queue_rouse(publisher);
}

/* Counts a message that came, and reserves its place. Under the lock. Returns 0, ATTN_SKIPPED,
 * ATTN_E_DROPPED, ATTN_E_TOO_LARGE or ATTN_E_MEMORY: these are for the caller to count. */
static int take_place(attn_publisher *publisher, struct topic *topic, const struct parcel *parcel)
{
    publisher->counts.published++;
    if (!topic) {
        return ATTN_E_MEMORY;
    }
    queue_look_up(publisher, topic);
    if (!topic->subscribed) {
        publisher->counts.skipped++;
        return ATTN_SKIPPED;
    }
    if (!bounds_take(&publisher->bounds, &parcel->header, parcel->bytes)) {
        return ATTN_E_TOO_LARGE;
    }
    if (!queue_has_room(publisher, parcel->bytes)) {
        return ATTN_E_DROPPED;
    }
    publisher->counts.queued++;
    atomic_fetch_add(&publisher->queued_bytes, parcel->bytes);
    return 0;
}

bool queue_append(attn_publisher *publisher, struct wire_message *message)
{
    *publisher->last = message;
    publisher->last = &message->next;
    return queue_rouse(publisher);
}

int queue_put(attn_publisher *publisher, const struct parcel *parcel)
{
    struct wire_message *message;
    bool asleep = false;
    pthread_mutex_lock(&publisher->lock);
    struct topic *topic = topics_get(&publisher->topics, parcel->header.layer);
    int rc = take_place(publisher, topic, parcel);
    if (rc < 0) {
        asleep = queue_drop(publisher, topic, rc);
    }
    pthread_mutex_unlock(&publisher->lock);
    queue_wake(publisher, asleep);
    if (rc) {
        return rc;
    }
    rc = message_new(parcel, &publisher->queued_bytes, &message);
    pthread_mutex_lock(&publisher->lock);
    if (rc == 0) {
        message->topic = topic;
        asleep = queue_append(publisher, message);
    } else {
        /* A place was reserved, but the message could not be made: dropped, or an argument that was
         * found out late, which is nobody's loss but not published. */
        publisher->counts.queued--;
        if (rc == ATTN_E_ARGUMENT) {
            publisher->counts.published--;
        } else {
            asleep = queue_drop(publisher, topic, rc);
        }
    }
    pthread_mutex_unlock(&publisher->lock);
    queue_wake(publisher, asleep);
    return rc;
}

void queue_clear(attn_publisher *publisher)
{
    while (publisher->first) {
        struct wire_message *message = publisher->first;
        publisher->first = message->next;
        message_free(message);
    }
}
