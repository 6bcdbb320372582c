/* SPDX-License-Identifier: MIT */
#include "control.h"

#include "clock.h"
#include "endpoint.h"
#include "pool.h"
#include "zsock.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define REQUEST_BYTES_MAX 65536
/* Frames before the request: identity, and a REQ's empty one. */
#define ENVELOPE_MAX 4
/* Flushes waiting at once; more are refused. */
#define WAITING_MAX 64

/* Where an answer goes. */
struct envelope {
    zmq_msg_t frames[ENVELOPE_MAX];
    int count;
    uint64_t id;
    uint64_t summaries_before; /* of a waiting flush */
};

struct control {
    struct zsock zsock;
    struct control_view view;
    struct envelope waiting[WAITING_MAX];
    int waiting_count;
};

/* A request being answered: a method writes its result, or returns an error. */
struct request {
    struct control *control;
    const msgpack_object *params;
    struct mpk_writer *result;
};

#define CONTROL_WAIT 1 /* answered later */

/* Sending */

static void envelope_clear(struct envelope *envelope)
{
    for (int i = 0; i < envelope->count; i++)
        zmq_msg_close(&envelope->frames[i]);
    envelope->count = 0;
}

/* Sends envelope and body and empties the envelope. A peer that has gone or is full loses its
 * answer. The body is made first: once a frame has been sent the others must follow. */
static void send_reply(void *socket, struct envelope *envelope, const struct mpk_writer *writer)
{
    zmq_msg_t body;
    bool sent = zmq_msg_init_size(&body, writer->buffer.size) == 0;
    if (sent)
        memcpy(zmq_msg_data(&body), writer->buffer.data, writer->buffer.size);
    else
        zmq_msg_init(&body);
    for (int i = 0; i < envelope->count && sent; i++)
        sent = zmq_msg_send(&envelope->frames[i], socket, ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0;
    if (sent)
        zmq_msg_send(&body, socket, ZMQ_DONTWAIT);
    zmq_msg_close(&body);
    envelope_clear(envelope);
}

static void put_error(struct mpk_writer *reply, int code)
{
    mpk_put_map(reply, 2);
    mpk_put_str(reply, "code");
    mpk_put_str(reply, err_slug(code));
    mpk_put_str(reply, "message");
    mpk_put_str(reply, err_text(code));
}

/* `result` may be NULL with an error. */
static void answer(struct control *control, struct envelope *envelope, int code,
                   const struct mpk_writer *result)
{
    struct mpk_writer reply;
    mpk_writer_init(&reply);
    mpk_put_array(&reply, 4);
    mpk_put_u64(&reply, 1);
    mpk_put_u64(&reply, envelope->id);
    if (code) {
        put_error(&reply, code);
        mpk_put_nil(&reply);
    } else {
        mpk_put_nil(&reply);
        mpk_put_raw(&reply, result->buffer.data, result->buffer.size);
    }
    stats_add(control->view.stats, code ? COUNT_REQUEST_ERRORS : COUNT_REQUESTS, 1);
    if (mpk_writer_ok(&reply))
        send_reply(control->zsock.socket, envelope, &reply);
    else
        envelope_clear(envelope);
    mpk_writer_clear(&reply);
}

/* Methods: each returns 0, an error, or CONTROL_WAIT */

static double uptime_s(const struct control_view *view)
{
    return (double)(clock_monotonic_ns() - view->started_ns) / 1e9;
}

static int method_ping(struct request *request)
{
    mpk_put_map(request->result, 2);
    mpk_put_str(request->result, "version");
    mpk_put_str(request->result, ATTND_VERSION);
    mpk_put_str(request->result, "uptime_s");
    mpk_put_f64(request->result, uptime_s(&request->control->view));
    return 0;
}

static void count_run(void *data, struct run *run)
{
    (void)run;
    ++*(uint32_t *)data;
}

static void put_run(void *data, struct run *run)
{
    run_encode(run, data);
}

static int method_jobs(struct request *request)
{
    const struct registry *registry = request->control->view.registry;
    uint32_t runs = 0;
    registry_each(registry, count_run, &runs);
    mpk_put_array(request->result, runs);
    registry_each(registry, put_run, request->result);
    return 0;
}

/* A string parameter: `fallback` when it is missing, NULL when it does not fit or is no string. */
static const char *string_param(const struct request *request, const char *key,
                                const char *fallback, char *buffer, size_t size)
{
    const msgpack_object *value = mpk_find(request->params, key);
    if (!value || value->type == MSGPACK_OBJECT_NIL)
        return fallback;
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size >= size ||
        memchr(value->via.str.ptr, '\0', value->via.str.size))
        return NULL;
    memcpy(buffer, value->via.str.ptr, value->via.str.size);
    buffer[value->via.str.size] = '\0';
    return buffer;
}

/* What a `summary` request asks for; empty = any. */
struct summary_filter {
    char job[JOB_NAME_MAX + 1], stack[16], layer[16], site[16];
    uint32_t count;
    struct mpk_writer *result; /* NULL: only count */
};

/* Whether the topic's next segment is `wanted` or anything goes; moves on to the one after. */
static bool segment_matches(const char **topic, const char *wanted)
{
    size_t length = strcspn(*topic, "/");
    bool matches = !*wanted || (strlen(wanted) == length && memcmp(*topic, wanted, length) == 0);
    *topic += length + ((*topic)[length] == '/');
    return matches;
}

static void visit_summary(void *data, const char *topic, uint32_t track, const void *value,
                          size_t size)
{
    struct summary_filter *filter = data;
    topic += strlen("summary/");
    if (track > 0)
        return;
    if (!segment_matches(&topic, filter->job) || !segment_matches(&topic, filter->stack) ||
        !segment_matches(&topic, filter->layer) || !segment_matches(&topic, filter->site))
        return;
    filter->count++;
    if (filter->result)
        mpk_put_raw(filter->result, value, size);
}

static bool read_layer_number(const struct request *request, struct summary_filter *filter)
{
    const msgpack_object *value = mpk_find(request->params, "layer");
    uint64_t layer;
    if (!value || value->type == MSGPACK_OBJECT_NIL)
        return true;
    if (mpk_get_u64(value, LAYER_MAX, &layer) != 0)
        return false;
    snprintf(filter->layer, sizeof filter->layer, "%u", (unsigned)layer);
    return true;
}

static bool read_filter(const struct request *request, struct summary_filter *filter)
{
    return string_param(request, "job", NULL, filter->job, sizeof filter->job) &&
           string_param(request, "stack", "", filter->stack, sizeof filter->stack) &&
           string_param(request, "site", "", filter->site, sizeof filter->site) &&
           read_layer_number(request, filter);
}

static int method_summary(struct request *request)
{
    const struct publisher *publisher = request->control->view.publisher;
    struct summary_filter filter = {.count = 0};
    if (!read_filter(request, &filter))
        return ERR_ARGUMENT;
    publisher_each(publisher, "summary/", visit_summary, &filter);
    if (filter.count == 0)
        return registry_knows(request->control->view.registry, filter.job) ? ERR_NO_SUMMARY
                                                                           : ERR_JOB_UNKNOWN;
    mpk_put_array(request->result, filter.count);
    filter.result = request->result;
    publisher_each(publisher, "summary/", visit_summary, &filter);
    return 0;
}

static void put_number(struct mpk_writer *result, const char *key, uint64_t number)
{
    mpk_put_str(result, key);
    mpk_put_u64(result, number);
}

/* Ingest may count on meanwhile: each counter is read once. */
static void put_dropped(struct mpk_writer *result, struct stats *stats)
{
    uint64_t counts[ERR_COUNT];
    uint32_t reasons = 0;
    for (int i = 0; i < ERR_COUNT; i++) {
        counts[i] = stats_dropped(stats, i);
        reasons += counts[i] > 0;
    }
    mpk_put_str(result, "dropped");
    mpk_put_map(result, reasons);
    for (int i = 0; i < ERR_COUNT; i++)
        if (counts[i] > 0)
            put_number(result, err_slug(ERR_BASE - i), counts[i]);
}

static void put_pool(struct mpk_writer *result, struct pool *pool)
{
    struct pool_stats stats = pool_stats(pool);
    mpk_put_str(result, "pool");
    mpk_put_map(result, 6);
    put_number(result, "threads", stats.threads);
    put_number(result, "submitted", stats.submitted);
    put_number(result, "completed", stats.completed);
    put_number(result, "rejected", stats.rejected);
    put_number(result, "queued", stats.queued);
    put_number(result, "queued_max", stats.queued_max);
}

static int method_stats(struct request *request)
{
    const struct control_view *view = &request->control->view;
    struct mpk_writer *result = request->result;
    mpk_put_map(result, COUNT_COUNT + 6);
    mpk_put_str(result, "uptime_s");
    mpk_put_f64(result, uptime_s(view));
    for (int i = 0; i < COUNT_COUNT; i++)
        put_number(result, counter_name[i], stats_get(view->stats, (enum counter)i));
    put_number(result, "in_flight", view->messages_in_flight(view->data));
    put_number(result, "in_flight_bytes", view->bytes_in_flight(view->data));
    put_number(result, "jobs", registry_jobs(view->registry));
    put_dropped(result, view->stats);
    put_pool(result, view->pool);
    return 0;
}

static void count_key(void *data, const char *section, const char *name, const char *value)
{
    (void)section, (void)name, (void)value;
    ++*(uint32_t *)data;
}

static void put_key(void *data, const char *section, const char *name, const char *value)
{
    char key[JOB_NAME_MAX + 128]; /* jobs.<pattern>.<key> is the longest */
    snprintf(key, sizeof key, "%s.%s", section, name);
    mpk_put_str(data, key);
    mpk_put_str(data, value);
}

static int method_config(struct request *request)
{
    const struct config *config = request->control->view.config;
    uint32_t keys = 0;
    config_each(config, count_key, &keys);
    mpk_put_map(request->result, keys);
    config_each(config, put_key, request->result);
    return 0;
}

static void put_flushed(const struct control_view *view, uint64_t before, struct mpk_writer *result)
{
    mpk_put_map(result, 1);
    put_number(result, "windows", stats_get(view->stats, COUNT_SUMMARIES) - before);
}

static int method_flush(struct request *request)
{
    const struct control_view *view = &request->control->view;
    char name[JOB_NAME_MAX + 1];
    const char *job = string_param(request, "job", "", name, sizeof name);
    uint64_t before = stats_get(view->stats, COUNT_SUMMARIES);
    if (!job)
        return ERR_ARGUMENT;
    if (request->control->waiting_count == WAITING_MAX)
        return ERR_AGAIN;
    int waiting = registry_flush(view->registry, *job ? job : NULL);
    if (waiting < 0)
        return waiting;
    if (waiting > 0)
        return CONTROL_WAIT;
    put_flushed(view, before, request->result);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(struct request *request);
} methods[] = {
    {"ping", method_ping},   {"jobs", method_jobs},     {"summary", method_summary},
    {"stats", method_stats}, {"config", method_config}, {"flush", method_flush},
};

/* Requests */

static int call(struct request *request, const msgpack_object *method)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (mpk_is_str(method, methods[i].name))
            return methods[i].run(request);
    return ERR_METHOD_UNKNOWN;
}

/* [0, id, method, params]; a request too broken to have an id is answered with id 0. */
static int read_request(const msgpack_object *root, struct envelope *envelope,
                        const msgpack_object **ret_method, const msgpack_object **ret_params)
{
    uint64_t kind = 1;
    if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size != 4)
        return ERR_REQUEST;
    const msgpack_object *parts = root->via.array.ptr;
    if (mpk_get_u64(&parts[1], UINT64_MAX, &envelope->id) != 0)
        return ERR_REQUEST;
    if (mpk_get_u64(&parts[0], 0, &kind) != 0 || parts[2].type != MSGPACK_OBJECT_STR)
        return ERR_REQUEST;
    *ret_method = &parts[2];
    *ret_params = &parts[3];
    return 0;
}

static void keep_waiting(struct control *control, struct envelope *envelope)
{
    struct envelope *kept = &control->waiting[control->waiting_count++];
    kept->id = envelope->id;
    kept->count = envelope->count;
    kept->summaries_before = stats_get(control->view.stats, COUNT_SUMMARIES);
    for (int i = 0; i < envelope->count; i++) {
        zmq_msg_init(&kept->frames[i]);
        zmq_msg_move(&kept->frames[i], &envelope->frames[i]);
    }
    envelope_clear(envelope);
}

static void serve(struct control *control, struct envelope *envelope, zmq_msg_t *body)
{
    struct mpk_doc doc;
    struct mpk_writer result;
    const msgpack_object *method = NULL;
    struct request request = {.control = control, .result = &result};
    int code = mpk_parse(zmq_msg_data(body), zmq_msg_size(body), &mpk_header_limits, &doc);
    if (code) {
        answer(control, envelope, code == ERR_MEMORY ? code : ERR_REQUEST, NULL);
        return;
    }
    mpk_writer_init(&result);
    code = read_request(doc.root, envelope, &method, &request.params);
    if (!code)
        code = call(&request, method);
    if (code == CONTROL_WAIT)
        keep_waiting(control, envelope);
    else
        answer(control, envelope, code ? code : (mpk_writer_ok(&result) ? 0 : ERR_MEMORY), &result);
    mpk_writer_clear(&result);
    mpk_doc_clear(&doc);
}

/* Receives one whole message: all frames but the last are the envelope. Returns whether it is
 * usable. */
static bool receive_request(void *socket, struct envelope *envelope, zmq_msg_t *body)
{
    bool usable = true;
    zmq_msg_init(body);
    while (zmq_msg_recv(body, socket, ZMQ_DONTWAIT) >= 0) {
        if (!zmq_msg_more(body))
            return usable && envelope->count > 0;
        usable = usable && envelope->count < ENVELOPE_MAX;
        if (!usable)
            continue;
        zmq_msg_t *frame = &envelope->frames[envelope->count++];
        zmq_msg_init(frame);
        zmq_msg_move(frame, body);
    }
    return false;
}

static void on_request(struct zsock *zsock)
{
    struct control *control = zsock->data;
    struct envelope envelope = {.count = 0};
    zmq_msg_t body;
    if (receive_request(zsock->socket, &envelope, &body))
        serve(control, &envelope, &body);
    else
        envelope_clear(&envelope);
    zmq_msg_close(&body);
}

static void answer_flush(struct control *control, struct envelope *envelope)
{
    struct mpk_writer result;
    mpk_writer_init(&result);
    put_flushed(&control->view, envelope->summaries_before, &result);
    answer(control, envelope, 0, &result);
    mpk_writer_clear(&result);
}

void control_settle(struct control *control)
{
    if (control->waiting_count == 0 || registry_flushing(control->view.registry) > 0)
        return;
    for (int i = 0; i < control->waiting_count; i++)
        answer_flush(control, &control->waiting[i]);
    control->waiting_count = 0;
}

int control_new(uv_loop_t *loop, void *zmq_context, const struct control_view *view,
                struct control **ret_control, char *reterr)
{
    struct endpoint_options options = {
        .key = "control.endpoint",
        .endpoint = view->config->control_endpoint.text,
        .type = ZMQ_ROUTER,
        .receive_queue = 16,
        .send_queue = 4, /* answers can be large; who does not read them loses them */
        .max_message = REQUEST_BYTES_MAX,
        .linger_ms = 200,
    };
    struct control *control = calloc(1, sizeof *control);
    void *socket = control ? endpoint_bind(zmq_context, &options, reterr) : NULL;
    if (!socket)
        goto fail;
    control->view = *view;
    int rc = zsock_init(&control->zsock, loop, socket, on_request, control);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "control.endpoint: %s", uv_strerror(rc));
        goto fail_socket;
    }
    *ret_control = control;
    return 0;

fail_socket:
    zmq_close(socket);
fail:
    free(control);
    return -1;
}

static void on_zsock_closed(struct zsock *zsock)
{
    free(zsock->data);
}

void control_close(struct control **control_p)
{
    struct control *control = *control_p;
    if (!control)
        return;
    for (int i = 0; i < control->waiting_count; i++)
        answer(control, &control->waiting[i], ERR_CLOSED, NULL);
    zsock_close(&control->zsock, on_zsock_closed);
    *control_p = NULL;
}
