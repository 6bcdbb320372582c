/* SPDX-License-Identifier: MIT */
#include "daemon/http/ring.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The size of "id: 01234567-18446744073709551615\nevent: summary\ndata: \n\n". */
#define FRAME_MAX 80

const char *const event_kind_name[EVENT_KINDS] = {
    [EVENT_LIVE] = "live", [EVENT_SUMMARY] = "summary", [EVENT_ALERT] = "alert",
    [EVENT_JOB] = "job",   [EVENT_LOGGED] = "log",
};

int event_kind_find(const char *word, size_t length)
{
    for (int kind = 0; kind < EVENT_KINDS; kind++) {
        if (strlen(event_kind_name[kind]) == length &&
            strncmp(word, event_kind_name[kind], length) == 0) {
            return kind;
        }
    }
    return -1;
}

void ring_init(struct ring *ring, uint64_t limit)
{
    *ring = (struct ring){.oldest = 1, .limit = limit};
}

void event_release(struct event **event_p)
{
    struct event *event = *event_p;
    *event_p = NULL;
    if (event && --event->references == 0) {
        free(event);
    }
}

static struct event **slot_of(const struct ring *ring, uint64_t number)
{
    return &ring->slots[number & (ring->capacity - 1)];
}

static uint64_t ring_cost(const struct event *event)
{
    return sizeof *event + event->size;
}

static bool ring_is_empty(const struct ring *ring)
{
    return ring->oldest > ring->newest;
}

static void remove_oldest(struct ring *ring)
{
    struct event **slot = slot_of(ring, ring->oldest++);
    ring->bytes -= ring_cost(*slot);
    event_release(slot);
}

static void empty(struct ring *ring)
{
    while (!ring_is_empty(ring)) {
        remove_oldest(ring);
    }
}

void ring_clear(struct ring *ring)
{
    empty(ring);
    free(ring->slots);
    ring->slots = NULL;
    ring->capacity = 0;
}

static struct event *event_new(uint32_t boot, uint64_t number, enum event_kind kind,
                               const char *job, const char *data)
{
    size_t room = strlen(data) + FRAME_MAX;
    struct event *event = malloc(sizeof *event + room);
    if (!event) {
        return NULL;
    }
    event->references = 1;
    event->kind = kind;
    snprintf(event->job, sizeof event->job, "%s", job);
    event->size = (size_t)snprintf(event->text, room,
                                   "id: %08" PRIx32 "-%" PRIu64 "\nevent: %s\ndata: %s\n\n", boot,
                                   number, event_kind_name[kind], data);
    return event;
}

/* Room for one more. Returns false when out of memory. */
static bool ring_make_room(struct ring *ring)
{
    uint64_t count = ring->newest + 1 - ring->oldest;
    if (count < ring->capacity) {
        return true;
    }
    struct ring grown = *ring;
    grown.capacity = ring->capacity ? 2 * ring->capacity : 64;
    grown.slots = malloc(grown.capacity * sizeof *grown.slots);
    if (!grown.slots) {
        return false;
    }
    for (uint64_t number = ring->oldest; number <= ring->newest; number++) {
        *slot_of(&grown, number) = *slot_of(ring, number);
    }
    free(ring->slots);
    *ring = grown;
    return true;
}

void ring_skip(struct ring *ring)
{
    empty(ring);
    ring->newest++;
    ring->oldest = ring->newest + 1;
}

void ring_put(struct ring *ring, uint32_t boot, enum event_kind kind, const char *job,
              const char *data)
{
    struct event *event =
        ring_make_room(ring) ? event_new(boot, ring->newest + 1, kind, job, data) : NULL;
    if (!event) {
        ring_skip(ring);
        return;
    }
    ring->newest++;
    *slot_of(ring, ring->newest) = event;
    ring->bytes += ring_cost(event);
    while (!ring_is_empty(ring) && ring->bytes > ring->limit) {
        remove_oldest(ring);
    }
}

struct event *ring_next(const struct ring *ring, const struct event_filter *filter, uint64_t *from,
                        bool *ret_missed)
{
    *ret_missed = *from < ring->oldest;
    if (*ret_missed) {
        *from = ring->newest + 1;
        return NULL;
    }
    while (*from <= ring->newest) {
        struct event *event = *slot_of(ring, (*from)++);
        if ((filter->kinds & 1u << event->kind) &&
            (!*filter->job || strcmp(filter->job, event->job) == 0) &&
            access_jobs_match(filter->visitor.jobs, event->job)) {
            event->references++;
            return event;
        }
    }
    return NULL;
}
