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

#include "clients/c/src/keys.h"
#include "proto/utf8.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

/* Warnings */

#define SENTENCE_MAX (PATH_MAX + 1024)

static bool warner_has_said(const struct warner *warner, enum warning warning)
{
    return warner->said & 1u << warning;
}

/* Tells that something begins, or that it ends, of which the other one was told last; also when
 * nobody listens. */
__attribute__((format(printf, 4, 5))) static void warner_tell(struct warner *warner,
                                                              enum warning warning, bool begins,
                                                              const char *format, ...)
{
    char sentence[SENTENCE_MAX];
    va_list values;
    if (warner_has_said(warner, warning) == begins) {
        return;
    }
    warner->said ^= 1u << warning;
    if (!warner->say) {
        return;
    }
    int length = snprintf(sentence, sizeof sentence, "job %s: ", warner->job);
    va_start(values, format);
    vsnprintf(sentence + length, sizeof sentence - (size_t)length, format, values);
    va_end(values);
    utf8_make_plain(sentence, strlen(sentence)); /* parts of it come from the wire */
    warner->say(warner->context, sentence);
}

/* Notices of subscriptions, which come from the XPUB socket: what those who listen want, their
 * plan, and what they take. The sending thread's. */

/* Taken in at once, so that a flood of notices cannot hold up sending. */
#define NOTICES_AT_ONCE 1024
/* Without a subscription: an attnd that is back sooner was only restarted. */
#define GONE_MS 5000
/* Without a refusal: the key is let in. */
#define ADMITTED_MS 5000

/* Whether attnd says by its subscriptions that it refuses this job. */
static bool is_denied(const attn_publisher *publisher)
{
    char refusal[KEYS_REFUSAL_MAX];
    return keys_refusal(&publisher->target.keys, publisher->link.endpoint, publisher->identity.job,
                        refusal) &&
           prefixes_have(&publisher->prefixes, refusal);
}

static void notices_hope(attn_publisher *publisher, bool judged)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->hope.judged = judged && publisher->counts.sent > publisher->hope.sent;
    publisher->hope.sent = judged ? publisher->hope.sent : publisher->counts.sent;
    pthread_mutex_unlock(&publisher->lock);
    publisher->hope.look_ms = socket_now_ms() + ADMITTED_MS;
}

/* Tells that messages are taken again that were refused for their key, once that is clear. Some
 * were sent when this was looked at last, and none was refused since. */
static void sender_look_whether_admitted(attn_publisher *publisher)
{
    if (publisher->hope.look_ms == 0 || socket_now_ms() < publisher->hope.look_ms) {
        return;
    }
    if (!publisher->hope.judged || !publisher->has_tensor_reader) {
        notices_hope(publisher, true);
        return;
    }
    publisher->hope.look_ms = 0;
    warner_tell(&publisher->warner, WARNING_KEY, false,
                "attnd at %s takes the messages of job %s again: what follows is captured",
                publisher->home, publisher->identity.job);
}

/* When that will be; 0: never, as it is there, or it is told. */
static uint64_t sender_gone_ms(const attn_publisher *publisher)
{
    bool told = warner_has_said(&publisher->warner, WARNING_GONE);
    return publisher->left_ms > 0 && !told ? publisher->left_ms + GONE_MS : 0;
}

/* Whether it is reached without a network. */
static bool is_here(const char *endpoint)
{
    static const char *const here[] = {"ipc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]:"};
    bool found = false;
    for (size_t i = 0; i < sizeof here / sizeof here[0]; i++) {
        found = found || strncmp(endpoint, here[i], strlen(here[i])) == 0;
    }
    return found;
}

/* Warns that attnd has gone, when that is due. */
static void sender_tell_gone(attn_publisher *publisher)
{
    uint64_t due_ms = sender_gone_ms(publisher);
    bool closing;
    if (due_ms == 0 || socket_now_ms() < due_ms) {
        return;
    }
    pthread_mutex_lock(&publisher->lock);
    closing = publisher->closing;
    pthread_mutex_unlock(&publisher->lock);
    if (closing) {
        publisher->left_ms = 0;
        return;
    }
    warner_tell(&publisher->warner, WARNING_GONE, true,
                "attnd at %s has gone, or does not answer: nothing is captured until it is back; "
                "training goes on. %s",
                publisher->home,
                is_here(publisher->home) ? "Start it again: attnd"
                                         : "See whether attnd runs there, and whether the network "
                                           "and the firewalls let it through");
}

/* Has the publisher follow the subscriptions, which have changed. One that newly wants events has
 * not heard our hello. */
static void sender_follow(attn_publisher *publisher)
{
    const struct plan_requests own = {publisher->options.every, publisher->options.samples,
                                      publisher->options.rows};
    uint64_t now = socket_now_ms();
    char tensors[TOPIC_MAX], events[TOPIC_MAX];
    attn_plan plan;
    uint64_t malformed = 0;
    bool wanted, has_plan = false;
    topic_job("tensor", publisher->identity.job, tensors);
    topic_job("event", publisher->identity.job, events);
    wanted = prefixes_touch(&publisher->prefixes, tensors);
    if (wanted) {
        strcpy(publisher->home, publisher->link.endpoint);
        if (publisher->left_ms > 0) {
            warner_tell(&publisher->warner, WARNING_GONE, false,
                        "attnd is back, at %s: what follows is captured, %.0f s were not",
                        publisher->home, (double)(now - publisher->left_ms) / 1000);
        }
        publisher->left_ms = 0;
    } else if (publisher->prefixes.count == 0 && *publisher->home && publisher->left_ms == 0) {
        publisher->left_ms = now;
    }
    if (publisher->plans_changed) {
        has_plan =
            plan_choose(&publisher->prefixes, publisher->identity.job, &own, &plan, &malformed);
    }
    pthread_mutex_lock(&publisher->lock);
    publisher->has_event_reader = prefixes_match(&publisher->prefixes, events);
    publisher->has_tensor_reader = wanted;
    publisher->bounds = bounds_of(&publisher->prefixes, &publisher->bad_bounds);
    if (publisher->plans_changed) {
        publisher->plan = plan;
        publisher->has_plan = has_plan;
        publisher->bad_plans = malformed;
    }
    if (publisher->hello_asked && publisher->has_event_reader) {
        publisher->hello_due = publisher->has_hello;
    }
    publisher->hello_asked = publisher->plans_changed = false;
    publisher->notice_ms = now;
    publisher->generation++;
    pthread_cond_broadcast(&publisher->changed);
    pthread_mutex_unlock(&publisher->lock);
    /* Warns of what the subscriptions say. */
    if (is_denied(publisher)) {
        char sentence[KEYS_DENIED_MAX];
        publisher->hope.look_ms = 0;
        keys_deny(&publisher->target.keys, publisher->link.endpoint, publisher->identity.job,
                  sentence);
        warner_tell(&publisher->warner, WARNING_KEY, true,
                    "%s; training goes on, and attnd gets nothing of it. Further refusals are only "
                    "counted",
                    sentence);
    } else if (warner_has_said(&publisher->warner, WARNING_KEY) && publisher->hope.look_ms == 0 &&
               publisher->has_tensor_reader) {
        notices_hope(publisher, false); /* attnd has read its list again, or was started again */
    }
}

/* One notice: 0x01 prefix adds, 0x00 prefix removes; others are no business of ours. Returns false
 * when there was no memory for it. */
static bool sender_take_notice(attn_publisher *publisher, const char *notice, size_t len)
{
    char events[TOPIC_MAX];
    if (len == 0 || (notice[0] != 0 && notice[0] != 1)) {
        return true;
    }
    publisher->plans_changed |= plan_is(notice + 1, len - 1);
    topic_job("event", publisher->identity.job, events);
    if (notice[0] == 1 && strncmp(events, notice + 1, len - 1) == 0) {
        publisher->hello_asked = true;
    }
    pthread_mutex_lock(&publisher->lock);
    bool applied = prefixes_apply(&publisher->prefixes, notice, len);
    pthread_mutex_unlock(&publisher->lock);
    return applied;
}

/* Takes in the notices that have come. Returns false when one is missed: there was no memory. */
static bool sender_take_notices(attn_publisher *publisher)
{
    zmq_msg_t notice;
    bool missed = false;
    int taken = 0;
    if (!publisher->link.socket) {
        return true;
    }
    zmq_msg_init(&notice);
    while (taken < NOTICES_AT_ONCE &&
           zmq_msg_recv(&notice, publisher->link.socket, ZMQ_DONTWAIT) >= 0) {
        missed |= !sender_take_notice(publisher, zmq_msg_data(&notice), zmq_msg_size(&notice));
        taken++;
    }
    zmq_msg_close(&notice);
    if (!missed && taken > 0) {
        sender_follow(publisher);
    }
    return !missed;
}

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
    header->dropped_total = publisher->tensors_dropped;
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

static void set_hello_due(attn_publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->hello_due = true;
    pthread_mutex_unlock(&publisher->lock);
}

/* A tensor was copied for somebody who has left: dropped. An absent daemon misses no event. */
static int sender_deliver(attn_publisher *publisher, struct wire_message *message)
{
    bool event = message->header.type == MESSAGE_EVENT;
    char topic[TOPIC_MAX];
    message_topic(&message->header, topic);
    if (!publisher->link.socket || !prefixes_match(&publisher->prefixes, topic)) {
        return event ? ATTN_SKIPPED : ATTN_E_TRANSPORT;
    }
    return try_send(publisher, message);
}

/* Sends from the head until the queue is empty, or the pipe is full: true. */
static bool flush(attn_publisher *publisher, bool *ret_moved)
{
    for (;;) {
        if (!sender_take_notices(publisher)) {
            sender_replace_socket(publisher);
        }
        pthread_mutex_lock(&publisher->lock);
        struct wire_message *message = publisher->first;
        bool due = publisher->hello_due && publisher->has_event_reader;
        publisher->hello_due = publisher->hello_due && !due;
        pthread_mutex_unlock(&publisher->lock);
        if (due && publisher->link.socket && repeat_hello(publisher) == WAITS) {
            set_hello_due(publisher);
            return true;
        }
        if (!message) {
            return false;
        }
        int rc = sender_deliver(publisher, message);
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
    bool must = publisher->untold && publisher->has_event_reader;
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
            warner_tell(
                &publisher->warner, WARNING_STALLED, true,
                "attnd at %s is stopped, or too busy: it takes nothing, and tensors are dropped "
                "and counted until it does; training goes on. Further times are not told",
                publisher->link.endpoint);
        }
        if (blocked) {
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
