/* SPDX-License-Identifier: MIT */
#include "publisher.h"

#include "endpoint.h"
#include "hash.h"
#include "header.h"
#include "log.h"
#include "result.h"
#include "zsock.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* A topic and the byte that says subscribe or unsubscribe: bounds what a peer can make us keep. */
#define SUBSCRIPTION_BYTES_MAX (TOPIC_MAX + 1)
/* How long a stop may go on sending to slow subscribers. */
#define LINGER_MS 1000

struct last_value {
    char topic[TOPIC_MAX];
    void *value;
    size_t size;
    UT_hash_handle hh; /* iteration order is the order of the last put: the head is the stalest */
};

struct publisher {
    struct zsock zsock; /* first: freed with it */
    const struct config *config;
    struct stats *stats;
    struct last_value *values;
    uint64_t value_bytes;
};

static int send_result(struct publisher *publisher, const char *topic, const void *value,
                       size_t size)
{
    void *socket = publisher->zsock.socket;
    if (zmq_send(socket, topic, strlen(topic), ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 ||
        zmq_send(socket, value, size, ZMQ_DONTWAIT) < 0) {
        stats_add(publisher->stats, COUNT_PUBLISH_FAILED, 1);
        return -1;
    }
    return 0;
}

static void remove_value(struct publisher *publisher, struct last_value *value)
{
    HASH_DEL(publisher->values, value);
    publisher->value_bytes -= value->size + sizeof *value;
    free(value->value);
    free(value);
}

/* The stalest last values make room, so that topics cannot use up the memory. */
static void keep_within_limit(struct publisher *publisher)
{
    while (publisher->values && publisher->value_bytes > publisher->config->publish_last_values)
        remove_value(publisher, publisher->values);
}

static void keep_value(struct publisher *publisher, const char *topic, void *buffer, size_t size)
{
    struct last_value *old = NULL;
    HASH_FIND_STR(publisher->values, topic, old);
    if (old)
        remove_value(publisher, old);
    struct last_value *value = calloc(1, sizeof *value);
    if (!value) {
        free(buffer);
        return; /* late subscribers miss this topic; the others have had it */
    }
    strcpy(value->topic, topic);
    value->value = buffer;
    value->size = size;
    HASH_ADD_STR(publisher->values, topic, value);
    if (!value->hh.tbl) {
        free(buffer);
        free(value);
        return;
    }
    publisher->value_bytes += size + sizeof *value;
    keep_within_limit(publisher);
}

void publisher_put(struct publisher *publisher, const char *topic, struct mpk_writer *writer)
{
    size_t size = writer->buffer.size;
    if (!mpk_writer_ok(writer)) {
        stats_add(publisher->stats, COUNT_PUBLISH_FAILED, 1);
        return;
    }
    if (send_result(publisher, topic, writer->buffer.data, size) == 0)
        stats_add(publisher->stats, COUNT_PUBLISHED, 1);
    keep_value(publisher, topic, msgpack_sbuffer_release(&writer->buffer), size);
}

static void send_snapshots(struct publisher *publisher, const char *prefix, size_t length)
{
    struct last_value *value, *next;
    HASH_ITER(hh, publisher->values, value, next)
    {
        if (strncmp(value->topic, prefix, length) != 0)
            continue;
        result_set_snapshot(value->value, value->size, true);
        if (send_result(publisher, value->topic, value->value, value->size) == 0)
            stats_add(publisher->stats, COUNT_SNAPSHOTS, 1);
        result_set_snapshot(value->value, value->size, false);
    }
}

/* An XPUB receives what its subscribers ask for: 1 or 0 for subscribe or unsubscribe, then the
 * prefix. */
static void on_subscription(struct zsock *zsock)
{
    struct publisher *publisher = zsock->data;
    char frame[SUBSCRIPTION_BYTES_MAX + 1] = {0};
    int length = zmq_recv(zsock->socket, frame, SUBSCRIPTION_BYTES_MAX, ZMQ_DONTWAIT);
    if (length < 1 || length > SUBSCRIPTION_BYTES_MAX || frame[0] != 1)
        return;
    stats_add(publisher->stats, COUNT_SUBSCRIPTIONS, 1);
    send_snapshots(publisher, frame + 1, (size_t)length - 1);
}

static void *open_socket(void *zmq_context, struct config *config, char *reterr)
{
    struct endpoint_options options = {
        .key = "publish.endpoint",
        .endpoint = config->publish_endpoint.text,
        .type = ZMQ_XPUB,
        .send_queue = (int)config->publish_send_queue,
        .max_message = SUBSCRIPTION_BYTES_MAX,
        .linger_ms = LINGER_MS,
    };
    int verbose = 1;
    void *socket = endpoint_bind(zmq_context, &options, reterr);
    if (socket) /* every subscription is handed up, also one that another subscriber already has */
        zmq_setsockopt(socket, ZMQ_XPUB_VERBOSE, &verbose, sizeof verbose);
    return socket;
}

int publisher_new(uv_loop_t *loop, void *zmq_context, struct config *config, struct stats *stats,
                  struct publisher **ret_publisher, char *reterr)
{
    struct publisher *publisher = calloc(1, sizeof *publisher);
    void *socket = publisher ? open_socket(zmq_context, config, reterr) : NULL;
    if (!socket)
        goto fail;
    publisher->config = config;
    publisher->stats = stats;
    int rc = zsock_init(&publisher->zsock, loop, socket, on_subscription, publisher);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "publish.endpoint: %s", uv_strerror(rc));
        goto fail_socket;
    }
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

void publisher_forget_job(struct publisher *publisher, const char *job)
{
    struct last_value *value, *next;
    HASH_ITER(hh, publisher->values, value, next)
    {
        if (is_topic_of(value->topic, job))
            remove_value(publisher, value);
    }
}

void publisher_each(const struct publisher *publisher, const char *prefix,
                    void (*visit)(void *data, const char *topic, const void *value, size_t size),
                    void *data)
{
    const struct last_value *value, *next;
    HASH_ITER(hh, publisher->values, value, next)
    {
        if (strncmp(value->topic, prefix, strlen(prefix)) == 0)
            visit(data, value->topic, value->value, value->size);
    }
}

static void on_zsock_closed(struct zsock *zsock)
{
    free(zsock->data);
}

void publisher_close(struct publisher **publisher_p)
{
    struct publisher *publisher = *publisher_p;
    if (!publisher)
        return;
    while (publisher->values)
        remove_value(publisher, publisher->values);
    zsock_close(&publisher->zsock, on_zsock_closed);
    *publisher_p = NULL;
}
