/* SPDX-License-Identifier: MIT */
#include "daemon/publish/publisher.h"

#include "daemon/base/endpoint.h"
#include "daemon/base/hash.h"
#include "proto/header.h"
#include "daemon/base/log.h"
#include "proto/result.h"
#include "daemon/base/unread.h"
#include "daemon/base/zsock.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* A topic and the byte that says subscribe or unsubscribe: bounds what a peer can make us keep. */
#define SUBSCRIPTION_BYTES_MAX (TOPIC_MAX + 1)
/* How long a stop may go on sending to slow subscribers. */
#define LINGER_MS 1000
/* Last values are sent again at most this often, whatever number of subscriptions came. */
#define SNAPSHOT_MS 200
/* Prefixes waiting for their last values; with more, everything is sent. */
#define PREFIXES_MAX 64
/* The key of a last value; padding included, so zero it first. */
struct value_key {
    char topic[TOPIC_MAX];
    uint32_t track;
    uint8_t run[RUN_BYTES]; /* of WORTH_OTHER_RUN; 0 for the value that the topic has now */
};

struct last_value {
    struct value_key key;
    uint8_t run[RUN_BYTES];
    void *value;
    size_t size;
    UT_hash_handle hh; /* iteration order is the order of the last put: the head is the stalest */
};

/* The order in which values are forgotten when there is no room. */
enum worth { WORTH_OTHER_RUN, WORTH_LITTLE, WORTH_SUMMARY, WORTH_COUNT };

struct publisher {
    struct zsock zsock;
    struct endpoint_file file;
    struct unread unread;
    uv_timer_t snapshot_timer;
    int open; /* zsock, timer and unread not closed yet */
    void *zmq;
    struct keyring *keys;
    struct config *config;
    struct stats *stats;
    struct last_value *values[WORTH_COUNT];
    uint64_t value_bytes;
    char prefixes[PREFIXES_MAX][TOPIC_MAX]; /* subscribed to, last values not sent yet */
    int prefix_count;
};

/* The body is made before anything is sent: once the topic is out, the body must follow. */
static int send_result(struct publisher *publisher, const char *topic, const void *value,
                       size_t size)
{
    void *socket = publisher->zsock.socket;
    zmq_msg_t body;
    bool sent = unread_make(&publisher->unread, &(struct unread_piece){value, size}, 1, &body) == 0;
    if (sent) {
        sent = zmq_send(socket, topic, strlen(topic), ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0 &&
               zmq_msg_send(&body, socket, ZMQ_DONTWAIT) >= 0;
        zmq_msg_close(&body);
    }
    if (!sent) {
        stats_add(publisher->stats, COUNT_PUBLISH_FAILED, 1);
    }
    return sent ? 0 : -1;
}

static uint64_t publisher_cost(const struct last_value *value)
{
    return value->size + sizeof *value;
}

static void take_out(struct publisher *publisher, enum worth worth, struct last_value *value)
{
    HASH_DEL(publisher->values[worth], value);
    publisher->value_bytes -= publisher_cost(value);
}

static void remove_value(struct publisher *publisher, enum worth worth, struct last_value *value)
{
    take_out(publisher, worth, value);
    free(value->value);
    free(value);
}

/* The stalest last values make room, so that topics cannot use up the memory. */
static void keep_within_limit(struct publisher *publisher)
{
    for (int worth = 0; worth < WORTH_COUNT; worth++) {
        while (publisher->values[worth] &&
               publisher->value_bytes > publisher->config->publish_budget / CONFIG_PUBLISH_SHARE) {
            remove_value(publisher, (enum worth)worth, publisher->values[worth]);
        }
    }
}

static struct value_key make_key(const char *topic, uint32_t track)
{
    struct value_key key;
    memset(&key, 0, sizeof key);
    strcpy(key.topic, topic);
    key.track = track;
    return key;
}

static struct last_value *find_value(const struct publisher *publisher, enum worth worth,
                                     const struct value_key *key)
{
    struct last_value *found = NULL;
    HASH_FIND(hh, publisher->values[worth], key, sizeof *key, found);
    return found;
}

/* Without memory the value is gone. */
static void publisher_add_value(struct publisher *publisher, enum worth worth,
                                struct last_value *value)
{
    if (!value) {
        return;
    }
    HASH_ADD(hh, publisher->values[worth], key, sizeof value->key, value);
    if (value->hh.tbl) {
        publisher->value_bytes += publisher_cost(value);
        keep_within_limit(publisher);
        return;
    }
    free(value->value);
    free(value);
}

/* NULL when out of memory; the buffer is then freed. */
static struct last_value *make_value(const struct value_key *key, const uint8_t *run, void *buffer,
                                     size_t size)
{
    struct last_value *value = calloc(1, sizeof *value);
    if (!value) {
        free(buffer);
        return NULL;
    }
    void *fitted = realloc(buffer, size); /* the writer's buffer doubles */
    memcpy(&value->key, key, sizeof *key);
    memcpy(value->run, run, RUN_BYTES);
    value->value = fitted ? fitted : buffer;
    value->size = size;
    return value;
}

/* Without memory late subscribers miss this topic; the others have had it. */
static void keep_value(struct publisher *publisher, enum worth worth, const struct value_key *key,
                       const uint8_t *run, void *buffer, size_t size)
{
    /* Makes the topic's place free for a value of the run. */
    struct value_key own = *key;
    memcpy(own.run, run, RUN_BYTES);
    struct last_value *now = find_value(publisher, worth, key);
    struct last_value *before = find_value(publisher, WORTH_OTHER_RUN, &own);
    if (before) {
        remove_value(publisher, WORTH_OTHER_RUN, before);
    }
    if (now && memcmp(now->run, run, RUN_BYTES) == 0) {
        remove_value(publisher, worth, now);
    } else if (now) {
        /* The topic is another run's from now on. */
        take_out(publisher, worth, now);
        memcpy(now->key.run, now->run, RUN_BYTES);
        publisher_add_value(publisher, WORTH_OTHER_RUN, now);
    }
    publisher_add_value(publisher, worth, make_value(key, run, buffer, size));
}

bool publisher_send(struct publisher *publisher, const char *topic, const struct mpk_writer *writer)
{
    if (!mpk_writer_ok(writer)) {
        stats_add(publisher->stats, COUNT_PUBLISH_FAILED, 1);
        return false;
    }
    if (send_result(publisher, topic, writer->buffer.data, writer->buffer.size) == 0) {
        stats_add(publisher->stats, COUNT_PUBLISHED, 1);
    }
    return true;
}

void publisher_put(struct publisher *publisher, const uint8_t *run, const char *topic,
                   uint32_t track, struct mpk_writer *writer, bool is_summary)
{
    size_t size = writer->buffer.size;
    struct value_key key = make_key(topic, track);
    if (publisher_send(publisher, topic, writer)) {
        keep_value(publisher, is_summary ? WORTH_SUMMARY : WORTH_LITTLE, &key, run,
                   msgpack_sbuffer_release(&writer->buffer), size);
    }
}

bool publisher_recall(struct publisher *publisher, const uint8_t *run, const char *topic,
                      uint32_t track, struct mpk_writer *writer)
{
    size_t size = writer->buffer.size;
    struct value_key key = make_key(topic, track);
    enum worth worth = find_value(publisher, WORTH_SUMMARY, &key) ? WORTH_OTHER_RUN : WORTH_SUMMARY;
    if (!mpk_writer_ok(writer)) {
        return true;
    }
    if (worth == WORTH_OTHER_RUN) {
        memcpy(key.run, run, RUN_BYTES);
    }
    publisher_add_value(publisher, worth,
                        make_value(&key, run, msgpack_sbuffer_release(&writer->buffer), size));
    return publisher->value_bytes + size < publisher->config->publish_budget / CONFIG_PUBLISH_SHARE;
}

/* Snapshots */

static bool is_awaited(const struct publisher *publisher, const char *topic)
{
    for (int i = 0; i < publisher->prefix_count; i++) {
        if (strncmp(topic, publisher->prefixes[i], strlen(publisher->prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* The timer runs for SNAPSHOT_MS after each round; what was subscribed to meanwhile is the next
 * round. */
static void on_snapshot_timer(uv_timer_t *timer)
{
    struct publisher *publisher = timer->data;
    if (publisher->prefix_count == 0) {
        return;
    }
    struct last_value *value, *next;
    for (int worth = WORTH_LITTLE; worth < WORTH_COUNT; worth++) {
        HASH_ITER(hh, publisher->values[worth], value, next)
        {
            if (is_awaited(publisher, value->key.topic)) {
                result_set_snapshot(value->value, value->size, true);
                if (send_result(publisher, value->key.topic, value->value, value->size) == 0) {
                    stats_add(publisher->stats, COUNT_SNAPSHOTS, 1);
                }
                result_set_snapshot(value->value, value->size, false);
            }
        }
    }
    publisher->prefix_count = 0;
    uv_timer_start(timer, on_snapshot_timer, SNAPSHOT_MS, 0);
}

static void publisher_add_prefix(struct publisher *publisher, const char *prefix)
{
    for (int i = 0; i < publisher->prefix_count; i++) {
        if (strcmp(publisher->prefixes[i], prefix) == 0) {
            return;
        }
    }
    if (publisher->prefix_count == PREFIXES_MAX) {
        publisher->prefix_count = 0;
        prefix = "";
    }
    strcpy(publisher->prefixes[publisher->prefix_count++], prefix);
}

/* An XPUB receives what its subscribers ask for: 1 or 0 for subscribe or unsubscribe, then the
 * prefix. */
static void publisher_on_subscription(struct zsock *zsock)
{
    struct publisher *publisher = zsock->data;
    char frame[SUBSCRIPTION_BYTES_MAX + 1] = {0};
    int fd;
    int length = keys_receive(publisher->keys, zsock->socket, frame, SUBSCRIPTION_BYTES_MAX, &fd);
    if (length < 1 || length >= SUBSCRIPTION_BYTES_MAX || frame[0] != 1) {
        return;
    }
    stats_add(publisher->stats, COUNT_SUBSCRIPTIONS, 1);
    publisher_add_prefix(publisher, frame + 1);
    if (!uv_is_active((const uv_handle_t *)&publisher->snapshot_timer)) {
        on_snapshot_timer(&publisher->snapshot_timer);
    }
}

static void *publisher_open_socket(struct publisher *publisher, bool again, char *reterr)
{
    struct endpoint_options options = {
        .key = "publish.endpoint",
        .endpoint = publisher->config->publish_endpoint.text,
        .type = ZMQ_XPUB,
        .send_queue = (int)publisher->config->publish_send_queue,
        .max_message = SUBSCRIPTION_BYTES_MAX,
        .linger_ms = 0, /* of connections that end: what was for them goes at once */
        .keys = publisher->keys,
        .again = again,
        .ret_file = &publisher->file,
    };
    const int verbose = 1, linger_ms = LINGER_MS;
    void *socket = endpoint_bind(publisher->zmq, &options, reterr);
    if (socket) { /* every subscription is handed up, also one that another subscriber already has
                   */
        zmq_setsockopt(socket, ZMQ_XPUB_VERBOSE, &verbose, sizeof verbose);
        zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms); /* when it is closed */
    }
    return socket;
}

static void *publisher_open_again(void *data)
{
    char error[CONFIG_ERROR_MAX] = "";
    void *socket = publisher_open_socket(data, true, error);
    if (!socket) {
        log_event(LOG_ERROR, "socket_lost", LOG_STR("reason", error));
    }
    return socket;
}

void publisher_renew(struct publisher *publisher)
{
    if (endpoint_is_secured(publisher->keys, publisher->config->publish_endpoint.text)) {
        zsock_renew(&publisher->zsock, publisher_open_again);
    }
}

int publisher_new(uv_loop_t *loop, void *zmq_context, struct keyring *keys, struct config *config,
                  struct stats *stats, struct publisher **ret_publisher, char *reterr)
{
    struct publisher *publisher = calloc(1, sizeof *publisher);
    void *socket = NULL;
    if (publisher) {
        publisher->zmq = zmq_context;
        publisher->keys = keys;
        publisher->config = config;
        publisher->stats = stats;
        socket = publisher_open_socket(publisher, false, reterr);
    }
    if (!socket) {
        goto fail;
    }
    int rc = zsock_init(&publisher->zsock, loop, socket, publisher_on_subscription, publisher);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "publish.endpoint: %s", uv_strerror(rc));
        goto fail_socket;
    }
    uv_timer_init(loop, &publisher->snapshot_timer);
    publisher->snapshot_timer.data = publisher;
    publisher->unread = (struct unread){.kind = UNREAD_RESULTS,
                                        .config = config,
                                        .service = "publish",
                                        .endpoint = config->publish_endpoint.text,
                                        .keys = keys,
                                        .stats = stats};
    unread_start(&publisher->unread, loop);
    publisher->open = 3;
    *ret_publisher = publisher;
    return 0;

fail_socket:
    zmq_close(socket);
fail:
    free(publisher);
    return -1;
}

/* "<word>/<job>/..." */
static bool is_topic_of(const char *topic, const char *job)
{
    const char *second = strchr(topic, '/');
    size_t length = strlen(job);
    return second && strncmp(second + 1, job, length) == 0 && second[1 + length] == '/';
}

void publisher_keep(struct publisher *publisher)
{
    if (!publisher->zsock.socket) {
        publisher_renew(publisher);
        return;
    }
    endpoint_keep(publisher->zsock.socket, publisher->config->publish_endpoint.text,
                  &publisher->file);
}

void publisher_forget_job(struct publisher *publisher, const char *job)
{
    struct last_value *value, *next;
    for (int worth = 0; publisher && worth < WORTH_COUNT; worth++) {
        HASH_ITER(hh, publisher->values[worth], value, next)
        {
            if (is_topic_of(value->key.topic, job)) {
                remove_value(publisher, (enum worth)worth, value);
            }
        }
    }
}

void publisher_each(const struct publisher *publisher, const char *prefix,
                    void (*visit)(void *data, const char *topic, const uint8_t *run, uint32_t track,
                                  const void *value, size_t size),
                    void *data)
{
    const struct last_value *value, *next;
    for (int worth = 0; worth < WORTH_COUNT; worth++) {
        HASH_ITER(hh, publisher->values[worth], value, next)
        {
            if (strncmp(value->key.topic, prefix, strlen(prefix)) == 0) {
                visit(data, value->key.topic, value->run, value->key.track, value->value,
                      value->size);
            }
        }
    }
}

bool publisher_has(const struct publisher *publisher, const uint8_t *run, const char *topic,
                   uint32_t track)
{
    struct value_key key = make_key(topic, track);
    for (int worth = WORTH_LITTLE; worth < WORTH_COUNT; worth++) {
        const struct last_value *now = find_value(publisher, (enum worth)worth, &key);
        if (now && memcmp(now->run, run, RUN_BYTES) == 0) {
            return true;
        }
    }
    memcpy(key.run, run, RUN_BYTES);
    return find_value(publisher, WORTH_OTHER_RUN, &key) != NULL;
}

static void on_part_closed(void *data)
{
    struct publisher *publisher = data;
    if (--publisher->open == 0) {
        free(publisher);
    }
}

static void publisher_on_zsock_closed(struct zsock *zsock)
{
    on_part_closed(zsock->data);
}

static void on_timer_closed(uv_handle_t *timer)
{
    on_part_closed(timer->data);
}

void publisher_close(struct publisher **publisher_p)
{
    struct publisher *publisher = *publisher_p;
    if (!publisher) {
        return;
    }
    for (int worth = 0; worth < WORTH_COUNT; worth++) {
        while (publisher->values[worth]) {
            remove_value(publisher, (enum worth)worth, publisher->values[worth]);
        }
    }
    zsock_close(&publisher->zsock, publisher_on_zsock_closed);
    uv_close((uv_handle_t *)&publisher->snapshot_timer, on_timer_closed);
    unread_close(&publisher->unread, on_part_closed, publisher);
    *publisher_p = NULL;
}
