/* SPDX-License-Identifier: MIT */
/* Notices of subscriptions, which come from the XPUB socket: what those who listen want, their
 * plan, and what they take. The sending thread's. */
#include "clients/c/src/publisher.h"

#include "clients/c/src/keys.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

/* Taken in at once, so that a flood of notices cannot hold up sending. */
#define NOTICES_AT_ONCE 1024
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
               "attnd at %s has gone, or does not answer: nothing is captured until it is back; "
               "training goes on. %s",
               publisher->home,
               is_here(publisher->home) ? "Start it again: attnd"
                                        : "See whether attnd runs there, and whether the network "
                                          "and the firewalls let it through");
}

/* One that newly wants events has not heard our hello. */
void sender_follow(attn_publisher *publisher)
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
            warner_end(&publisher->warner, WARNING_GONE,
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
        warner_say(&publisher->warner, WARNING_KEY,
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

bool sender_take_notices(attn_publisher *publisher)
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
