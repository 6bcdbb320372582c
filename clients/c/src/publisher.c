/* SPDX-License-Identifier: MIT */
/* The trainer's side of a publisher: life, events, position, and what is wanted. */
#include "clients/c/src/publisher.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define QUEUED_MESSAGES_MAX 65536
/* The bound for events, on top of the bound for tensors. */
#define QUEUED_EVENTS_MAX 1024
/* Silence after which a daemon's subscriptions are taken for complete. */
#define SETTLE_MS 20
/* So that `hello` fits a header: 1024 layers of at most 50 bytes and 9 elements. */
#define LAYERS_MAX 1024

/* ---- fork ---- */

/* The child has the parent's memory and none of its threads; ZeroMQ's sockets must not be touched
 * there, and the lock may be held by a thread that is not there. So a publisher is recognised by
 * how many forks lay behind it when it was made, before anything else of it is looked at. */
static _Atomic unsigned forks;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
/* Keeps reachable what a child process cannot free. */
static attn_publisher *_Atomic orphans;

static void count_fork(void)
{
    atomic_fetch_add(&forks, 1);
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, count_fork);
}

bool publisher_is_orphan(const attn_publisher *publisher)
{
    return publisher->fork_generation != atomic_load_explicit(&forks, memory_order_relaxed);
}

/* ---- life ---- */

void attn_publisher_options_default(attn_publisher_options *ret_options)
{
    *ret_options = (attn_publisher_options){
        .world = 1,
        .max_queued_bytes = (uint64_t)256 << 20,
        .max_queued_messages = 256,
        .linger_ms = 1000,
        .every = ATTN_UNSAID,
        .samples = ATTN_UNSAID,
        .rows = ATTN_UNSAID,
        .alive_ms = 30000,
    };
}

static bool request_valid(uint32_t number)
{
    return number <= PLAN_NUMBER_MAX || number == ATTN_UNSAID;
}

static bool options_valid(const attn_publisher_options *options)
{
    return options && options->job && job_name_valid(options->job, strlen(options->job)) &&
           options->world <= WORLD_MAX && options->rank < options->world &&
           options->linger_ms <= INT32_MAX && options->alive_ms <= INT32_MAX &&
           options->max_queued_messages >= 1 &&
           options->max_queued_messages <= QUEUED_MESSAGES_MAX && request_valid(options->every) &&
           request_valid(options->samples) && request_valid(options->rows);
}

/* Without the thread. On failure the half-made publisher is freed by the caller. */
static int publisher_set_up(attn_publisher *publisher, const attn_publisher_options *options)
{
    const struct plan_requests own = {options->every, options->samples, options->rows};
    pthread_condattr_t monotonic;
    publisher->options = *options;
    /* The caller's: copied below. */
    publisher->options.endpoint = publisher->options.address = publisher->options.job = NULL;
    publisher->options.run = NULL;
    strcpy(publisher->identity.job, options->job);
    publisher->warner = (struct warner){.say = options->warn, .context = options->warn_context};
    strcpy(publisher->warner.job, options->job);
    publisher->identity.rank = options->rank;
    publisher->identity.world = options->world;
    publisher->fork_generation = atomic_load(&forks);
    publisher->wake = -1;
    publisher->last = &publisher->first;
    publisher->generation = 1;
    publisher->bounds = bounds_of(&publisher->prefixes, &publisher->bad_bounds);
    publisher->look_ms = socket_now_ms() + options->alive_ms;
    (void)plan_choose(&publisher->prefixes, options->job, &own, &publisher->plan,
                      &publisher->bad_plans);
    pthread_mutex_init(&publisher->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&publisher->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = link_name(options->endpoint, options->address, ADDRESS_INGEST, LINK_LOOK_EVERY_MS,
                       &publisher->target);
    if (rc) {
        return rc;
    }
    if (options->run) {
        memcpy(publisher->identity.run, options->run, RUN_BYTES);
    } else if (getrandom(publisher->identity.run, RUN_BYTES, 0) != RUN_BYTES) {
        return ATTN_E_TRANSPORT;
    }
    publisher->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    publisher->context = socket_context_new();
    if (publisher->wake < 0 || !publisher->context) {
        return ATTN_E_MEMORY;
    }
    return sender_open(publisher);
}

/* The thread has ended, or was never there. */
static void publisher_destroy(attn_publisher *publisher, uint32_t linger_ms)
{
    queue_clear(publisher);
    sender_close(publisher, linger_ms);
    socket_context_free(publisher->context);
    if (publisher->wake >= 0) {
        close(publisher->wake);
    }
    topics_clear(&publisher->topics);
    free(publisher->layers);
    free(publisher->next_layers);
    pthread_cond_destroy(&publisher->changed);
    pthread_mutex_destroy(&publisher->lock);
    free(publisher);
}

int attn_publisher_new(const attn_publisher_options *options, attn_publisher **ret_publisher)
{
    attn_publisher *publisher;
    if (!options_valid(options) || !ret_publisher) {
        return ATTN_E_ARGUMENT;
    }
    pthread_once(&fork_once, watch_forks);
    publisher = calloc(1, sizeof *publisher);
    if (!publisher) {
        return ATTN_E_MEMORY;
    }
    int rc = publisher_set_up(publisher, options);
    if (!rc) {
        rc = socket_thread(&publisher->thread, sender_run, publisher) ? ATTN_E_MEMORY : 0;
    }
    if (rc) {
        publisher_destroy(publisher, 0);
    } else {
        *ret_publisher = publisher;
    }
    return rc;
}

static int publisher_say(attn_publisher *publisher, enum event_type event);

void attn_publisher_free(attn_publisher **publisher)
{
    attn_publisher *p = publisher ? *publisher : NULL;
    if (!p) {
        return;
    }
    *publisher = NULL;
    if (publisher_is_orphan(p)) {
        p->next_orphan = atomic_load(&orphans);
        while (!atomic_compare_exchange_weak(&orphans, &p->next_orphan, p)) {
            continue;
        }
        return;
    }
    (void)publisher_say(p, EVENT_BYE);
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    p->deadline_ms = socket_now_ms() + p->options.linger_ms;
    bool asleep = queue_rouse(p);
    pthread_mutex_unlock(&p->lock);
    queue_wake(p, asleep);
    pthread_join(p->thread, NULL);
    uint64_t now = socket_now_ms();
    publisher_destroy(p, now < p->deadline_ms ? (uint32_t)(p->deadline_ms - now) : 0);
}

/* ---- events ---- */

static struct wire_message *new_event(const attn_publisher *publisher, enum event_type event)
{
    struct wire_message *message = calloc(1, sizeof *message);
    if (!message) {
        return NULL;
    }
    message->header = publisher->identity;
    message->header.type = MESSAGE_EVENT;
    message->header.event = event;
    return message;
}

/* Counts an event and queues it; takes it. Logs are bounded as tensors are. Under the lock. */
static int publisher_put_event(attn_publisher *publisher, struct wire_message **message,
                               bool *ret_asleep)
{
    enum event_type event = *message ? (*message)->header.event : EVENT_HELLO;
    uint64_t max = (uint64_t)publisher->options.max_queued_messages +
                   (event == EVENT_LOG ? 0 : QUEUED_EVENTS_MAX);
    publisher->counts.published++;
    if (!publisher->has_event_reader) {
        publisher->counts.skipped++;
        return ATTN_SKIPPED;
    }
    if (!*message || publisher->counts.queued >= max) {
        (void)queue_drop(publisher, &publisher->events, ATTN_E_DROPPED);
        return *message ? ATTN_E_DROPPED : ATTN_E_MEMORY;
    }
    (*message)->topic = &publisher->events;
    (*message)->header.epoch = publisher->epoch;
    (*message)->header.step = publisher->step;
    publisher->counts.queued++;
    *ret_asleep = queue_append(publisher, *message);
    *message = NULL;
    return 0;
}

/* Takes the message; NULL: out of memory. */
static int publisher_hand_over(attn_publisher *publisher, struct wire_message *message)
{
    bool asleep = false;
    pthread_mutex_lock(&publisher->lock);
    int rc = publisher_put_event(publisher, &message, &asleep);
    pthread_mutex_unlock(&publisher->lock);
    queue_wake(publisher, asleep);
    message_free(message);
    return rc;
}

static int publisher_say(attn_publisher *publisher, enum event_type event)
{
    return publisher_hand_over(publisher, new_event(publisher, event));
}

int attn_epoch_end(attn_publisher *publisher)
{
    return publisher_is_orphan(publisher) ? ATTN_SKIPPED
                                          : publisher_say(publisher, EVENT_EPOCH_END);
}

/* Names are copied one after the other into values->texts. */
static int publisher_copy_values(const attn_value *values, size_t count,
                                 struct named_values *ret_values)
{
    size_t bytes = 1;
    char *at;
    if (count < 1 || count > LOG_VALUES_MAX || !values) {
        return ATTN_E_ARGUMENT;
    }
    for (size_t i = 0; i < count; i++) {
        if (!values[i].name || !named_name_valid(values[i].name, strlen(values[i].name))) {
            return ATTN_E_ARGUMENT;
        }
        for (size_t j = 0; j < i; j++) {
            if (strcmp(values[i].name, values[j].name) == 0) {
                return ATTN_E_ARGUMENT;
            }
        }
        bytes += strlen(values[i].name) + 1;
    }
    ret_values->list = calloc(count, sizeof *ret_values->list);
    at = ret_values->texts = malloc(bytes);
    if (!ret_values->list || !at) {
        return ATTN_E_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        ret_values->list[i] =
            (struct named_value){.name = strcpy(at, values[i].name),
                                 .kind = isfinite(values[i].value) ? NAMED_NUMBER : NAMED_NONE,
                                 .number = values[i].value};
        at += strlen(at) + 1;
    }
    ret_values->count = (uint32_t)count;
    return 0;
}

int attn_log(attn_publisher *publisher, const attn_value *values, size_t count)
{
    struct named_values copy = {NULL, 0, NULL};
    int rc = publisher_copy_values(values, count, &copy);
    if (rc || publisher_is_orphan(publisher)) {
        named_clear(&copy);
        return rc ? rc : ATTN_SKIPPED;
    }
    struct wire_message *message = new_event(publisher, EVENT_LOG);
    if (message) {
        message->header.values = copy;
    } else {
        named_clear(&copy);
    }
    return publisher_hand_over(publisher, message);
}

bool layer_valid(attn_stack stack, uint32_t layer, attn_site site)
{
    return (unsigned)stack <= ATTN_DECODER && layer <= LAYER_MAX && (unsigned)site <= ATTN_CROSS;
}

struct layer_id layer_id_of(attn_stack stack, uint32_t layer, attn_site site)
{
    return (struct layer_id){stack == ATTN_ENCODER ? STACK_ENCODER : STACK_DECODER, layer,
                             site == ATTN_SELF ? SITE_SELF : SITE_CROSS};
}

int attn_hello(attn_publisher *publisher, const attn_layer *layers, size_t count)
{
    struct layer_info *copy;
    bool asleep = false;
    if (count > LAYERS_MAX || (count > 0 && !layers)) {
        return ATTN_E_ARGUMENT;
    }
    for (size_t i = 0; i < count; i++) {
        if (!layer_valid(layers[i].stack, layers[i].layer, layers[i].site) || layers[i].heads < 1 ||
            layers[i].heads > HEADS_TOTAL_MAX) {
            return ATTN_E_ARGUMENT;
        }
    }
    if (publisher_is_orphan(publisher)) {
        return ATTN_SKIPPED;
    }
    copy = calloc(count + 1, sizeof *copy);
    if (!copy) {
        return ATTN_E_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        copy[i].id = layer_id_of(layers[i].stack, layers[i].layer, layers[i].site);
        copy[i].heads = layers[i].heads;
    }
    /* The queued hello stands for one that was due; otherwise it is due when somebody comes. */
    struct wire_message *message = new_event(publisher, EVENT_HELLO);
    pthread_mutex_lock(&publisher->lock);
    free(publisher->next_layers);
    publisher->next_layers = copy;
    publisher->next_layer_count = (uint32_t)count;
    publisher->has_next_layers = publisher->has_hello = true;
    int rc = publisher_put_event(publisher, &message, &asleep);
    publisher->hello_due = rc != 0;
    pthread_mutex_unlock(&publisher->lock);
    queue_wake(publisher, asleep);
    message_free(message);
    return rc;
}

/* ---- position, plan, counts ---- */

void attn_set_position(attn_publisher *publisher, uint64_t epoch, uint64_t step)
{
    if (publisher_is_orphan(publisher)) {
        return;
    }
    pthread_mutex_lock(&publisher->lock);
    publisher->epoch = epoch;
    publisher->step = step;
    pthread_mutex_unlock(&publisher->lock);
}

bool attn_publisher_wants(attn_publisher *publisher, attn_stack stack, uint32_t layer,
                          attn_site site)
{
    if (!layer_valid(stack, layer, site) || publisher_is_orphan(publisher) ||
        !publisher->has_tensor_reader || publisher->stalled) {
        return false;
    }
    pthread_mutex_lock(&publisher->lock);
    struct topic *topic = plan_takes_step(&publisher->plan, publisher->step)
                              ? topics_get(&publisher->topics, layer_id_of(stack, layer, site))
                              : NULL;
    if (topic) {
        queue_look_up(publisher, topic);
    }
    bool wanted = topic && topic->subscribed && topic->planned;
    pthread_mutex_unlock(&publisher->lock);
    return wanted;
}

int attn_publisher_plan(attn_publisher *publisher, attn_plan *ret_plan)
{
    bool has_plan;
    if (publisher_is_orphan(publisher)) {
        attn_plan_default(ret_plan);
        return ATTN_SKIPPED;
    }
    pthread_mutex_lock(&publisher->lock);
    *ret_plan = publisher->plan;
    has_plan = publisher->has_plan;
    pthread_mutex_unlock(&publisher->lock);
    return has_plan ? 0 : ATTN_SKIPPED;
}

/* A daemon's subscriptions come one by one: the first is not yet all of them. Under the lock. */
static int publisher_wait_until(attn_publisher *publisher, uint64_t deadline_ms)
{
    for (;;) {
        bool wanted = publisher->has_tensor_reader || publisher->has_event_reader;
        uint64_t now = socket_now_ms(), settled = publisher->notice_ms + SETTLE_MS;
        if (wanted && now >= settled) {
            return 0;
        }
        if (now >= deadline_ms) {
            return wanted ? 0 : ATTN_E_TIMEOUT;
        }
        uint64_t until_ms = wanted && settled < deadline_ms ? settled : deadline_ms;
        const struct timespec until = {(time_t)(until_ms / 1000),
                                       (long)(until_ms % 1000) * 1000000};
        (void)pthread_cond_timedwait(&publisher->changed, &publisher->lock, &until);
    }
}

int attn_publisher_wait(attn_publisher *publisher, int timeout_ms)
{
    if (timeout_ms < 0) {
        return ATTN_E_ARGUMENT;
    }
    if (publisher_is_orphan(publisher)) {
        return ATTN_E_TIMEOUT;
    }
    pthread_mutex_lock(&publisher->lock);
    int rc = publisher_wait_until(publisher, socket_now_ms() + (uint64_t)timeout_ms);
    pthread_mutex_unlock(&publisher->lock);
    return rc;
}

void attn_publisher_stats(attn_publisher *publisher, attn_publisher_counts *ret_counts)
{
    uint64_t skipped;
    *ret_counts = (attn_publisher_counts){0};
    if (publisher_is_orphan(publisher)) {
        return;
    }
    pthread_mutex_lock(&publisher->lock);
    *ret_counts = publisher->counts;
    ret_counts->bad_plans = publisher->bad_plans + publisher->bad_bounds;
    pthread_mutex_unlock(&publisher->lock);
    skipped = atomic_load(&publisher->skipped);
    ret_counts->published += skipped;
    ret_counts->skipped += skipped;
    ret_counts->queued_bytes = atomic_load(&publisher->queued_bytes);
}
