/* SPDX-License-Identifier: MIT */
/* Notices of subscriptions, which come from the XPUB socket: what those who listen want, their
 * plan, what they take, and where the reliable lane is. The sending thread's. */
#include "clients/c/src/publisher.h"

#include "clients/c/src/keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

/* Taken in at once, so that a flood of notices cannot hold up sending. */
#define NOTICES_AT_ONCE 1024
/* After which the subscriptions of somebody without the lane, after an attnd that had it, are taken
 * for all. */
#define SETTLED_MS 5000
/* Without a subscription: an attnd that is back sooner was only restarted. */
#define GONE_MS 5000
/* Without a refusal: the key is let in. */
#define ADMITTED_MS 5000

bool sender_wants(const attn_publisher *publisher, const struct header *header)
{
    char name[TOPIC_MAX];

    message_topic(header, name);
    return prefixes_match(&publisher->prefixes, name);
}

/* After a change of the prefixes; under the lock. */
static void note_readers(attn_publisher *publisher)
{
    struct header event = publisher->identity;
    char root[TOPIC_MAX];

    event.type = MESSAGE_EVENT;
    topic_job("tensor", event.job, root);
    publisher->has_event_reader = sender_wants(publisher, &event);
    publisher->has_tensor_reader = prefixes_touch(&publisher->prefixes, root);
    publisher->bounds = bounds_of(&publisher->prefixes, &publisher->bad_bounds);
}

static void note_plan(attn_publisher *publisher)
{
    const struct plan_requests own = {publisher->options.every, publisher->options.samples,
                                      publisher->options.rows};
    attn_plan plan;
    bool has_plan = plans_choose(&publisher->plans, &own, &plan);

    pthread_mutex_lock(&publisher->lock);
    publisher->plan = plan;
    publisher->has_plan = has_plan;
    publisher->counts.bad_plans = publisher->plans.refused;
    publisher->notice_ms = socket_now_ms();
    publisher->generation++;
    pthread_mutex_unlock(&publisher->lock);
}

static void sender_take_plan(attn_publisher *publisher, bool added, const char *prefix, size_t len)
{
    uint64_t refused = publisher->plans.refused;
    bool changed = added ? plans_add(&publisher->plans, publisher->identity.job, prefix, len)
                         : plans_remove(&publisher->plans, prefix, len);

    if (changed || publisher->plans.refused != refused) {
        publisher->plans_changed = true;
    }
}

void sender_note_lane(attn_publisher *publisher)
{
    const struct reliable *lane = &publisher->lane;

    publisher->has_lane = lane->joined && (publisher->away || *lane->endpoint);
    publisher->counts.unacknowledged = lane->unacknowledged;
    publisher->counts.spooled = lane->spooled;
    publisher->counts.refused = lane->refused;
    publisher->counts.spool_errors = lane->spool_errors;
}

static void sender_announce_lane(attn_publisher *publisher)
{
    uint64_t malformed;
    char endpoint[ADDRESS_MAX];
    struct bounds bounds = bounds_of(&publisher->heard, &malformed);

    if (publisher->options.reliable == ATTN_RELIABLE_NONE || bounds.reliable == BOUNDS_NO_LANE ||
        !reliable_endpoint(publisher->link.endpoint, bounds_lane(&bounds, publisher->link.endpoint),
                           endpoint)) {
        *endpoint = '\0';
    }
    reliable_announce(&publisher->lane, endpoint);
}

/* Whether all is subscribed to that attnd subscribes to. */
static bool heard_all(const attn_publisher *publisher)
{
    char tensors[TOPIC_MAX], events[TOPIC_MAX];

    topic_job("tensor", publisher->identity.job, tensors);
    topic_job("event", publisher->identity.job, events);
    return prefixes_touch(&publisher->heard, tensors) && prefixes_match(&publisher->heard, events);
}

/* Whether attnd says by its subscriptions that it refuses this job. */
static bool is_denied(const attn_publisher *publisher)
{
    char refusal[KEYS_REFUSAL_MAX];

    return keys_refusal(&publisher->target.keys, publisher->link.endpoint, publisher->identity.job,
                        refusal) &&
           prefixes_have(&publisher->heard, refusal);
}

static void tell_denied(attn_publisher *publisher)
{
    char sentence[KEYS_DENIED_MAX];

    publisher->hope.look_ms = 0;
    keys_deny(&publisher->target.keys, publisher->link.endpoint, publisher->identity.job, sentence);
    warner_say(&publisher->warner, WARNING_KEY,
               "%s; training goes on, and attnd gets nothing of it. Further refusals are only "
               "counted",
               sentence);
}

static void notices_hope(attn_publisher *publisher, bool judged)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->hope.judged = judged && publisher->counts.sent > publisher->hope.sent;
    publisher->hope.sent = judged ? publisher->hope.sent : publisher->counts.sent;
    pthread_mutex_unlock(&publisher->lock);
    publisher->hope.look_ms = socket_now_ms() + ADMITTED_MS;
}

void sender_take_denial(void *argument)
{
    attn_publisher *publisher = argument;
    bool is_late = publisher->hope.look_ms > 0 && !is_denied(publisher);

    tell_denied(publisher);
    if (is_late) {
        notices_hope(publisher, false);
        publisher->hope.sent++; /* itself */
    }
}

/* Some were sent when this was looked at last, and none was refused since. */
void sender_look_whether_admitted(attn_publisher *publisher)
{
    if (publisher->hope.look_ms == 0 || socket_now_ms() < publisher->hope.look_ms) {
        return;
    }
    if (!publisher->hope.judged || !publisher->has_tensor_reader) {
        notices_hope(publisher, true);
        return;
    }
    publisher->hope.look_ms = 0;
    warner_end(&publisher->warner, WARNING_KEY,
               "attnd at %s takes the messages of job %s again: what follows is captured",
               publisher->home, publisher->identity.job);
}

/* Warns of what the subscriptions say. */
static void tell_heard(attn_publisher *publisher)
{
    const attn_publisher_options *options = &publisher->options;
    bool asks = options->reliable == ATTN_RELIABLE_ALL ||
                (publisher->lane.directory && options->reliable != ATTN_RELIABLE_NONE);

    if (asks && publisher->has_tensor_reader && publisher->has_event_reader &&
        publisher->bounds.reliable == BOUNDS_NO_LANE) {
        warner_say(&publisher->warner, WARNING_NO_LANE,
                   "attnd at %s has no reliable lane (it is an older version): messages go without "
                   "acknowledgement, and nothing is kept for it",
                   publisher->link.endpoint);
    }
    if (is_denied(publisher)) {
        tell_denied(publisher);
    } else if (warner_has_said(&publisher->warner, WARNING_KEY) && publisher->hope.look_ms == 0 &&
               publisher->has_tensor_reader) {
        notices_hope(publisher, false); /* attnd has read its list again, or was started again */
    }
}

/* Whether more than events went by the reliable lane. */
static bool notices_relies(attn_publisher *publisher)
{
    const struct topics *topics = &publisher->topics;
    bool relies = false;

    pthread_mutex_lock(&publisher->lock);
    for (size_t i = 0; i < topics->capacity; i++) {
        relies = relies || (topics->slots[i] && topics->slots[i]->by_lane);
    }
    pthread_mutex_unlock(&publisher->lock);
    return relies;
}

/* Appends how many messages came to nothing, when there are some. */
static void notices_add(char *text, size_t size, const char *what, uint64_t count)
{
    size_t used = strlen(text);

    if (count > 0) {
        snprintf(text + used, size - used, "; %s: %" PRIu64, what, count);
    }
}

static void tell_back(attn_publisher *publisher, double away_s)
{
    attn_publisher_counts counts;
    char others[96] = "";

    if (!notices_relies(publisher)) {
        warner_end(&publisher->warner, WARNING_GONE,
                   "attnd is back, at %s: what follows is captured, %.0f s were not",
                   publisher->home, away_s);
        return;
    }
    attn_publisher_stats(publisher, &counts);
    notices_add(others, sizeof others, "not captured", counts.skipped - publisher->before.skipped);
    notices_add(others, sizeof others, "dropped", counts.dropped - publisher->before.dropped);
    warner_end(&publisher->warner, WARNING_GONE,
               "attnd is back, at %s, after %.0f s; messages kept for it, and sent now: %" PRIu64
               "%s",
               publisher->home, away_s, publisher->lane.unacknowledged, others);
}

/* Notes who wants tensors, and that nobody does any more. */
static void note_home(attn_publisher *publisher, uint64_t now)
{
    char tensors[TOPIC_MAX];

    topic_job("tensor", publisher->identity.job, tensors);
    if (prefixes_touch(&publisher->heard, tensors)) {
        strcpy(publisher->home, publisher->link.endpoint);
        if (publisher->left_ms > 0) {
            tell_back(publisher, (double)(now - publisher->left_ms) / 1000);
        }
        publisher->left_ms = 0;
    } else if (publisher->heard.count == 0 && *publisher->home && publisher->left_ms == 0) {
        publisher->left_ms = now;
        attn_publisher_stats(publisher, &publisher->before);
    }
}

uint64_t sender_gone_ms(const attn_publisher *publisher)
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

void sender_tell_gone(attn_publisher *publisher)
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
    warner_say(&publisher->warner, WARNING_GONE,
               "attnd at %s has gone, or does not answer: %s captured until it is back; training "
               "goes on. %s",
               publisher->home,
               notices_relies(publisher)
                   ? "what goes by the reliable lane is kept for it, and nothing else is"
                   : "nothing is",
               is_here(publisher->home) ? "Start it again: attnd"
                                        : "See whether attnd runs there, and whether the network "
                                          "and the firewalls let it through");
}

/* Subscriptions have changed, or have not for some time. A daemon with the lane that is away, or is
 * back and has not said all, is taken to want what it wanted. One that newly wants events has not
 * heard our hello. */
bool sender_follow(attn_publisher *publisher)
{
    uint64_t now = socket_now_ms();
    bool settled = publisher->settled_ms > 0 && now >= publisher->settled_ms;
    bool away, all = true;

    note_home(publisher, now);
    sender_announce_lane(publisher);
    away = publisher->lane.joined && !settled && !heard_all(publisher);
    if (!away || publisher->heard.count == 0 || *publisher->lane.endpoint) {
        publisher->settled_ms = 0;
    } else if (publisher->settled_ms == 0) {
        publisher->settled_ms = now + SETTLED_MS;
    }
    pthread_mutex_lock(&publisher->lock);
    publisher->away = away;
    if (!away) {
        all = prefixes_copy(&publisher->prefixes, &publisher->heard);
        note_readers(publisher);
    }
    if (publisher->hello_asked && publisher->has_event_reader) {
        publisher->hello_due = publisher->has_hello;
    }
    publisher->hello_asked = false;
    sender_note_lane(publisher);
    publisher->notice_ms = now;
    publisher->generation++;
    pthread_cond_broadcast(&publisher->changed);
    pthread_mutex_unlock(&publisher->lock);
    if (!away && publisher->plans_changed) {
        publisher->plans_changed = false;
        note_plan(publisher);
    }
    if (!away) {
        tell_heard(publisher);
    }
    return all;
}

/* One notice: 0x01 prefix adds, 0x00 prefix removes; others are no business of ours. Returns false
 * when there was no memory for it. */
static bool sender_take_notice(attn_publisher *publisher, const char *notice, size_t len)
{
    char events[TOPIC_MAX];

    if (len == 0 || (notice[0] != 0 && notice[0] != 1)) {
        return true;
    }
    if (plan_is(notice + 1, len - 1)) {
        sender_take_plan(publisher, notice[0] == 1, notice + 1, len - 1);
        return true;
    }
    topic_job("event", publisher->identity.job, events);
    if (notice[0] == 1 && strncmp(events, notice + 1, len - 1) == 0) {
        publisher->hello_asked = true;
    }
    return prefixes_apply(&publisher->heard, notice, len);
}

void sender_take_notices(attn_publisher *publisher)
{
    zmq_msg_t notice;
    bool missed = false;
    int taken = 0;

    if (!publisher->link.socket) {
        return;
    }
    zmq_msg_init(&notice);
    while (taken < NOTICES_AT_ONCE &&
           zmq_msg_recv(&notice, publisher->link.socket, ZMQ_DONTWAIT) >= 0) {
        missed |= !sender_take_notice(publisher, zmq_msg_data(&notice), zmq_msg_size(&notice));
        taken++;
    }
    zmq_msg_close(&notice);
    if (missed || (taken > 0 && !sender_follow(publisher))) {
        sender_replace_socket(publisher);
    }
}
