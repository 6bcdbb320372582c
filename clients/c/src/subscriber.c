/* SPDX-License-Identifier: MIT */
/* The reader's side: a SUB socket, and results that keep the frame they came in, because their
 * strings point into it. */
#include "attn/attn.h"

#include "err.h"
#include "mpk.h"
#include "socket.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

/* Longest topic with its NUL, and longest `kind`; what is longer is no result of ours. */
#define RESULT_TOPIC_MAX 256
#define KIND_MAX         16

struct attn_subscriber {
    void *context, *socket;
};

struct attn_result {
    char topic[RESULT_TOPIC_MAX], kind[KIND_MAX];
    zmq_msg_t frame; /* doc points into it */
    struct mpk_doc doc;
    char *json; /* owned; made on demand */
};

void attn_subscriber_options_default(attn_subscriber_options *ret_options)
{
    *ret_options = (attn_subscriber_options){"tcp://127.0.0.1:5571", "summary/"};
}

static int set_up(attn_subscriber *subscriber, const attn_subscriber_options *options)
{
    static const struct socket_option socket_options[] = {
        {ZMQ_LINGER, 0},          {ZMQ_HEARTBEAT_IVL, 5000},     {ZMQ_HEARTBEAT_TIMEOUT, 15000},
        {ZMQ_RECONNECT_IVL, 100}, {ZMQ_RECONNECT_IVL_MAX, 2000},
    };
    int rc;

    subscriber->context = zmq_ctx_new();
    if (!subscriber->context)
        return ATTN_E_MEMORY;
    rc = socket_open(subscriber->context, ZMQ_SUB, socket_options,
                     sizeof(socket_options) / sizeof(socket_options[0]),
                     (int64_t)mpk_result_limits.bytes, options->endpoint, &subscriber->socket);
    if (!rc && zmq_setsockopt(subscriber->socket, ZMQ_SUBSCRIBE, options->prefix,
                              strlen(options->prefix)) != 0)
        rc = ATTN_E_TRANSPORT;
    return rc;
}

int attn_subscriber_new(const attn_subscriber_options *options, attn_subscriber **ret_subscriber)
{
    attn_subscriber_options defaults;
    attn_subscriber *subscriber;
    int rc;

    attn_subscriber_options_default(&defaults);
    if (!options)
        options = &defaults;
    if (!ret_subscriber || !options->endpoint || !options->prefix)
        return ATTN_E_ARGUMENT;
    subscriber = calloc(1, sizeof(*subscriber));
    if (!subscriber)
        return ATTN_E_MEMORY;
    rc = set_up(subscriber, options);
    if (rc)
        attn_subscriber_free(&subscriber);
    else
        *ret_subscriber = subscriber;
    return rc;
}

void attn_subscriber_free(attn_subscriber **subscriber)
{
    if (!subscriber || !*subscriber)
        return;
    if ((*subscriber)->socket)
        zmq_close((*subscriber)->socket);
    if ((*subscriber)->context)
        socket_context_free((*subscriber)->context);
    free(*subscriber);
    *subscriber = NULL;
}

/* Waits until something can be received. Returns 0, ATTN_E_TIMEOUT or ATTN_E_TRANSPORT. */
static int wait_until(void *socket, int timeout_ms)
{
    uint64_t deadline = socket_now_ms() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);

    for (;;) {
        uint64_t now = socket_now_ms();
        long left = timeout_ms < 0 ? -1 : now < deadline ? (long)(deadline - now) : 0;
        int rc = socket_wait(socket, left);

        if (rc)
            return rc > 0 ? 0 : rc;
        if (left == 0)
            return ATTN_E_TIMEOUT;
    }
}

static int receive_frame(void *socket, zmq_msg_t *frame)
{
    int rc;

    do
        rc = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? ATTN_E_TRANSPORT : 0;
}

/* Receives a whole message: its first two frames, and the number of all. */
static int receive(void *socket, zmq_msg_t *topic, zmq_msg_t *body, unsigned *ret_frames)
{
    zmq_msg_t extra;
    int rc = receive_frame(socket, topic);
    bool more = !rc && zmq_msg_more(topic);

    *ret_frames = 1;
    zmq_msg_init(&extra);
    while (!rc && more) {
        zmq_msg_t *frame = ++*ret_frames == 2 ? body : &extra;

        rc = receive_frame(socket, frame);
        more = !rc && zmq_msg_more(frame);
    }
    zmq_msg_close(&extra);
    return rc;
}

static void fill_kind(attn_result *result)
{
    if (attn_result_text(result, "kind", result->kind, sizeof(result->kind)) != 0)
        result->kind[0] = '\0';
}

/* Takes the body. Returns 0, ATTN_E_MESSAGE or ATTN_E_MEMORY. */
static int make_result(zmq_msg_t *topic, zmq_msg_t *body, attn_result **ret_result)
{
    size_t topic_len = zmq_msg_size(topic);
    attn_result *result;
    int rc;

    if (topic_len >= RESULT_TOPIC_MAX)
        return ATTN_E_MESSAGE;
    result = calloc(1, sizeof(*result));
    if (!result)
        return ATTN_E_MEMORY;
    memcpy(result->topic, zmq_msg_data(topic), topic_len);
    zmq_msg_init(&result->frame);
    zmq_msg_move(&result->frame, body);
    rc = mpk_parse(zmq_msg_data(&result->frame), zmq_msg_size(&result->frame), &mpk_result_limits,
                   &result->doc);
    if (rc) {
        zmq_msg_close(&result->frame);
        free(result);
        return rc == ERR_MEMORY ? ATTN_E_MEMORY : ATTN_E_MESSAGE;
    }
    fill_kind(result);
    *ret_result = result;
    return 0;
}

int attn_subscriber_next(attn_subscriber *subscriber, int timeout_ms, attn_result **ret_result)
{
    zmq_msg_t topic, body;
    unsigned frames;
    int rc = wait_until(subscriber->socket, timeout_ms);

    if (rc)
        return rc;
    zmq_msg_init(&topic);
    zmq_msg_init(&body);
    rc = receive(subscriber->socket, &topic, &body, &frames);
    if (!rc)
        rc = frames == 2 ? make_result(&topic, &body, ret_result) : ATTN_E_MESSAGE;
    zmq_msg_close(&topic);
    zmq_msg_close(&body);
    return rc;
}

/* ---- results ---- */

const char *attn_result_topic(const attn_result *result)
{
    return result->topic;
}

const char *attn_result_kind(const attn_result *result)
{
    return result->kind;
}

const char *attn_result_json(attn_result *result)
{
    if (!result->json)
        result->json = mpk_to_json(result->doc.root, 0);
    return result->json;
}

int attn_result_u64(const attn_result *result, const char *key, uint64_t *ret_number)
{
    const msgpack_object *value = mpk_find(result->doc.root, key);

    if (!value || mpk_get_u64(value, UINT64_MAX, ret_number) != 0)
        return ATTN_E_NOT_FOUND;
    return 0;
}

int attn_result_text(const attn_result *result, const char *key, char *ret_text, size_t size)
{
    const msgpack_object *value = mpk_find(result->doc.root, key);
    size_t len;

    if (size == 0)
        return ATTN_E_ARGUMENT;
    if (!value || value->type != MSGPACK_OBJECT_STR)
        return ATTN_E_NOT_FOUND;
    len = value->via.str.size < size ? value->via.str.size : size - 1;
    if (len > 0)
        memcpy(ret_text, value->via.str.ptr, len);
    ret_text[len] = '\0';
    return 0;
}

/* A metric's map or array, wherever it is listed. */
static const msgpack_object *find_metric(const attn_result *result, const char *metric)
{
    const msgpack_object *found = mpk_find(mpk_find(result->doc.root, "heads"), metric);

    return found ? found : mpk_find(mpk_find(result->doc.root, "spectrum"), metric);
}

static uint32_t array_len(const msgpack_object *value)
{
    return value && value->type == MSGPACK_OBJECT_ARRAY ? value->via.array.size : 0;
}

/* The array over the heads of a metric and statistic; NULL when there is none. */
static const msgpack_object *find_heads(const attn_result *result, const char *metric,
                                        const char *stat)
{
    const msgpack_object *found = find_metric(result, metric);
    bool plain = !stat || strcmp(stat, "last") == 0;

    if (found && found->type == MSGPACK_OBJECT_MAP)
        found = stat ? mpk_find(found, stat) : NULL;
    else if (!plain)
        found = NULL;
    return array_len(found) > 0 ? found : NULL;
}

/* From the first metric of all: every array in `heads` has one entry per head. */
static const msgpack_object *first_value(const msgpack_object *map)
{
    if (!map || map->type != MSGPACK_OBJECT_MAP || map->via.map.size == 0)
        return NULL;
    return &map->via.map.ptr[0].val;
}

uint32_t attn_result_heads(const attn_result *result)
{
    const msgpack_object *first = first_value(mpk_find(result->doc.root, "heads"));

    if (!first)
        first = first_value(mpk_find(result->doc.root, "spectrum"));
    if (first && first->type == MSGPACK_OBJECT_MAP)
        first = first_value(first);
    return array_len(first);
}

int attn_result_stat(const attn_result *result, const char *metric, const char *stat, uint32_t head,
                     double *ret_number)
{
    const msgpack_object *heads = find_heads(result, metric, stat);

    if (head >= array_len(heads) || mpk_get_f64(&heads->via.array.ptr[head], ret_number) != 0)
        return ATTN_E_NOT_FOUND;
    return 0;
}

void attn_result_free(attn_result **result)
{
    if (!result || !*result)
        return;
    free((*result)->json);
    mpk_doc_clear(&(*result)->doc);
    zmq_msg_close(&(*result)->frame);
    free(*result);
    *result = NULL;
}
