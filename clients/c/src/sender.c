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
 * An attnd that has the reliable lane gets some messages that way (reliable.h): at the head of the
 * queue they are kept there, and they are queued until they are acknowledged. The lanes have a seq
 * each. While such an attnd is away, its subscriptions and its plan hold on for what went by the
 * lane before.
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
/* Returned by try_send: the message is kept until it is acknowledged; or waits for room. */
#define KEPT  2
#define WAITS 3
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
    reliable_close(&publisher->lane);
    link_close(&publisher->link);
    prefixes_clear(&publisher->prefixes);
    prefixes_clear(&publisher->heard);
    plans_clear(&publisher->plans);
}

/* ---- a new socket ---- */

/* When a message was left half sent, or there was no memory for a subscription: they come anew with
 * the connection. */
void sender_replace_socket(attn_publisher *publisher)
{
    link_close(&publisher->link);
    prefixes_clear(&publisher->heard);
    plans_clear(&publisher->plans);
    publisher->plans_changed = true;
    (void)sender_follow(publisher); /* of none */
    (void)sender_open(publisher);
}

static void tend_lane(attn_publisher *publisher)
{
    reliable_tend(&publisher->lane);
    pthread_mutex_lock(&publisher->lock);
    sender_note_lane(publisher);
    pthread_mutex_unlock(&publisher->lock);
}

/* ---- one message ---- */

static uint64_t realtime_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A hello repeats the last announcement. */
static void sender_add_layers(attn_publisher *publisher, struct header *header)
{
    pthread_mutex_lock(&publisher->lock);
    if (publisher->has_next_layers) {
        free(publisher->layers);
        publisher->layers = publisher->next_layers;
        publisher->layer_count = publisher->next_layer_count;
        publisher->next_layers = NULL;
        publisher->has_next_layers = false;
    }
    pthread_mutex_unlock(&publisher->lock);
    header->layers = publisher->layers;
    header->layer_count = publisher->layer_count;
    strcpy(header->client, "libattn/" ATTND_VERSION);
}

static void note_said(attn_publisher *publisher, const struct header *header)
{
    if (header->type == MESSAGE_EVENT) {
        publisher->told_ms = socket_now_ms();
        pthread_mutex_lock(&publisher->lock);
        publisher->untold = publisher->tensors_dropped != header->dropped_total;
        pthread_mutex_unlock(&publisher->lock);
    }
    publisher->said_epoch = header->epoch;
    publisher->said_step = header->step;
    publisher->look_ms = socket_now_ms() + publisher->options.alive_ms;
}

/* Events that are not to overtake tensors name those that were sent. Others need not: they move no
 * window. Under the lock. */
static void name_moved(attn_publisher *publisher, struct header *header)
{
    const struct topics *topics = &publisher->topics;

    if (header->event != EVENT_EPOCH_END && header->event != EVENT_BYE) {
        return;
    }
    header->after = calloc(AFTER_MAX, sizeof *header->after);
    for (size_t i = 0; header->after && i < topics->capacity && header->after_count < AFTER_MAX;
         i++) {
        const struct topic *topic = topics->slots[i];

        if (topic && topic->moved) {
            header->after[header->after_count++] = (struct topic_position){topic->id, topic->seq};
        }
    }
}

static void forget_moved(attn_publisher *publisher, const struct header *header)
{
    for (uint32_t i = 0; i < header->after_count; i++) {
        topics_get(&publisher->topics, header->after[i].layer)->moved = false;
    }
}

/* Its header is complete but for `after`. */
static int keep_framed(attn_publisher *publisher, struct wire_message *message, bool counted)
{
    zmq_msg_t topic, head;
    uint64_t bytes;
    int rc = message_head(&message->header, &topic, &head);

    if (rc) {
        return rc;
    }
    bytes = zmq_msg_size(&topic) + zmq_msg_size(&head) + message->bytes;
    if (bytes > publisher->bounds.max_message) {
        rc = ATTN_E_TOO_LARGE;
    } else if (message->header.type != MESSAGE_EVENT &&
               reliable_must_wait(&publisher->lane, bytes)) {
        rc = WAITS;
    } else {
        rc = reliable_keep(&publisher->lane, message, &topic, &head, counted);
    }
    zmq_msg_close(&topic);
    zmq_msg_close(&head);
    return rc;
}

/* Returns KEPT, WAITS, or why it is dropped. */
static int keep(attn_publisher *publisher, struct wire_message *message, bool counted)
{
    struct header *header = &message->header;
    int rc;

    header->after = NULL;
    header->after_count = 0;
    pthread_mutex_lock(&publisher->lock);
    if (header->type == MESSAGE_EVENT) {
        name_moved(publisher, header);
    }
    pthread_mutex_unlock(&publisher->lock);
    rc = keep_framed(publisher, message, counted);
    pthread_mutex_lock(&publisher->lock);
    if (!rc) {
        message->topic->lane_seq++;
        message->topic->by_lane = true;
        publisher->lane_newest =
            header->type == MESSAGE_EVENT ? publisher->lane_newest : message->topic;
        forget_moved(publisher, header);
        sender_note_lane(publisher);
    }
    pthread_mutex_unlock(&publisher->lock);
    free(header->after);
    header->after = NULL;
    header->after_count = 0;
    if (!rc) {
        note_said(publisher, header);
        rc = KEPT;
    }
    return rc;
}

void sender_settle(void *argument, const struct kept *entry, bool lost)
{
    attn_publisher *publisher = argument;

    if (!entry->counted) {
        return;
    }
    pthread_mutex_lock(&publisher->lock);
    publisher->counts.queued--;
    sender_note_lane(publisher);
    if (lost) {
        (void)queue_drop(publisher, entry->topic, ATTN_E_DROPPED);
    } else {
        publisher->counts.sent++;
        publisher->counts.bytes += entry->payload;
    }
    pthread_mutex_unlock(&publisher->lock);
}

/* One attempt. Returns 0, KEPT, WAITS, or why it is dropped. */
static int try_send(attn_publisher *publisher, struct wire_message *message, bool counted)
{
    struct header *header = &message->header;
    struct topic_position newest;
    bool cut_short = false;
    int rc;

    pthread_mutex_lock(&publisher->lock);
    header->reliable = publisher->has_lane && publisher_relies(publisher, header->type);
    header->seq = header->reliable ? message->topic->lane_seq : message->topic->seq;
    header->dropped = header->reliable ? message->topic->lane_dropped : message->topic->dropped;
    header->dropped_total = publisher->bounds.header >= 2 ? publisher->tensors_dropped : 0;
    pthread_mutex_unlock(&publisher->lock);
    header->time_ns = realtime_ns();
    if (header->type == MESSAGE_EVENT && header->event == EVENT_HELLO) {
        sender_add_layers(publisher, header);
    }
    if (header->reliable) {
        return keep(publisher, message, counted);
    }
    if (header->type != MESSAGE_EVENT && publisher->lane.tensors > 0) {
        newest =
            (struct topic_position){publisher->lane_newest->id, publisher->lane_newest->lane_seq};
        header->after = &newest;
        header->after_count = 1;
    }
    rc = message_send(publisher->link.socket, message, publisher->bounds.max_message, &cut_short);
    header->after = NULL;
    header->after_count = 0;
    if (cut_short) {
        sender_replace_socket(publisher);
    }
    if (!rc) {
        pthread_mutex_lock(&publisher->lock);
        message->topic->seq++;
        message->topic->moved = header->type != MESSAGE_EVENT;
        pthread_mutex_unlock(&publisher->lock);
        note_said(publisher, header);
    }
    return rc == ATTN_E_DROPPED ? WAITS : rc;
}

/* Takes the head off the queue: sent (0), kept (KEPT), skipped (ATTN_SKIPPED) or dropped (anything
 * else). */
static void finish_head(attn_publisher *publisher, int rc)
{
    struct wire_message *message;

    pthread_mutex_lock(&publisher->lock);
    message = publisher->first;
    publisher->first = message->next;
    if (!publisher->first) {
        publisher->last = &publisher->first;
    }
    publisher->counts.queued -= rc != KEPT;
    if ((rc == 0 || rc == KEPT) && message->header.type == MESSAGE_EVENT &&
        message->header.event == EVENT_HELLO) {
        publisher->hello_due = false;
    }
    if (rc == 0) {
        publisher->counts.sent++;
        publisher->counts.bytes += message->bytes;
    } else if (rc == KEPT) {
        /* counted when it is acknowledged */
    } else if (rc == ATTN_SKIPPED) {
        publisher->counts.skipped++;
    } else {
        (void)queue_drop(publisher, message->topic, rc);
    }
    pthread_mutex_unlock(&publisher->lock);
    message_free(message);
}

/* Whether the lane's first answer may come at any moment. */
static bool waits_for_lane(const attn_publisher *publisher, enum message_type type)
{
    return reliable_is_joining(&publisher->lane) && publisher_relies(publisher, type);
}

/* A hello that is repeated: to a daemon that is new, or as a sign of life. Not counted. */
static int repeat_hello(attn_publisher *publisher)
{
    struct wire_message hello = {.header = publisher->identity, .topic = &publisher->events};

    hello.header.type = MESSAGE_EVENT;
    hello.header.event = EVENT_HELLO;
    publisher_position(publisher, &hello.header.epoch, &hello.header.step);
    if (waits_for_lane(publisher, MESSAGE_EVENT)) {
        return WAITS;
    }
    return try_send(publisher, &hello, false);
}

/* Whether a hello is to be said before anything else; forgets it. */
static bool take_hello_due(attn_publisher *publisher)
{
    bool due;

    pthread_mutex_lock(&publisher->lock);
    due = publisher->hello_due && publisher->has_event_reader;
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
    struct wire_message *message;

    pthread_mutex_lock(&publisher->lock);
    message = publisher->first;
    pthread_mutex_unlock(&publisher->lock);
    return message;
}

/* A tensor was copied for somebody who has left: dropped. An absent daemon misses no event, nor
 * does one that has come meanwhile and does not know it. */
static int sender_deliver(attn_publisher *publisher, struct wire_message *message)
{
    bool event = message->header.type == MESSAGE_EVENT;

    if (!publisher->link.socket || !sender_wants(publisher, &message->header) ||
        (publisher->away && !publisher_relies(publisher, message->header.type))) {
        return event ? ATTN_SKIPPED : ATTN_E_TRANSPORT;
    }
    if (event && !bounds_know(&publisher->bounds, message->header.event)) {
        return ATTN_SKIPPED;
    }
    if (waits_for_lane(publisher, message->header.type)) {
        return WAITS;
    }
    return try_send(publisher, message, true);
}

/* Sends from the head until the queue is empty, or the pipe is full: true. */
static bool flush(attn_publisher *publisher, bool *ret_moved)
{
    for (;;) {
        struct wire_message *message;
        int rc;

        sender_take_notices(publisher);
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
        if (rc == KEPT) {
            tend_lane(publisher);
        }
        *ret_moved = true;
    }
}

/* ---- waiting ---- */

static void judge_stall(attn_publisher *publisher, bool blocked)
{
    uint64_t now = socket_now_ms();

    if (!blocked) {
        publisher->blocked_since_ms = 0;
    } else if (publisher->blocked_since_ms == 0) {
        publisher->blocked_since_ms = now;
    }
    publisher->stalled = (blocked && now - publisher->blocked_since_ms >= STALLED_MS) ||
                         (publisher->away && publisher->lane.full);
    if (publisher->stalled && !publisher->away) {
        warner_say(&publisher->warner, WARNING_STALLED,
                   "attnd at %s is stopped, or too busy: it takes nothing, and tensors are dropped "
                   "and counted until it does; training goes on. Further times are not told",
                   publisher->link.endpoint);
    }
}

/* The next event reports the drops: a hello, if there is no other. */
static bool sender_must_tell(attn_publisher *publisher)
{
    bool must;

    pthread_mutex_lock(&publisher->lock);
    must = publisher->untold && publisher->has_event_reader && publisher->bounds.header >= 2 &&
           !publisher->away;
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

/* Whether the end waits for acknowledgements: not of mere events, and of what is in the spool,
 * while nobody is there to give any. */
static bool awaits(const attn_publisher *publisher)
{
    return publisher->lane.unacknowledged > 0 &&
           !(publisher->away && publisher->lane.in_memory == 0);
}

static uint64_t earlier(uint64_t until, uint64_t at_ms)
{
    return at_ms > 0 && at_ms < until ? at_ms : until;
}

/* Milliseconds until there is something to do by itself; -1: never. */
static long idle_ms(attn_publisher *publisher)
{
    uint64_t now = socket_now_ms(), until = UINT64_MAX;
    long look_ms;

    if (!publisher->link.socket) {
        return REOPEN_MS;
    }
    if (publisher->options.alive_ms > 0) {
        until = publisher->look_ms;
    }
    if (sender_must_tell(publisher) && publisher->told_ms + TELL_MS < until) {
        until = publisher->told_ms + TELL_MS;
    }
    look_ms = link_idle_ms(&publisher->link);
    if (look_ms >= 0 && now + (uint64_t)look_ms < until) {
        until = now + (uint64_t)look_ms;
    }
    until = earlier(until, publisher->settled_ms);
    until = earlier(until, sender_gone_ms(publisher));
    until = earlier(until, publisher->hope.look_ms);
    until = earlier(until, publisher->lane.again_ms);
    pthread_mutex_lock(&publisher->lock);
    until = earlier(until, publisher->deadline_ms);
    pthread_mutex_unlock(&publisher->lock);
    if (until == UINT64_MAX) {
        return -1;
    }
    return until > now ? (long)(until - now) : 0;
}

/* Whether there is nothing to do, so that `wake` will be written to when there is. */
static bool fall_asleep(attn_publisher *publisher)
{
    bool asleep;

    pthread_mutex_lock(&publisher->lock);
    asleep = !publisher->first && (!publisher->closing || awaits(publisher)) &&
             !(publisher->hello_due && publisher->has_event_reader);
    publisher->asleep = asleep;
    pthread_mutex_unlock(&publisher->lock);
    return asleep;
}

static void wake_up(attn_publisher *publisher)
{
    uint64_t count;

    pthread_mutex_lock(&publisher->lock);
    publisher->asleep = false;
    pthread_mutex_unlock(&publisher->lock);
    (void)!read(publisher->wake, &count, sizeof count);
}

/* Until something is put into the queue or a notice comes. */
static void sleep_idle(attn_publisher *publisher)
{
    zmq_pollitem_t items[5] = {{.fd = publisher->wake, .events = ZMQ_POLLIN}};
    int linked = publisher->link.socket ? link_items(&publisher->link, items + 1) : 0;

    linked += reliable_items(&publisher->lane, items + 1 + linked);
    if (!fall_asleep(publisher)) {
        return;
    }
    zmq_poll(items, 1 + linked, idle_ms(publisher));
    wake_up(publisher);
}

/* Until a notice comes, or the pause is over: what is put into the queue meanwhile cannot be sent
 * before the head. */
static void sleep_full(attn_publisher *publisher, long pause_ms)
{
    zmq_pollitem_t items[3] = {{.socket = publisher->link.socket, .events = ZMQ_POLLIN}};
    int linked = publisher->link.socket ? 1 : 0;

    linked += reliable_items(&publisher->lane, items + linked);
    zmq_poll(items, linked, pause_ms);
}

static bool finished(attn_publisher *publisher)
{
    bool done;

    pthread_mutex_lock(&publisher->lock);
    done = publisher->closing &&
           ((!publisher->first && !awaits(publisher)) || socket_now_ms() >= publisher->deadline_ms);
    pthread_mutex_unlock(&publisher->lock);
    return done;
}

/* A peer whose queue is full stops reading, and what it has not read is gone when the connection
 * ends. */
static void say_farewell(const attn_publisher *publisher)
{
    uint64_t now = socket_now_ms();

    if (publisher->prefixes.count > 0 && now < publisher->deadline_ms) {
        zmq_poll(NULL, 0,
                 (long)(publisher->deadline_ms - now < FAREWELL_MS ? publisher->deadline_ms - now
                                                                   : FAREWELL_MS));
    }
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
        if (publisher->settled_ms > 0 && socket_now_ms() >= publisher->settled_ms) {
            if (!sender_follow(publisher)) {
                sender_replace_socket(publisher);
            }
        }
        sender_tell_gone(publisher);
        sender_look_whether_admitted(publisher);
        look_for_life(publisher);
        full = flush(publisher, &moved);
        tend_lane(publisher);
        judge_stall(publisher, full && !moved && !reliable_is_joining(&publisher->lane) &&
                                   !publisher->lane.awaited);
        if (full && !moved) {
            pause_ms = 2 * pause_ms < PAUSE_MAX_MS ? 2 * pause_ms : PAUSE_MAX_MS;
        } else {
            pause_ms = PAUSE_MIN_MS;
        }
        if (full) {
            sleep_full(publisher, pause_ms);
        } else {
            sleep_idle(publisher);
        }
    }
    say_farewell(publisher);
    return NULL;
}
