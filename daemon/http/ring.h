/* SPDX-License-Identifier: MIT */
/* ring: the newest events of the event stream as text, shared by all its clients.
 *
 * Events are numbered from 1. The ring holds the newest ones that fit in a number of bytes; a
 * client is a number: of the event it wants next. The holder of a reference may go on reading an
 * event that has left the ring. Pure; one thread. */
#ifndef DAEMON_HTTP_RING_H
#define DAEMON_HTTP_RING_H

#include "daemon/http/guard.h"
#include "proto/header.h"

enum event_kind { EVENT_LIVE, EVENT_SUMMARY, EVENT_ALERT, EVENT_JOB, EVENT_LOGGED, EVENT_KINDS };
extern const char *const event_kind_name[EVENT_KINDS];
/* -1: it is none. */
int event_kind_find(const char *word, size_t length);

struct event {
    uint32_t references;
    enum event_kind kind;
    char job[JOB_NAME_MAX + 1];
    size_t size;
    char text[]; /* as it is sent */
};

struct ring {
    struct event **slots; /* by number modulo capacity, a power of two; owned */
    uint64_t capacity;
    uint64_t oldest, newest; /* numbers; empty when oldest > newest */
    uint64_t bytes, limit;
};

/* The events that a client has selected, and may see. */
struct event_filter {
    char job[JOB_NAME_MAX + 1]; /* "" = all */
    unsigned kinds;             /* bits */
    struct guard_visitor visitor;
};

void ring_init(struct ring *ring, uint64_t limit);
void ring_clear(struct ring *ring);
/* Appends an event with `id: <boot>-<number>`; `data` is one line of JSON. When it cannot be kept
 * its number is used up all the same, so that clients notice. */
void ring_put(struct ring *ring, uint32_t boot, enum event_kind kind, const char *job,
              const char *data);
/* An event happened that nobody listened to: its number is used up, and the ring is empty. */
void ring_skip(struct ring *ring);
/* The first event from number `*from` on that the filter lets through, with a reference; *from is
 * then the number after it. NULL when there is none (*from is then newest + 1). *ret_missed: events
 * between have left the ring; *from is then newest + 1, too. */
struct event *ring_next(const struct ring *ring, const struct event_filter *filter, uint64_t *from,
                        bool *ret_missed);
/* Accepts NULL. */
void event_release(struct event **event);

#endif
