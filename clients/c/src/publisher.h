/* SPDX-License-Identifier: MIT */
/* publisher: the state shared by the trainer's threads and the sending thread.
 *
 *     trainer's threads                          sending thread
 *     reserve -> copy -> put  ── queue ──►  take in subscriptions, send the head, or wait
 *
 * The lock is held for a few instructions, never while anything is copied, encoded, sent or waited
 * for (attn_publisher_wait waits without it). A caller that finds no subscriber takes no lock at
 * all. */
#ifndef CLIENTS_C_SRC_PUBLISHER_H
#define CLIENTS_C_SRC_PUBLISHER_H

#include "clients/c/src/bounds.h"
#include "clients/c/src/link.h"
#include "clients/c/src/message.h"
#include "clients/c/src/plan.h"
#include "proto/header.h"

/* warner: tells the trainer's people what they should know, each thing once, by the function that
 * the options of a publisher name. The same sentences as those of the Python client.
 *
 * The sending thread, without any lock. */

enum warning {
    WARNING_KEY, /* it may not publish the job */
    WARNING_STALLED,
    WARNING_GONE,
};

struct warner {
    void (*say)(void *context, const char *sentence); /* NULL: nobody listens */
    void *context;
    char job[JOB_NAME_MAX + 1];
    unsigned said; /* a bit for each warning */
};

struct attn_publisher {
    /* Fixed while there are several threads. */
    attn_publisher_options options; /* its numbers; the pointers are NULL */
    struct link_target target;
    struct header identity; /* what all headers have in common */
    unsigned fork_generation;
    void *context;
    pthread_t thread;
    int wake;                    /* eventfd: something to do */
    attn_publisher *next_orphan; /* of those a fork has left behind */

    /* Any thread, without the lock. */
    _Atomic bool has_tensor_reader; /* somebody has subscribed to a layer of this job */
    _Atomic bool stalled;           /* the daemon is there and takes nothing */
    _Atomic uint64_t skipped;       /* messages that did not get as far as the lock */
    _Atomic uint64_t queued_bytes;  /* also taken from by ZeroMQ's thread */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* subscriptions */

    /* Under the lock. */
    struct wire_message *first, **last; /* the queue; owned */
    bool asleep;                        /* the sending thread waits for `wake` */
    bool closing;
    uint64_t deadline_ms; /* when closing: to stop trying */
    uint64_t epoch, step;
    struct topics topics;
    struct topic events;
    uint64_t tensors_dropped;       /* of all topics: what events tell */
    bool untold;                    /* no event has told the newest of them yet */
    attn_publisher_counts counts;   /* without `skipped` above */
    struct layer_info *next_layers; /* owned; a hello that the sending thread has not seen yet */
    uint32_t next_layer_count;
    bool has_next_layers, has_hello, hello_due;

    /* Written by the sending thread under the lock; it may read them without. */
    struct prefixes prefixes; /* what is subscribed */
    bool has_event_reader, has_plan;
    attn_plan plan;
    struct bounds bounds;
    uint64_t bad_bounds, bad_plans;
    uint64_t generation; /* counts changes of the above, from 1 */
    uint64_t notice_ms;  /* when the last notice came */

    /* The sending thread's alone. */
    struct link link;
    struct warner warner;
    char home[ADDRESS_MAX]; /* where tensors were last wanted; "": nowhere */
    uint64_t left_ms;       /* when the end of that was seen; 0: it has not ended */
    struct {
        uint64_t look_ms; /* 0: not */
        uint64_t sent;
        bool judged;
    } hope; /* see sender_look_whether_admitted */
    bool plans_changed, hello_asked;
    struct layer_info *layers; /* owned; what hello says */
    uint32_t layer_count;
    uint64_t blocked_since_ms; /* 0: not */
    uint64_t look_ms;          /* when to see whether a sign of life is due */
    uint64_t said_epoch, said_step;
    uint64_t told_ms; /* when an event last told, or was to tell, what was dropped */
};

/* ---- sender.c ---- */

/* Both before the thread runs or after it has ended. Returns as link_open. */
int sender_open(attn_publisher *publisher);
void sender_close(attn_publisher *publisher, uint32_t linger_ms);

/* The thread: until `closing` and the queue is empty, or its deadline. */
void *sender_run(void *publisher);

/* ---- publisher.c ---- */

/* Whether this process is a fork's child, and the publisher its parent's. */
bool publisher_is_orphan(const attn_publisher *publisher);

bool layer_valid(attn_stack stack, uint32_t layer, attn_site site);
struct layer_id layer_id_of(attn_stack stack, uint32_t layer, attn_site site);

/* ---- queue.c ---- */

/* Where the training is. */
void publisher_position(attn_publisher *publisher, uint64_t *ret_epoch, uint64_t *ret_step);

/* Counts a message that nobody wants. Returns ATTN_SKIPPED. */
int queue_skip(attn_publisher *publisher);

/* Copies and queues a tensor message; counts it. Returns as the publishing calls do. */
int queue_put(attn_publisher *publisher, const struct parcel *parcel);

/* Wakes the thread when it was asleep: a system call, and so without the lock. */
void queue_wake(attn_publisher *publisher, bool asleep);

/* The rest under the lock. */

/* Counts a message that is dropped, and why. A tensor's topic is NULL when there is no memory for
 * it. Returns as queue_rouse when the sending thread is to tell of it. */
bool queue_drop(attn_publisher *publisher, struct topic *topic, int rc);
/* Refreshes what the subscriptions and the plan say of a layer. */
void queue_look_up(attn_publisher *publisher, struct topic *topic);
/* Takes a message that has been counted. Returns as queue_rouse. */
bool queue_append(attn_publisher *publisher, struct wire_message *message);
/* Returns what queue_wake is to be told. */
bool queue_rouse(attn_publisher *publisher);
/* When the thread has ended. */
void queue_clear(attn_publisher *publisher);

#endif
