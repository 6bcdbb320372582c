/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/ingest.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/endpoint.h"
#include "daemon/ingest/lane_internal.h"
#include "daemon/ingest/memory.h"
#include "proto/err.h"
#include "daemon/base/log.h"
#include "daemon/ingest/refused.h"
#include "daemon/ingest/share.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

/* Beyond the budget, for what is small and should not be missing: events, the numbers of messages
 * that are dropped. */
#define RESERVE_BYTES (UINT64_C(32) << 20)
/* A stopping ingest has read everything when nothing has come for this long. */
#define QUIET_MS 50
/* Changes of subscriptions that wait per connection: a trainer that reads none of them for as long
 * as it takes to make that number misses the rest. */
#define SUBSCRIPTIONS_MAX 10000
/* How soon messages of the reliable lane that wait for room are tried again. */
#define LANE_RETRY_MS 10
/* How long it goes on reading at most. */
#define DRAIN_NS UINT64_C(1000000000)
/* Messages that are taken at most before what trainers lend is looked at. */
#define MESSAGES_PER_TURN 64

/* A payer may have this many times the free bytes in flight; see ingest_has_room. */
#define SHARE_OF_FREE 8

struct ingest {
    void *socket;          /* the thread's, once it runs */
    struct memory *memory; /* NULL = there is none; the thread's, once it runs */
    struct endpoint_file file;
    struct keyring *ring;          /* of attnd */
    struct keyring *keys;          /* that this socket asks for; NULL: none */
    struct lane *lane;             /* the thread's, once it runs; owned, NULL = none */
    _Atomic(char *) next_endpoint; /* for the thread to bind again; NULL = nothing to do */
    _Atomic(char *) next_lane;     /* for the lane to bind again */
    struct config own;             /* as it was at the start: the loop moves endpoints of its own */
    const struct config *config;
    const struct machine *machine;
    struct inbox *inbox;
    struct stats *stats;
    pthread_t thread;
    bool thread_started;
    int wake_fd;
    struct note stopped;
    struct plan_prefixes *plans;                /* subscribed to; the thread's, once it runs */
    _Atomic(struct plan_prefixes *) next_plans; /* for the thread to take; NULL = no change */
    _Atomic uint64_t in_flight;                 /* of the budget */
    _Atomic uint64_t reserved;                  /* of the reserve */
    struct shares shares;
    struct refused refused;   /* the thread's */
    _Atomic bool keys_differ; /* for the thread to know: the list of keys is another one */
    _Atomic bool stop;
    struct pulse pulse;
};

static void wake(struct ingest *ingest)
{
    uint64_t one = 1;
    (void)!write(ingest->wake_fd, &one, sizeof one); /* fails when signalled 2^64 times */
}

static uint64_t budget_used(struct ingest *ingest)
{
    uint64_t bytes = atomic_load(&ingest->in_flight);
    return bytes > 0 ? bytes + atomic_load(&ingest->shares.scratch) : 0;
}

uint64_t ingest_in_flight(struct ingest *ingest)
{
    uint64_t waiting = ingest->lane ? atomic_load(&ingest->lane->waiting) : 0;
    return budget_used(ingest) + atomic_load(&ingest->reserved) + waiting;
}

static uint64_t ingest_used(struct ingest *ingest, bool reserved, uint64_t *ret_limit)
{
    *ret_limit = reserved ? RESERVE_BYTES : ingest->config->ingest_budget;
    return reserved ? atomic_load(&ingest->reserved) : budget_used(ingest);
}

bool ingest_is_open(struct ingest *ingest)
{
    uint64_t budget, reserve;
    return ingest_used(ingest, false, &budget) < budget &&
           ingest_used(ingest, true, &reserve) < reserve;
}

/* While less than half of the limit is used, or nothing of its payer is in flight, a message is
 * admitted, whatever it costs: `attnctl replay` relies on that. Else the payer may have
 * SHARE_OF_FREE times the free bytes (Choudhury and Hahne 1998): one that is alone gets 8/9 of the
 * limit, n that want all of it 8/(8n + 1) each, and unless a message takes more than half something
 * is left for one that comes. An ingest that was not started has a caller who waits instead. */
static bool ingest_has_room(struct ingest *ingest, const struct message *message)
{
    uint64_t limit, used = ingest_used(ingest, message->reserved, &limit);
    uint64_t held = atomic_load(&message->share->held[message->reserved]), cost = message->cost;
    if (used >= limit) {
        return false;
    }
    if (used < limit / 2 || held == 0 || !ingest->socket) {
        return true;
    }
    return cost <= limit - used && (held + cost) / SHARE_OF_FREE <= limit - used - cost;
}

/* Finds the payer of the message, and the line that it waits in. False: out of memory. */
static bool ingest_find_share(struct ingest *ingest, struct message *message)
{
    struct ingest_share *own = share_put(&ingest->shares, message, &message->share);
    message->line = own ? &own->line : NULL;
    message->share = own ? message->share : NULL;
    return own;
}

static void post_refusal(struct ingest *ingest, struct message *message, int code)
{
    uint64_t limit, used = ingest_used(ingest, true, &limit);
    struct refusal *refusal =
        *message->header.job && used < limit ? calloc(1, sizeof *refusal) : NULL;
    if (!refusal) {
        return; /* nobody to attribute it to; the global counter has it */
    }
    /* With a share it comes after what the job sent before. */
    struct ingest_share *share = share_find(&ingest->shares, message);
    atomic_fetch_add(&ingest->reserved, sizeof *refusal);
    if (share) {
        atomic_fetch_add(&share->held[true], sizeof *refusal);
    }
    refusal->note.kind = NOTE_REFUSED;
    refusal->code = code;
    refusal->share = share;
    strcpy(refusal->job, message->header.job);
    inbox_post(ingest->inbox, share ? &share->line : NULL, &refusal->note);
}

static void ingest_refuse(struct ingest *ingest, struct message *message, int code, const char *key)
{
    stats_received(ingest->stats, message->bytes);
    uint64_t before = stats_drop(ingest->stats, code);
    refused_tell(&ingest->refused, ingest->socket, ingest->ring, message, code, key, before);
    if (code != ERR_KEY) { /* that counts for the key, not for the job it names */
        post_refusal(ingest, message, code);
    }
    if (message->promise) {
        lane_refuse(ingest->lane, message, code);
    }
    if (message->peer) {
        lane_return(ingest->lane, message->peer, message->bytes);
    }
    message_free(&message);
}

/* The loop counts it as received, when it reads the note: whoever sees the count and then asks for
 * a flush gets the message. */
static void ingest_admit(struct ingest *ingest, struct message *message)
{
    message->note.kind = NOTE_ARRIVED;
    message->received_ns = clock_monotonic_ns();
    struct ingest_share *share = message->share;
    uint64_t held = atomic_fetch_add(&share->held[message->reserved], message->cost);
    atomic_fetch_add(message->reserved ? &ingest->reserved : &ingest->in_flight, message->cost);
    if (!message->reserved && (held == 0 || share->scratch < message->scratch)) {
        atomic_fetch_add(&ingest->shares.scratch,
                         message->scratch - share->scratch); /* modulo 2^64 */
        share->scratch = message->scratch;
    }
    stats_add(ingest->stats, COUNT_ADMITTED, message->cost + message->scratch);
    inbox_post(ingest->inbox, message->line, &message->note);
}

static void ingest_empty(struct message *message, int code)
{
    message->cost = sizeof *message + message->bytes - message_free_tensors(message);
    message->scratch = 0;
    message->code = code;
    message->reserved = true;
}

/* Over the budget, or larger than is accepted: the tensors are thrown away. The numbers go on to
 * the loop, which drops the message in its turn: thus it is counted by its reason, and not as lost
 * as well. */
static void ingest_shed(struct ingest *ingest, struct message *message, int code)
{
    ingest_empty(message, code);
    if (ingest_has_room(ingest, message)) {
        ingest_admit(ingest, message);
    } else {
        ingest_refuse(ingest, message, code, NULL);
    }
}

static int ingest_check(struct ingest *ingest, struct message *message, struct keyring *keys,
                        const char **reterr_key)
{
    const char *job = message->header.job;
    int code = message_check(message, ingest->config, reterr_key);
    if (!code) {
        code = work_price(message, ingest->config, ingest->machine);
    }
    if (*job && !keys_allow(keys, &message->frames[0], ACCESS_PUBLISH, job)) {
        code = ERR_KEY; /* whatever else: nobody speaks for the job of another key */
    }
    message->sender = code == ERR_KEY ? NULL : keys_bounded(keys, &message->frames[0]);
    message->reserved = message->header.type == MESSAGE_EVENT;
    return code;
}

int ingest_take(struct ingest *ingest, struct message *message)
{
    const char *key = NULL;
    int code = ingest_check(ingest, message, ingest->keys, &key);
    bool valid = !code || code == ERR_TOO_LARGE || code == ERR_ENTRIES_LIMIT;
    if (valid && !ingest_find_share(ingest, message)) {
        code = ERR_MEMORY;
    }
    if ((code == ERR_TOO_LARGE || code == ERR_ENTRIES_LIMIT) && !message->reserved) {
        ingest_shed(ingest, message, code);
    } else if (code) {
        ingest_refuse(ingest, message, code, key);
    } else if (ingest_has_room(ingest, message)) {
        ingest_admit(ingest, message);
    } else {
        code = ERR_OVER_BUDGET;
        ingest_shed(ingest, message, code);
    }
    return code;
}

/* Takes a message of the reliable lane that passed ingest_check, if there is room for it; returns
 * whether there is. The share of its job may have been freed while it waited. */
static bool ingest_take_reliable(void *data, struct message *message)
{
    struct ingest *ingest = data;
    if (!ingest_find_share(ingest, message) || !lane_is_open(ingest->lane, message) ||
        !ingest_has_room(ingest, message)) {
        return false;
    }
    ingest_admit(ingest, message);
    return true;
}

/* Receives one message of the reliable lane; returns as receive_one. Refuses what can never be
 * taken; the numbers of what is too large go on, as on the other lane, and it is refused in its
 * turn. Without room, or behind others of its sender that wait, a message waits: nothing of this
 * lane is dropped for that, and none overtakes another. */
static int receive_reliable(struct ingest *ingest)
{
    struct message *message = NULL;
    const char *key = NULL;
    int received = ingest->lane ? lane_receive(ingest->lane, &message) : ERR_AGAIN;
    if (!message) {
        return received;
    }
    int code = ingest_check(ingest, message, ingest->lane->keys, &key);
    bool large = (code == ERR_TOO_LARGE || code == ERR_ENTRIES_LIMIT) && !message->reserved;
    code = code || message->header.reliable ? code : ERR_LANE;
    if (large) {
        ingest_empty(message, code);
    }
    if (code && !large) {
        ingest_refuse(ingest, message, code, key);
    } else if (!ingest_take_reliable(ingest, message)) {
        lane_wait(ingest->lane, message);
    }
    return received;
}

/* Takes what waits on the lane, as far as there is room. */
static void ingest_retry_lane(struct ingest *ingest)
{
    if (ingest->lane) {
        lane_retry(ingest->lane, ingest_take_reliable, ingest);
    }
}

void ingest_set_lane(struct ingest *ingest, struct lane **lane, bool (*may_promise)(void *data),
                     void *data)
{
    ingest->lane = *lane;
    ingest->lane->is_open = may_promise;
    ingest->lane->gate = data;
    *lane = NULL;
}

void ingest_return(struct ingest *ingest, struct lane_peer *peer, uint64_t bytes)
{
    if (lane_return(ingest->lane, peer, bytes)) {
        wake(ingest);
    }
}

void ingest_settle(void *data, struct promises *promises)
{
    struct ingest *ingest = data;
    if (lane_settle(ingest->lane, promises)) {
        wake(ingest);
    }
}

void ingest_say_wait(void *data, const char *why)
{
    struct ingest *ingest = data;
    lane_say_wait(ingest->lane, why);
    wake(ingest);
}

void ingest_log_unanswered(struct ingest *ingest)
{
    lane_log_unanswered(ingest->lane);
}

/* Receives and posts one message. Returns 0, ERR_AGAIN when there was none, ERR_CLOSED. */
static int receive_one(struct ingest *ingest)
{
    struct message *message = NULL;
    pulse_beat(&ingest->pulse);
    int code = message_receive(ingest->socket, &message);
    if (code == ERR_AGAIN || code == ERR_CLOSED) {
        return code;
    } else if (code) {
        stats_add(ingest->stats, COUNT_RECEIVED, 1);
        stats_drop(ingest->stats, code);
    } else {
        memory_borrow(ingest->memory, message);
        ingest_take(ingest, message);
    }
    return 0;
}

static void wait_message(struct ingest *ingest, int most_ms)
{
    zmq_pollitem_t items[] = {
        {.socket = ingest->socket, .events = ZMQ_POLLIN},
        {.fd = ingest->wake_fd, .events = ZMQ_POLLIN},
        {.fd = memory_fd(ingest->memory), .events = ZMQ_POLLIN},
        {.socket = ingest->lane ? ingest->lane->socket : NULL, .events = ZMQ_POLLIN},
    };
    zmq_poll(items, ingest->lane ? 4 : 3, memory_idle_ms(ingest->memory, most_ms));
    if (items[1].revents) {
        uint64_t count;
        (void)!read(ingest->wake_fd, &count, sizeof count);
    }
    memory_turn(ingest->memory);
}

/* Plans */

/* Both ends know a prefix by its bytes, so that what stays the same is not said again. */
static void ingest_set_options(struct ingest *ingest, int option,
                               const struct plan_prefixes *prefixes,
                               const struct plan_prefixes *others)
{
    for (uint32_t i = 0; i < prefixes->count; i++) {
        const char *text = prefixes->text[i];
        if (others && plan_prefixes_have(others, text)) {
            continue;
        }
        if (zmq_setsockopt(ingest->socket, option, text, strlen(text)) != 0) {
            log_event(LOG_ERROR, "plan_not_announced", LOG_STR("plan", text),
                      LOG_STR("reason", zmq_strerror(zmq_errno())));
        }
    }
}

static void take_plans(struct ingest *ingest)
{
    struct plan_prefixes *next = atomic_exchange(&ingest->next_plans, NULL);
    if (next) {
        /* New before old: a trainer is never without the plan that it should have. */
        ingest_set_options(ingest, ZMQ_SUBSCRIBE, next, ingest->plans);
        if (ingest->plans) {
            ingest_set_options(ingest, ZMQ_UNSUBSCRIBE, ingest->plans, next);
        }
        free(ingest->plans);
        ingest->plans = next;
    }
}

void ingest_subscribe(struct ingest *ingest, struct plan_prefixes **plans)
{
    free(atomic_exchange(&ingest->next_plans, *plans));
    *plans = NULL;
    wake(ingest);
}

/* Where the socket is to be found */

/* Without memory it is tried the next time. */
static void ingest_ask_to_bind(struct ingest *ingest, _Atomic(char *) *place, const char *endpoint)
{
    char *next = strdup(endpoint);
    if (next) {
        free(atomic_exchange(place, next));
        wake(ingest);
    }
}

void ingest_keep(struct ingest *ingest, const char *endpoint, const char *lane_endpoint)
{
    if (endpoint_is_lost(endpoint, &ingest->file) || memory_is_lost(ingest->memory)) {
        ingest_ask_to_bind(ingest, &ingest->next_endpoint, endpoint);
    }
    if (ingest->lane && endpoint_is_lost(lane_endpoint, &ingest->lane->file)) {
        ingest_ask_to_bind(ingest, &ingest->next_lane, lane_endpoint);
    }
}

static void take_changes(struct ingest *ingest)
{
    char *next = atomic_exchange(&ingest->next_endpoint, NULL);
    if (next) {
        endpoint_keep(ingest->socket, next, &ingest->file);
        memory_keep(ingest->memory);
    }
    free(next);
    next = atomic_exchange(&ingest->next_lane, NULL);
    if (next) {
        endpoint_keep(ingest->lane->socket, next, &ingest->lane->file);
    }
    free(next);
    if (atomic_exchange(&ingest->keys_differ, false)) {
        refused_forget(&ingest->refused, ingest->socket);
    }
}

void ingest_follow_keys(struct ingest *ingest)
{
    atomic_store(&ingest->keys_differ, true);
    wake(ingest);
}

/* Under a flood of messages it ends only for a change of plans or of an address. The lanes take
 * turns, and what is to be said on the reliable one does not wait for the end either; nor is
 * memory that is lent. Returns whether something waits on that lane. */
static bool receive_available(struct ingest *ingest)
{
    bool waits = false;
    int code = 0;
    ingest_retry_lane(ingest);
    for (int left = MESSAGES_PER_TURN;
         !code && left > 0 && !atomic_load(&ingest->stop) && !atomic_load(&ingest->next_plans) &&
         !atomic_load(&ingest->next_endpoint) && !atomic_load(&ingest->next_lane);
         left--) {
        code = receive_one(ingest);
        int code_lane = receive_reliable(ingest);
        code = code && code_lane ? code : 0;
        waits = ingest->lane && lane_go_on(ingest->lane);
    }
    return waits;
}

/* Reads the messages sent before the stop: until nothing has come for QUIET_MS, or for DRAIN_NS, so
 * that trainers that go on sending do not delay it, or until the stop's own deadline.
 * (Unsubscribing first would throw away what is queued: a SUB filters when it receives.) */
static void ingest_drain(struct ingest *ingest)
{
    uint64_t limit = ingest->config->shutdown_timeout;
    uint64_t until = clock_monotonic_ns() + (limit < DRAIN_NS ? limit : DRAIN_NS);
    zmq_pollitem_t items[] = {
        {.socket = ingest->socket, .events = ZMQ_POLLIN},
        {.socket = ingest->lane ? ingest->lane->socket : NULL, .events = ZMQ_POLLIN},
    };
    while (clock_monotonic_ns() < until) {
        int code = receive_one(ingest), code_lane = receive_reliable(ingest);
        if (code && code_lane && zmq_poll(items, ingest->lane ? 2 : 1, QUIET_MS) <= 0) {
            break;
        }
        if (ingest->lane) {
            ingest_retry_lane(ingest);
            lane_go_on(ingest->lane);
        }
    }
}

static void *ingest_main(void *data)
{
    struct ingest *ingest = data;
    bool waits = false;
    pthread_setname_np(pthread_self(), "attnd-ingest");
    while (!atomic_load(&ingest->stop)) {
        stall_point("ingest");
        pulse_beat(&ingest->pulse);
        wait_message(ingest, waits ? LANE_RETRY_MS : -1);
        take_plans(ingest);
        take_changes(ingest);
        waits = receive_available(ingest);
    }
    ingest_drain(ingest);
    ingest->stopped.kind = NOTE_STOPPED;
    inbox_post(ingest->inbox, NULL, &ingest->stopped);
    return NULL;
}

static int open_ends(struct ingest *ingest, void *zmq_context, struct config *config, char *reterr)
{
    ingest->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ingest->wake_fd < 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot create an event descriptor: %s",
                 strerror(errno));
        return -1;
    }
    if (!zmq_context) {
        return 0;
    }
    struct endpoint_options options = {
        .key = "ingest.endpoint",
        .endpoint = config->ingest_endpoint.text,
        .type = ZMQ_SUB,
        .send_queue = SUBSCRIPTIONS_MAX,
        /* ZeroMQ ends the connection of a larger frame, and nobody could say why: what trainers
           that were not told send is read, and counted. */
        .max_message = 2 * (int64_t)config->ingest_max_message,
        .keys = ingest->keys,
        .ret_file = &ingest->file,
    };
    ingest->socket = endpoint_bind(zmq_context, &options, reterr);
    if (!ingest->socket) {
        return -1;
    }
    if (!endpoint_is_secured(ingest->keys, options.endpoint)) {
        ingest->keys = NULL;
    }
    take_plans(ingest); /* first: a trainer that connects now never sees a topic without a plan */
    if (zmq_setsockopt(ingest->socket, ZMQ_SUBSCRIBE, "tensor/", strlen("tensor/")) == 0 &&
        zmq_setsockopt(ingest->socket, ZMQ_SUBSCRIBE, "event/", strlen("event/")) == 0) {
        ingest->memory = memory_new(config, ingest->stats);
        return 0;
    }
    snprintf(reterr, CONFIG_ERROR_MAX, "ingest.endpoint: cannot subscribe: %s",
             zmq_strerror(zmq_errno()));
    return -1;
}

int ingest_new(void *zmq_context, struct keyring *keys, struct config *config,
               const struct machine *machine, struct inbox *inbox, struct stats *stats,
               struct plan_prefixes **plans, struct ingest **ret_ingest, char *reterr)
{
    struct ingest *ingest = calloc(1, sizeof *ingest);
    if (!ingest) {
        free(*plans);
        snprintf(reterr, CONFIG_ERROR_MAX, "%s", err_text(ERR_MEMORY));
        return -1;
    }
    ingest->keys = ingest->ring = keys;
    ingest->own = *config;
    ingest->config = &ingest->own;
    ingest->machine = machine;
    ingest->inbox = inbox;
    ingest->shares.inbox = inbox;
    ingest->stats = stats;
    ingest->wake_fd = -1;
    atomic_init(&ingest->next_plans, *plans);
    *plans = NULL;
    if (open_ends(ingest, zmq_context, config, reterr) != 0) {
        ingest_free(&ingest);
        return -1;
    }
    *ret_ingest = ingest;
    return 0;
}

int ingest_start(struct ingest *ingest, char *reterr)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the thread starts with all blocked */
    int rc = pthread_create(&ingest->thread, NULL, ingest_main, ingest);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "cannot start the ingest thread: %s", strerror(rc));
    }
    ingest->thread_started = rc == 0;
    return rc == 0 ? 0 : -1;
}

void ingest_release(struct ingest *ingest, struct ingest_share *share, uint64_t cost, bool reserved)
{
    uint64_t all = atomic_fetch_sub(reserved ? &ingest->reserved : &ingest->in_flight, cost);
    uint64_t own = cost;
    if (share) { /* last: it may be freed with nothing held */
        own = atomic_fetch_sub(&share->held[reserved], cost);
    }
    assert(all >= cost && own >= cost);
}

const struct pulse *ingest_pulse(const struct ingest *ingest)
{
    return &ingest->pulse;
}

void ingest_ask(void *data)
{
    wake(data);
}

void ingest_stop(struct ingest *ingest)
{
    atomic_store(&ingest->stop, true);
    wake(ingest);
}

void ingest_join(struct ingest *ingest)
{
    if (ingest->thread_started) {
        pthread_join(ingest->thread, NULL);
    }
    ingest->thread_started = false;
    memory_free(&ingest->memory);
    if (ingest->socket) {
        zmq_close(ingest->socket);
    }
    ingest->socket = NULL;
    if (ingest->lane) {
        lane_close(ingest->lane);
    }
}

void ingest_free(struct ingest **ingest_p)
{
    struct ingest *ingest = *ingest_p;
    if (!ingest) {
        return;
    }
    ingest_join(ingest);
    if (ingest->wake_fd >= 0) {
        close(ingest->wake_fd);
    }
    share_free_all(&ingest->shares);
    free(ingest->plans);
    free(atomic_load(&ingest->next_plans));
    free(atomic_load(&ingest->next_endpoint));
    free(atomic_load(&ingest->next_lane));
    lane_free(&ingest->lane);
    free(ingest);
    *ingest_p = NULL;
}
