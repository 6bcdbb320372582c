/* SPDX-License-Identifier: MIT */
/* The trainer's side. Three things shape it.
 *
 * Nothing blocks. Sends are ZMQ_DONTWAIT on an XPUB with NODROP, so that a full pipe is an error we
 * can count instead of a silent loss. Nothing is queued for a daemon that is not there (IMMEDIATE),
 * and a dead one is noticed by heartbeats. Every call first takes in the subscriptions that have
 * arrived.
 *
 * A message is all or nothing. ZeroMQ decides at the first frame whether a pipe has room, and then
 * takes the whole message. So everything that can fail happens before the first frame: memory is
 * reserved and the header encoded. The tensors are copied after it, because a message that is
 * refused need not be copied. Should a later frame fail all the same, the socket is replaced:
 * closing it discards the half message.
 *
 * The order of the counters. seq counts what was handed to ZeroMQ, per topic, without gaps; dropped
 * counts what was not, and travels with the topic's next message. So the daemon can tell a lost
 * connection (a gap) from a slow reader (dropped). */
#include "attn/attn.h"

#include "header.h"
#include "message.h"
#include "prefixes.h"
#include "socket.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <zmq.h>

#define QUEUED_MESSAGES_MAX 65536
/* Larger than any notice of a subscription to our topics. */
#define NOTICE_BYTES_MAX 1024
/* Notices taken in by one call, so that a flood of them cannot hold up the training. */
#define NOTICES_PER_CALL 1024
/* Silence after which a daemon's subscriptions are taken for complete. */
#define SETTLE_MS 20
/* So that `hello` fits a header: 1024 layers of at most 50 bytes and 9 elements. */
#define LAYERS_MAX 1024

struct topic {
    struct layer_id id;
    uint64_t seq, dropped;
};

struct attn_publisher {
    void *context, *socket;
    attn_publisher_options options; /* its numbers; the pointers are NULL */
    char endpoint[ENDPOINT_MAX];
    struct header header; /* what all messages have in common */
    struct prefixes prefixes;

    struct topic events;
    struct topic *topics; /* owned; in order of first use */
    size_t topic_count, topic_capacity;
    size_t topic_next; /* where the next look-up starts: training loops repeat themselves */

    struct layer_info *layers; /* owned; what hello says */
    uint32_t layer_count;
    bool has_hello, hello_due;

    _Atomic uint64_t queued_bytes; /* also decremented by ZeroMQ's thread */
    attn_publisher_counts counts;
};

/* ---- life ---- */

void attn_publisher_options_default(attn_publisher_options *ret_options)
{
    *ret_options = (attn_publisher_options){
        .endpoint = "tcp://127.0.0.1:5570",
        .world = 1,
        .max_queued_bytes = (uint64_t)256 << 20,
        .max_queued_messages = 256,
        .linger_ms = 1000,
        .event_retry_ms = 100,
    };
}

static int open_socket(attn_publisher *publisher)
{
    const struct socket_option options[] = {
        {ZMQ_IMMEDIATE, 1},
        {ZMQ_XPUB_NODROP, 1},
        {ZMQ_SNDHWM, (int)publisher->options.max_queued_messages},
        {ZMQ_LINGER, (int)publisher->options.linger_ms},
        {ZMQ_HEARTBEAT_IVL, 1000},
        {ZMQ_HEARTBEAT_TIMEOUT, 3000},
        {ZMQ_HANDSHAKE_IVL, 5000},
        {ZMQ_RECONNECT_IVL, 100},
        {ZMQ_RECONNECT_IVL_MAX, 2000},
    };

    return socket_open(publisher->context, ZMQ_XPUB, options, sizeof(options) / sizeof(options[0]),
                       NOTICE_BYTES_MAX, publisher->endpoint, &publisher->socket);
}

static void close_socket(attn_publisher *publisher)
{
    if (publisher->socket)
        zmq_close(publisher->socket);
    publisher->socket = NULL;
    prefixes_clear(&publisher->prefixes);
}

/* Also called when a message was left half sent; subscriptions come anew with the connection.
 * Should the new socket fail, later calls find none and skip. */
static void replace_socket(attn_publisher *publisher)
{
    close_socket(publisher);
    (void)open_socket(publisher);
}

static bool options_valid(const attn_publisher_options *options)
{
    return options && options->endpoint && strlen(options->endpoint) < ENDPOINT_MAX &&
           options->job && job_name_valid(options->job, strlen(options->job)) &&
           options->world <= WORLD_MAX && options->rank < options->world &&
           options->linger_ms <= INT32_MAX && options->max_queued_messages >= 1 &&
           options->max_queued_messages <= QUEUED_MESSAGES_MAX;
}

static int fill_run(const uint8_t *run, uint8_t *ret_run)
{
    if (run)
        memcpy(ret_run, run, RUN_BYTES);
    else if (getrandom(ret_run, RUN_BYTES, 0) != RUN_BYTES)
        return ATTN_E_TRANSPORT;
    return 0;
}

/* On failure the half-made publisher is freed by the caller. */
static int set_up(attn_publisher *publisher, const attn_publisher_options *options)
{
    int rc = fill_run(options->run, publisher->header.run);

    if (rc)
        return rc;
    publisher->options = *options;
    publisher->options.endpoint = publisher->options.job = NULL; /* the caller's: copied below */
    publisher->options.run = NULL;
    strcpy(publisher->endpoint, options->endpoint);
    strcpy(publisher->header.job, options->job);
    publisher->header.rank = options->rank;
    publisher->header.world = options->world;
    publisher->context = zmq_ctx_new();
    return publisher->context ? open_socket(publisher) : ATTN_E_MEMORY;
}

static void destroy(attn_publisher *publisher)
{
    close_socket(publisher);
    if (publisher->context)
        socket_context_free(publisher->context);
    free(publisher->topics);
    free(publisher->layers);
    free(publisher);
}

int attn_publisher_new(const attn_publisher_options *options, attn_publisher **ret_publisher)
{
    attn_publisher *publisher;
    int rc;

    if (!options_valid(options) || !ret_publisher)
        return ATTN_E_ARGUMENT;
    publisher = calloc(1, sizeof(*publisher));
    if (!publisher)
        return ATTN_E_MEMORY;
    rc = set_up(publisher, options);
    if (rc)
        destroy(publisher);
    else
        *ret_publisher = publisher;
    return rc;
}

/* ---- one message on its way ---- */

static uint64_t total_bytes(const struct header *header)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < header->tensor_count; i++)
        bytes += header->tensors[i].bytes;
    return bytes;
}

static bool has_room(const attn_publisher *publisher, uint64_t bytes)
{
    uint64_t max = publisher->options.max_queued_bytes;

    return bytes <= max && atomic_load(&publisher->queued_bytes) <= max - bytes;
}

static uint64_t realtime_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One attempt; counts a success. */
static int try_send(attn_publisher *publisher, struct topic *topic, const char *name,
                    struct header *header, const void *const *sources)
{
    uint64_t bytes = total_bytes(header);
    struct message message;
    bool cut_short = false;
    int rc;

    if (!has_room(publisher, bytes))
        return ATTN_E_DROPPED;
    header->seq = topic->seq;
    header->dropped = topic->dropped;
    header->time_ns = realtime_ns();
    rc = message_make(name, header, sources, &publisher->queued_bytes, &message);
    if (!rc)
        rc = message_send(publisher->socket, &message, &cut_short);
    if (cut_short)
        replace_socket(publisher);
    if (!rc) {
        topic->seq++;
        publisher->counts.sent++;
        publisher->counts.bytes += bytes;
    }
    return rc;
}

static int count_drop(attn_publisher *publisher, struct topic *topic, int rc)
{
    if (rc < 0 && rc != ATTN_E_ARGUMENT) {
        topic->dropped++;
        publisher->counts.dropped++;
    }
    return rc;
}

/* ---- subscriptions and events ---- */

/* Waits up to wait_ms for room: events are few, and matter. Counts no drop. */
static int send_event(attn_publisher *publisher, enum event_type event, uint32_t wait_ms)
{
    struct header header = publisher->header;
    uint64_t deadline = socket_now_ms() + wait_ms;
    char name[TOPIC_MAX];
    int rc;

    topic_job("event", header.job, name);
    header.type = MESSAGE_EVENT;
    header.event = event;
    if (event == EVENT_HELLO) {
        header.layers = publisher->layers;
        header.layer_count = publisher->layer_count;
        strcpy(header.client, "libattn/" ATTND_VERSION);
    }
    rc = try_send(publisher, &publisher->events, name, &header, NULL);
    while (rc == ATTN_E_DROPPED && socket_now_ms() < deadline) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        rc = try_send(publisher, &publisher->events, name, &header, NULL);
    }
    return rc;
}

static bool wants_events(const attn_publisher *publisher)
{
    char name[TOPIC_MAX];

    topic_job("event", publisher->header.job, name);
    return prefixes_match(&publisher->prefixes, name);
}

/* Takes in the notices that have arrived. */
static void drain(attn_publisher *publisher)
{
    zmq_msg_t notice;

    zmq_msg_init(&notice);
    for (int i = 0; i < NOTICES_PER_CALL; i++) {
        if (zmq_msg_recv(&notice, publisher->socket, ZMQ_DONTWAIT) < 0)
            break;
        prefixes_apply(&publisher->prefixes, zmq_msg_data(&notice), zmq_msg_size(&notice));
    }
    zmq_msg_close(&notice);
}

/* At the start of every call. A daemon that newly wants events has not heard our hello; it is sent
 * without waiting here, and tried again at the next call. */
static void service(attn_publisher *publisher)
{
    bool wanted = wants_events(publisher), wants;

    if (!publisher->socket)
        return;
    drain(publisher);
    wants = wants_events(publisher);
    if (wants && !wanted)
        publisher->hello_due = publisher->has_hello;
    if (wants && publisher->hello_due && send_event(publisher, EVENT_HELLO, 0) == 0)
        publisher->hello_due = false;
}

static int say(attn_publisher *publisher, enum event_type event)
{
    if (!wants_events(publisher)) {
        publisher->counts.skipped++;
        return ATTN_SKIPPED;
    }
    return count_drop(publisher, &publisher->events,
                      send_event(publisher, event, publisher->options.event_retry_ms));
}

int attn_epoch_end(attn_publisher *publisher)
{
    service(publisher);
    return say(publisher, EVENT_EPOCH_END);
}

void attn_publisher_free(attn_publisher **publisher)
{
    if (!publisher || !*publisher)
        return;
    service(*publisher);
    (void)say(*publisher, EVENT_BYE);
    destroy(*publisher);
    *publisher = NULL;
}

static bool id_valid(attn_stack stack, uint32_t layer, attn_site site)
{
    return (unsigned)stack <= ATTN_DECODER && layer <= LAYER_MAX && (unsigned)site <= ATTN_CROSS;
}

static struct layer_id layer_id(attn_stack stack, uint32_t layer, attn_site site)
{
    return (struct layer_id){stack == ATTN_ENCODER ? STACK_ENCODER : STACK_DECODER, layer,
                             site == ATTN_SELF ? SITE_SELF : SITE_CROSS};
}

static bool layers_valid(const attn_layer *layers, size_t count)
{
    if (count > LAYERS_MAX || (count > 0 && !layers))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (!id_valid(layers[i].stack, layers[i].layer, layers[i].site) || layers[i].heads < 1 ||
            layers[i].heads > HEADS_TOTAL_MAX)
            return false;
    }
    return true;
}

int attn_hello(attn_publisher *publisher, const attn_layer *layers, size_t count)
{
    struct layer_info *copy;
    int rc;

    if (!layers_valid(layers, count))
        return ATTN_E_ARGUMENT;
    copy = calloc(count + 1, sizeof(*copy));
    if (!copy)
        return ATTN_E_MEMORY;
    for (size_t i = 0; i < count; i++) {
        copy[i].id = layer_id(layers[i].stack, layers[i].layer, layers[i].site);
        copy[i].heads = layers[i].heads;
    }
    /* The new hello is said below, not by service. */
    publisher->has_hello = publisher->hello_due = false;
    service(publisher);
    free(publisher->layers);
    publisher->layers = copy;
    publisher->layer_count = (uint32_t)count;
    publisher->has_hello = true;
    rc = say(publisher, EVENT_HELLO);
    publisher->hello_due = rc != 0;
    return rc;
}

void attn_set_position(attn_publisher *publisher, uint64_t epoch, uint64_t step)
{
    publisher->header.epoch = epoch;
    publisher->header.step = step;
}

bool attn_publisher_wants(attn_publisher *publisher, attn_stack stack, uint32_t layer,
                          attn_site site)
{
    char name[TOPIC_MAX];

    if (!id_valid(stack, layer, site))
        return false;
    service(publisher);
    topic_layer("tensor", publisher->header.job, layer_id(stack, layer, site), name);
    return prefixes_match(&publisher->prefixes, name);
}

static bool wanted_at_all(const attn_publisher *publisher)
{
    char tensors[TOPIC_MAX], events[TOPIC_MAX];

    topic_job("tensor", publisher->header.job, tensors);
    topic_job("event", publisher->header.job, events);
    return prefixes_touch(&publisher->prefixes, tensors) ||
           prefixes_touch(&publisher->prefixes, events);
}

int attn_publisher_wait(attn_publisher *publisher, int timeout_ms)
{
    uint64_t now = socket_now_ms(), deadline;

    if (timeout_ms < 0)
        return ATTN_E_ARGUMENT;
    deadline = now + (uint64_t)timeout_ms;
    for (;;) {
        bool wanted;
        int rc;

        if (!publisher->socket)
            return ATTN_E_TRANSPORT;
        service(publisher);
        wanted = wanted_at_all(publisher);
        now = socket_now_ms();
        if (now >= deadline)
            return wanted ? 0 : ATTN_E_TIMEOUT;
        /* A daemon's subscriptions come one by one: the first is not yet all of them. */
        rc = socket_wait(publisher->socket, wanted ? SETTLE_MS : (long)(deadline - now));
        if (rc < 0 || (wanted && rc == 0))
            return rc;
    }
}

void attn_publisher_stats(const attn_publisher *publisher, attn_publisher_counts *ret_counts)
{
    *ret_counts = publisher->counts;
    ret_counts->queued_bytes = atomic_load(&publisher->queued_bytes);
}

/* ---- tensors ---- */

static bool same_layer(struct layer_id a, struct layer_id b)
{
    return a.stack == b.stack && a.layer == b.layer && a.site == b.site;
}

static struct topic *add_topic(attn_publisher *publisher, struct layer_id id)
{
    if (publisher->topic_count == publisher->topic_capacity) {
        size_t capacity = publisher->topic_capacity ? 2 * publisher->topic_capacity : 32;
        struct topic *topics = realloc(publisher->topics, capacity * sizeof(*topics));

        if (!topics)
            return NULL;
        publisher->topics = topics;
        publisher->topic_capacity = capacity;
    }
    publisher->topics[publisher->topic_count] = (struct topic){.id = id};
    return &publisher->topics[publisher->topic_count++];
}

/* The counters of a layer; NULL when out of memory. */
static struct topic *topic_of(attn_publisher *publisher, struct layer_id id)
{
    for (size_t i = 0; i < publisher->topic_count; i++) {
        size_t at = (publisher->topic_next + i) % publisher->topic_count;

        if (same_layer(publisher->topics[at].id, id)) {
            publisher->topic_next = at + 1;
            return &publisher->topics[at];
        }
    }
    return add_topic(publisher, id);
}

static bool lengths_valid(const int32_t *lengths, uint32_t batch, uint32_t max)
{
    for (uint32_t i = 0; lengths && i < batch; i++) {
        if (lengths[i] < 0 || (uint32_t)lengths[i] > max)
            return false;
    }
    return true;
}

static uint32_t heads_total(const attn_attention *attention)
{
    return attention->heads_total ? attention->heads_total : attention->heads;
}

static bool attention_valid(const attn_attention *a)
{
    return a && a->weights && id_valid(a->stack, a->layer, a->site) &&
           (unsigned)a->dtype <= ATTN_F64 && (unsigned)a->grad_dtype <= ATTN_F64 && a->batch >= 1 &&
           a->heads >= 1 && a->queries >= 1 && a->keys >= 1 && a->batch <= INT32_MAX &&
           a->queries <= INT32_MAX && a->keys <= INT32_MAX && heads_total(a) <= HEADS_TOTAL_MAX &&
           (uint64_t)a->head_offset + a->heads <= heads_total(a) &&
           /* 14000 entries do not fit the header: not worth a walk */
           (a->batch <= HEADER_BYTES_MAX || (!a->q_len && !a->k_len)) &&
           lengths_valid(a->q_len, a->batch, a->queries) &&
           lengths_valid(a->k_len, a->batch, a->keys);
}

/* The header of a message, and where its tensors are. */
struct outgoing {
    struct header header;
    const void *sources[TENSORS_MAX];
};

/* Appends a tensor unless `data` is NULL. Returns 0 or ATTN_E_ARGUMENT. */
static int add_tensor(struct outgoing *out, struct tensor tensor, const void *data)
{
    if (!data)
        return 0;
    if (tensor_bytes(tensor.dtype, tensor.shape, tensor.rank, &tensor.bytes) != 0 ||
        tensor.bytes > INT64_MAX / TENSORS_MAX)
        return ATTN_E_ARGUMENT;
    out->sources[out->header.tensor_count] = data;
    out->header.tensors[out->header.tensor_count++] = tensor;
    return 0;
}

static int add_tensors(struct outgoing *out, const attn_attention *a)
{
    static const enum dtype dtypes[] = {[ATTN_F32] = DTYPE_F32,
                                        [ATTN_F16] = DTYPE_F16,
                                        [ATTN_BF16] = DTYPE_BF16,
                                        [ATTN_F64] = DTYPE_F64};
    const struct tensor weights = {TENSOR_WEIGHTS,
                                   dtypes[a->dtype],
                                   4,
                                   {a->batch, a->heads, a->queries, a->keys},
                                   0},
                        mask = {TENSOR_MASK, DTYPE_U8, 3, {a->batch, a->queries, a->keys}, 0},
                        tokens = {TENSOR_TOKENS, DTYPE_I32, 2, {a->batch, a->keys}, 0},
                        grad = {TENSOR_GRAD,
                                dtypes[a->grad_dtype],
                                4,
                                {a->batch, a->heads, a->queries, a->keys},
                                0};
    int rc = add_tensor(out, weights, a->weights);

    if (!rc)
        rc = add_tensor(out, mask, a->mask);
    if (!rc)
        rc = add_tensor(out, tokens, a->tokens);
    if (!rc)
        rc = add_tensor(out, grad, a->grad);
    return rc;
}

static void fill_header(const attn_publisher *publisher, const attn_attention *a,
                        struct header *ret_header)
{
    *ret_header = publisher->header;
    ret_header->type = MESSAGE_ATTENTION;
    ret_header->layer = layer_id(a->stack, a->layer, a->site);
    ret_header->batch = a->batch;
    ret_header->heads = a->heads;
    ret_header->queries = a->queries;
    ret_header->keys = a->keys;
    ret_header->causal = a->causal;
    ret_header->window = a->window;
    /* Only read, by header_encode; never freed by header_clear. */
    ret_header->q_len = (int32_t *)(uintptr_t)a->q_len;
    ret_header->k_len = (int32_t *)(uintptr_t)a->k_len;
    ret_header->head_offset = a->head_offset;
    ret_header->heads_total = heads_total(a);
    ret_header->dropout = a->dropout;
    ret_header->learned_sink = a->learned_sink;
}

void attn_attention_default(attn_attention *ret_attention)
{
    *ret_attention = (attn_attention){.stack = ATTN_ENCODER};
}

int attn_publish_attention(attn_publisher *publisher, const attn_attention *attention)
{
    struct outgoing out;
    struct topic *topic;
    char name[TOPIC_MAX];

    if (!attention_valid(attention))
        return ATTN_E_ARGUMENT;
    service(publisher);
    fill_header(publisher, attention, &out.header);
    topic_layer("tensor", out.header.job, out.header.layer, name);
    if (!prefixes_match(&publisher->prefixes, name)) {
        publisher->counts.skipped++;
        return ATTN_SKIPPED;
    }
    if (add_tensors(&out, attention) != 0)
        return ATTN_E_ARGUMENT;
    topic = topic_of(publisher, out.header.layer);
    if (!topic) {
        publisher->counts.dropped++;
        return ATTN_E_MEMORY;
    }
    return count_drop(publisher, topic, try_send(publisher, topic, name, &out.header, out.sources));
}
