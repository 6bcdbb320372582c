/* SPDX-License-Identifier: MIT */
/* The thread that owns the XPUB socket.
 *
 * Sends are ZMQ_DONTWAIT with NODROP, so that a full pipe is an error we can count instead of a
 * silent loss. An XPUB claims to be writable when its pipe is full, so when to try again cannot be
 * polled for: the pause grows from 1 to 50 ms. Nothing is queued for a daemon that is not there
 * (IMMEDIATE), and one that hangs is noticed by its pings, which end; an older one sends none: a
 * pipe that takes nothing for STALLED_MS is `stalled`, and until it moves again nothing is copied
 * for it.
 *
 * seq counts what was handed to ZeroMQ, per topic, without gaps; dropped counts what was not, and
 * travels with the topic's next message. So the daemon can tell a lost connection (a gap) from a
 * slow reader (dropped).
 *
 * Nobody else writes the prefixes and the plan, so they are read here without the lock. */
#include "clients/c/src/publisher.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

/* Larger than any notice of a subscription: a plan has 1024 bytes. */
#define NOTICE_BYTES_MAX 4096
/* Messages in ZeroMQ's own pipe. Enough to be busy with between two looks at it. */
#define PIPE_MESSAGES 64
#define PAUSE_MIN_MS  1
#define PAUSE_MAX_MS  50
#define STALLED_MS    3000
/* How often events tell what was dropped when there is nothing else to say. */
#define TELL_MS 5000
/* Returned by try_send: the message waits for room. */
#define WAITS 2
/* After which a socket that could not be made is tried again. */
#define REOPEN_MS 1000
/* How long the connection outlives what was sent last. */
#define FAREWELL_MS 100

/* ---- the socket ---- */

int sender_open(attn_publisher *publisher)
{
    const struct socket_option options[] = {
        {ZMQ_IMMEDIATE, 1},
        {ZMQ_XPUB_NODROP, 1},
        {ZMQ_SNDHWM, PIPE_MESSAGES},
        {ZMQ_LINGER, (int)publisher->options.linger_ms},
        {ZMQ_HANDSHAKE_IVL, 5000},
        {ZMQ_RECONNECT_IVL, 100},
        {ZMQ_RECONNECT_IVL_MAX, 2000},
    };
    return link_open(&publisher->link, publisher->context, ZMQ_XPUB, options,
                     sizeof options / sizeof options[0], NOTICE_BYTES_MAX, &publisher->target);
}

void sender_close(attn_publisher *publisher, uint32_t linger_ms)
{
    int linger = (int)linger_ms;
    if (publisher->link.socket) {
        zmq_setsockopt(publisher->link.socket, ZMQ_LINGER, &linger, sizeof linger);
    }
    link_close(&publisher->link);
    prefixes_clear(&publisher->prefixes);
}

/* ---- a new socket ---- */

/* When a message was left half sent, or there was no memory for a subscription: they come anew with
 * the connection. */
static void sender_replace_socket(attn_publisher *publisher)
{
    link_close(&publisher->link);
    pthread_mutex_lock(&publisher->lock);
    prefixes_clear(&publisher->prefixes);
    pthread_mutex_unlock(&publisher->lock);
    publisher->plans_changed = true;
    sender_follow(publisher); /* of none */
    (void)sender_open(publisher);
}

/* ---- one message ---- */

/* One attempt. Returns 0, WAITS, or why it is dropped. */
static int try_send(attn_publisher *publisher, struct wire_message *message)
{
    struct header *header = &message->header;
    bool cut_short = false;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    header->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    pthread_mutex_lock(&publisher->lock);
    header->seq = message->topic->seq;
    header->dropped = message->topic->dropped;
    header->dropped_total = publisher->bounds.header >= 2 ? publisher->tensors_dropped : 0;
    if (header->type == MESSAGE_EVENT && header->event == EVENT_HELLO) {
        /* A hello repeats the last announcement. */
        if (publisher->has_next_layers) {
            free(publisher->layers);
            publisher->layers = publisher->next_layers;
            publisher->layer_count = publisher->next_layer_count;
            publisher->next_layers = NULL;
            publisher->has_next_layers = false;
        }
        header->layers = publisher->layers;
        header->layer_count = publisher->layer_count;
        strcpy(header->client, "libattn/" ATTND_VERSION);
    }
    pthread_mutex_unlock(&publisher->lock);
    int rc =
        message_send(publisher->link.socket, message, publisher->bounds.max_message, &cut_short);
    if (cut_short) {
        sender_replace_socket(publisher);
    }
    if (!rc) {
        pthread_mutex_lock(&publisher->lock);
        message->topic->seq++;
        if (header->type == MESSAGE_EVENT) {
            publisher->told_ms = socket_now_ms();
            publisher->untold = publisher->tensors_dropped != header->dropped_total;
        }
        pthread_mutex_unlock(&publisher->lock);
        publisher->said_epoch = header->epoch;
        publisher->said_step = header->step;
        publisher->look_ms = socket_now_ms() + publisher->options.alive_ms;
    }
    return rc == ATTN_E_DROPPED ? WAITS : rc;
}

/* Takes the head off the queue: sent (0), skipped (ATTN_SKIPPED) or dropped (anything else). */
static void finish_head(attn_publisher *publisher, int rc)
{
    pthread_mutex_lock(&publisher->lock);
    struct wire_message *message = publisher->first;
    publisher->first = message->next;
    if (!publisher->first) {
        publisher->last = &publisher->first;
    }
    publisher->counts.queued--;
    if (rc == 0 && message->header.type == MESSAGE_EVENT && message->header.event == EVENT_HELLO) {
        publisher->hello_due = false;
    }
    if (rc == 0) {
        publisher->counts.sent++;
        publisher->counts.bytes += message->bytes;
    } else if (rc == ATTN_SKIPPED) {
        publisher->counts.skipped++;
    } else {
        (void)queue_drop(publisher, message->topic, rc);
    }
    pthread_mutex_unlock(&publisher->lock);
    message_free(message);
}

/* A hello that is repeated: to a daemon that is new, or as a sign of life. Not counted. */
static int repeat_hello(attn_publisher *publisher)
{
    struct wire_message hello = {.header = publisher->identity, .topic = &publisher->events};
    hello.header.type = MESSAGE_EVENT;
    hello.header.event = EVENT_HELLO;
    publisher_position(publisher, &hello.header.epoch, &hello.header.step);
    return try_send(publisher, &hello);
}

/* Whether a hello is to be said before anything else; forgets it. */
static bool take_hello_due(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    bool due = publisher->hello_due && publisher->has_event_reader;
    publisher->hello_due = publisher->hello_due && !due;
    pthread_mutex_unlock(&publisher->lock);
    return due;
}

static void set_hello_due(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->hello_due = true;
    pthread_mutex_unlock(&publisher->lock);
}

static struct wire_message *head(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    struct wire_message *message = publisher->first;
    pthread_mutex_unlock(&publisher->lock);
    return message;
}

/* A tensor was copied for somebody who has left: dropped. An absent daemon misses no event, nor
 * does one that has come meanwhile and does not know it. */
static int sender_deliver(attn_publisher *publisher, struct wire_message *message)
{
    bool event = message->header.type == MESSAGE_EVENT;
    if (!publisher->link.socket || !sender_wants(publisher, &message->header)) {
        return event ? ATTN_SKIPPED : ATTN_E_TRANSPORT;
    }
    if (event && !bounds_know(&publisher->bounds, message->header.event)) {
        return ATTN_SKIPPED;
    }
    return try_send(publisher, message);
}

/* Sends from the head until the queue is empty, or the pipe is full: true. */
static bool flush(attn_publisher *publisher, bool *ret_moved)
{
    for (;;) {
        struct wire_message *message;
        int rc;
        if (!sender_take_notices(publisher)) {
            sender_replace_socket(publisher);
        }
        if (take_hello_due(publisher) && publisher->link.socket &&
            repeat_hello(publisher) == WAITS) {
            set_hello_due(publisher);
            return true;
        }
        message = head(publisher);
        if (!message) {
            return false;
        }
        rc = sender_deliver(publisher, message);
        if (rc == WAITS) {
            return true;
        }
        finish_head(publisher, rc);
        *ret_moved = true;
    }
}

/* ---- waiting ---- */

/* The next event reports the drops: a hello, if there is no other. */
static bool sender_must_tell(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    bool must = publisher->untold && publisher->has_event_reader && publisher->bounds.header >= 2;
    pthread_mutex_unlock(&publisher->lock);
    return must;
}

/* The position may move on for long without anything being published. */
static void look_for_life(attn_publisher *publisher)
{
    uint64_t now = socket_now_ms();
    if (sender_must_tell(publisher) &&
        (publisher->told_ms == 0 || now >= publisher->told_ms + TELL_MS)) {
        publisher->told_ms = now;
        set_hello_due(publisher);
    }
    if (publisher->options.alive_ms == 0 || now < publisher->look_ms) {
        return;
    }
    publisher->look_ms = now + publisher->options.alive_ms;
    pthread_mutex_lock(&publisher->lock);
    if (publisher->epoch != publisher->said_epoch || publisher->step != publisher->said_step) {
        publisher->hello_due = true;
    }
    pthread_mutex_unlock(&publisher->lock);
}

static uint64_t earlier(uint64_t until, uint64_t at_ms)
{
    return at_ms > 0 && at_ms < until ? at_ms : until;
}

/* Milliseconds until there is something to do by itself; -1: never. */
static long idle_ms(attn_publisher *publisher)
{
    uint64_t now = socket_now_ms(), until = UINT64_MAX;
    if (!publisher->link.socket) {
        return REOPEN_MS;
    }
    if (publisher->options.alive_ms > 0) {
        until = publisher->look_ms;
    }
    if (sender_must_tell(publisher) && publisher->told_ms + TELL_MS < until) {
        until = publisher->told_ms + TELL_MS;
    }
    long look_ms = link_idle_ms(&publisher->link);
    if (look_ms >= 0 && now + (uint64_t)look_ms < until) {
        until = now + (uint64_t)look_ms;
    }
    until = earlier(until, sender_gone_ms(publisher));
    until = earlier(until, publisher->hope.look_ms);
    pthread_mutex_lock(&publisher->lock);
    until = earlier(until, publisher->deadline_ms);
    pthread_mutex_unlock(&publisher->lock);
    if (until == UINT64_MAX) {
        return -1;
    }
    return until > now ? (long)(until - now) : 0;
}

/* Until something is put into the queue or a notice comes. */
static void sleep_idle(attn_publisher *publisher)
{
    zmq_pollitem_t items[3] = {{.fd = publisher->wake, .events = ZMQ_POLLIN}};
    int linked = publisher->link.socket ? link_items(&publisher->link, items + 1) : 0;
    uint64_t count;
    /* Whether there is nothing to do, so that `wake` will be written to when there is. */
    bool asleep;
    pthread_mutex_lock(&publisher->lock);
    asleep = !publisher->first && !publisher->closing &&
             !(publisher->hello_due && publisher->has_event_reader);
    publisher->asleep = asleep;
    pthread_mutex_unlock(&publisher->lock);
    if (!asleep) {
        return;
    }
    zmq_poll(items, 1 + linked, idle_ms(publisher));
    pthread_mutex_lock(&publisher->lock);
    publisher->asleep = false;
    pthread_mutex_unlock(&publisher->lock);
    (void)!read(publisher->wake, &count, sizeof count);
}

static bool finished(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    bool done =
        publisher->closing && (!publisher->first || socket_now_ms() >= publisher->deadline_ms);
    pthread_mutex_unlock(&publisher->lock);
    return done;
}

void *sender_run(void *argument)
{
    attn_publisher *publisher = argument;
    long pause_ms = PAUSE_MIN_MS;
    while (!finished(publisher)) {
        bool moved = false, full;
        if (publisher->link.socket) {
            link_tend(&publisher->link);
        } else {
            (void)sender_open(publisher);
        }
        sender_tell_gone(publisher);
        sender_look_whether_admitted(publisher);
        look_for_life(publisher);
        full = flush(publisher, &moved);
        bool blocked = full && !moved;
        uint64_t now = socket_now_ms();
        if (!blocked) {
            publisher->blocked_since_ms = 0;
        } else if (publisher->blocked_since_ms == 0) {
            publisher->blocked_since_ms = now;
        }
        publisher->stalled = blocked && now - publisher->blocked_since_ms >= STALLED_MS;
        if (publisher->stalled) {
            warner_say(
                &publisher->warner, WARNING_STALLED,
                "attnd at %s is stopped, or too busy: it takes nothing, and tensors are dropped "
                "and counted until it does; training goes on. Further times are not told",
                publisher->link.endpoint);
        }
        if (full && !moved) {
            pause_ms = 2 * pause_ms < PAUSE_MAX_MS ? 2 * pause_ms : PAUSE_MAX_MS;
        } else {
            pause_ms = PAUSE_MIN_MS;
        }
        if (full) {
            /* Until a notice comes, or the pause is over: what is put into the queue meanwhile
             * cannot be sent before the head. */
            zmq_pollitem_t item = {.socket = publisher->link.socket, .events = ZMQ_POLLIN};
            zmq_poll(&item, publisher->link.socket ? 1 : 0, pause_ms);
        } else {
            sleep_idle(publisher);
        }
    }
    /* A peer whose queue is full stops reading, and what it has not read is gone when the
     * connection ends. */
    uint64_t now = socket_now_ms();
    if (publisher->prefixes.count > 0 && now < publisher->deadline_ms) {
        zmq_poll(NULL, 0,
                 (long)(publisher->deadline_ms - now < FAREWELL_MS ? publisher->deadline_ms - now
                                                                   : FAREWELL_MS));
    }
    return NULL;
}
