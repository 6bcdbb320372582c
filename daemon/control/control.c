/* SPDX-License-Identifier: MIT */
/* A request is read, judged and given to its method, which answers it or defers the answer
 * (pending.c). Flushes wait here for what was received before them, questions about the past in
 * history.c, maps and rollouts in map_answer.c. */
#include "daemon/control/internal.h"

#include "daemon/base/endpoint.h"
#include "daemon/base/hash.h"
#include "daemon/base/unfinished.h"
#include "daemon/base/zsock.h"

#include <stdlib.h>
#include <string.h>

#define REQUEST_BYTES_MAX 65536
#define METHOD_NAME_MAX   32
/* Flushes waiting at once; more are refused. */
#define FLUSHES_MAX 64

struct control_flush {
    struct pending *pending;
    uint64_t summaries_before;
};

struct control {
    struct zsock zsock;
    struct endpoint_file file;
    const struct control_view *view;
    bool secured; /* clients come with keys */
    struct answers answers;
    struct jobs_lists lists;
    struct control_flush flushes[FLUSHES_MAX];
    int flush_count;
    int open; /* zsock, answers and lists not closed yet */
};

/* Flushes */

static void put_flushed(const struct control_view *view, uint64_t before, struct mpk_writer *result)
{
    mpk_put_map(result, 1);
    mpk_pair_u64(result, "windows", stats_get(view->stats, COUNT_SUMMARIES) - before);
}

int method_flush(struct control_request *request)
{
    const struct control_view *view = request->view;
    char name[JOB_NAME_MAX + 1];
    const char *job = string_param(request, "job", "", name, sizeof name);
    uint64_t before = stats_get(view->stats, COUNT_SUMMARIES);
    if (!job) {
        return ERR_ARGUMENT;
    }
    if (request->control->flush_count == FLUSHES_MAX) {
        return ERR_AGAIN;
    }
    int waiting = registry_flush(view->registry, *job ? job : NULL);
    if (waiting < 0) {
        return waiting;
    }
    if (waiting > 0) {
        struct control *control = request->control;
        struct pending *pending = request_defer(request);
        if (!pending) {
            return ERR_MEMORY;
        }
        control->flushes[control->flush_count++] = (struct control_flush){pending, before};
        return CONTROL_WAIT;
    }
    put_flushed(view, before, request->result);
    return 0;
}

void control_settle(struct control *control)
{
    if (!control || control->flush_count == 0 || registry_flushing(control->view->registry) > 0) {
        return;
    }
    for (int i = 0; i < control->flush_count; i++) {
        struct control_flush *flush = &control->flushes[i];
        struct mpk_writer result;
        mpk_writer_init(&result);
        put_flushed(control->view, flush->summaries_before, &result);
        pending_answer(&flush->pending, mpk_writer_ok(&result) ? 0 : ERR_MEMORY, NULL, &result);
        mpk_writer_clear(&result);
    }
    control->flush_count = 0;
}

/* Answers that a client has not read; they can be large, and beyond this they are lost. ZeroMQ
 * hears of those that were read only eight at a time, so nine may be asked for at once: attnctl top
 * asks for seven. */
#define ANSWERS_MAX 16

/* Requests */

static const struct control_method {
    const char *name;
    int (*run)(struct control_request *request); /* NULL: not for clients */
    enum access_role role;
    bool of_all;
    const char *takes;
} methods[] = {
#define PRESENT(function) method_##function
#define BOTH(function)    method_##function
#define PAST(function)    method_history
#define OWN(function)     NULL
#define METHOD(name, function, when, role, of_all, takes, result)                                  \
    {name, when(function), ACCESS_##role, of_all, takes},
#include "proto/method.def"
};

static const struct control_method *control_find_method(const char *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(name, methods[i].name) == 0) {
            return &methods[i];
        }
    }
    return NULL;
}

/* The result must have been written as well. */
static int run_request(struct control_request *request, const char *name)
{
    const struct control_method *method = control_find_method(name);
    int code = ERR_METHOD_UNKNOWN;
    if (method && method->run) {
        request->method = method->name;
        request->takes = method->takes;
        /* The history looks at those of the past. */
        code = method->run == method_history || request_takes(request, method->takes)
                   ? method->run(request)
                   : ERR_ARGUMENT;
    }
    return !code && !mpk_writer_ok(request->result) ? ERR_MEMORY : code;
}

/* Whether the client may do it to the job in this parameter. Without one, with a pattern, or where
 * the method does not keep to it, it is about all jobs; questions about the past read, and keep
 * to it. Says why not. */
static bool control_allows_job(struct control_request *request, zmq_msg_t *body, const char *name,
                               const char *key)
{
    char buffer[JOB_NAME_MAX + 1];
    const struct control_method *method = control_find_method(name);
    enum access_role role = method ? method->role : ACCESS_READ;
    const char *job = string_param(request, key, "", buffer, sizeof buffer);
    bool one = !(method && method->of_all) && job && job_name_valid(job, strlen(job));
    bool allowed = keys_allow(request->view->keys, body, role, one ? job : NULL);
    if (!allowed) {
        snprintf(
            request->detail, CONTROL_DETAIL_MAX,
            "the key of this client may not do that: %s %sneeds the role %s%s in keys.access%s",
            name, one ? "" : "is about all jobs and ", access_role_name[role],
            one ? "" : " with the pattern *", one ? ", for the job that is named" : "");
    }
    return allowed;
}

/* No method has as many. */
#define PARAMS_MAX 64

/* [0, id, method, params]; a request too broken to have an id is answered with id 0. */
static int serve_parsed(struct control_request *request, zmq_msg_t *body,
                        const msgpack_object *root)
{
    uint64_t kind = 1;
    const msgpack_object *parts = root->via.array.ptr;
    if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size != 4 ||
        mpk_get_u64(&parts[1], UINT64_MAX, &request->envelope->id) != 0 ||
        mpk_get_u64(&parts[0], 0, &kind) != 0 || parts[2].type != MSGPACK_OBJECT_STR) {
        return ERR_REQUEST;
    }
    request->params = &parts[3];
    /* When a parameter is given twice, one might be judged, and the other be answered. */
    const msgpack_object *params = request->params;
    uint32_t count = params->type == MSGPACK_OBJECT_MAP ? params->via.map.size : 0;
    if (count > PARAMS_MAX) {
        snprintf(request->detail, CONTROL_DETAIL_MAX, "more than %d parameters", PARAMS_MAX);
        return ERR_ARGUMENT;
    }
    for (uint32_t i = 1; i < count; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (msgpack_object_equal(params->via.map.ptr[i].key, params->via.map.ptr[k].key)) {
                snprintf(request->detail, CONTROL_DETAIL_MAX, "a parameter is given twice");
                return ERR_ARGUMENT;
            }
        }
    }
    char name[METHOD_NAME_MAX] = "";
    if (parts[2].via.str.size > 0 && parts[2].via.str.size < sizeof name) {
        memcpy(name, parts[2].via.str.ptr, parts[2].via.str.size);
    }
    /* Everybody with a key may ask whether attnd is there. */
    struct keyring *keys = request->control->secured ? request->view->keys : NULL;
    bool two = request->params->type == MSGPACK_OBJECT_MAP && mpk_find(request->params, "job_b");
    bool allowed = !keys || (strcmp(name, "ping") == 0 && keys_know(keys, body)) ||
                   (control_allows_job(request, body, name, "job") &&
                    (!two || control_allows_job(request, body, name, "job_b")));
    return allowed ? run_request(request, name) : ERR_ACCESS;
}

/* A hash. */
static uint64_t control_find_asker(struct envelope *envelope, zmq_msg_t *body)
{
    zmq_msg_t *name = &envelope->frames[0];
    const char *key = zmq_msg_gets(body, "User-Id");
    unsigned hash;
    if (key && *key) {
        HASH_FNV(key, strlen(key), hash);
    } else {
        HASH_FNV(zmq_msg_data(name), zmq_msg_size(name), hash);
    }
    return UINT64_C(1) + hash; /* none is HISTORY_OWN */
}

/* Serves a client, whose message is `body`, or (body NULL) a call of `method` by control_call. */
static void control_serve(struct control *control, struct envelope *envelope, zmq_msg_t *body,
                          const char *method, const void *bytes, size_t size)
{
    struct mpk_doc doc;
    struct mpk_writer result;
    char detail[CONTROL_DETAIL_MAX] = "";
    struct control_request request = {.view = control->view,
                                      .result = &result,
                                      .detail = detail,
                                      .control = control,
                                      .answers = &control->answers,
                                      .lists = &control->lists,
                                      .envelope = envelope,
                                      .asker = body ? control_find_asker(envelope, body) : 0};
    int code = mpk_parse(bytes, size, &mpk_header_limits, &doc);
    if (code) {
        envelope_answer(&control->answers, envelope, code == ERR_MEMORY ? code : ERR_REQUEST, NULL,
                        NULL);
        return;
    }
    request.params = doc.root;
    mpk_writer_init(&result);
    code = body ? serve_parsed(&request, body, doc.root) : run_request(&request, method);
    if (code != CONTROL_WAIT) {
        envelope_answer(&control->answers, envelope, code, detail, &result);
    }
    mpk_writer_clear(&result);
    mpk_doc_clear(&doc);
}

void control_call(struct control *control, const char *method, const void *params, size_t size,
                  control_answered *answered, void *data)
{
    struct envelope envelope = {.answered = answered, .data = data};
    control_serve(control, &envelope, NULL, method, params, size);
}

/* Receives one whole message: all frames but the last are the envelope. Returns whether it is
 * usable. */
static bool receive_request(void *socket, struct envelope *envelope, zmq_msg_t *body)
{
    bool usable = true;
    zmq_msg_init(body);
    while (zmq_msg_recv(body, socket, ZMQ_DONTWAIT) >= 0) {
        if (!zmq_msg_more(body)) {
            unfinished_taken(body);
            return usable && envelope->count > 0;
        }
        usable = usable && envelope->count < ENVELOPE_MAX;
        if (!usable) {
            continue;
        }
        zmq_msg_t *frame = &envelope->frames[envelope->count++];
        zmq_msg_init(frame);
        zmq_msg_move(frame, body);
    }
    return false;
}

static void control_on_request(struct zsock *zsock)
{
    struct control *control = zsock->data;
    struct envelope envelope = {.count = 0};
    zmq_msg_t body;
    if (receive_request(zsock->socket, &envelope, &body)) {
        control_serve(control, &envelope, &body, NULL, zmq_msg_data(&body), zmq_msg_size(&body));
    } else {
        envelope_clear(&envelope);
    }
    zmq_msg_close(&body);
}

int control_new(void *zmq_context, const struct control_view *view, struct control **ret_control,
                char *reterr)
{
    struct endpoint_options options = {
        .key = "control.endpoint",
        .endpoint = view->config->control_endpoint.text,
        .type = ZMQ_ROUTER,
        .send_queue = ANSWERS_MAX,
        .answers = true,
        .max_message = REQUEST_BYTES_MAX,
        .linger_ms = 200,
        .keys = view->keys,
    };
    struct control *control = calloc(1, sizeof *control);
    options.ret_file = control ? &control->file : NULL;
    void *socket = control ? endpoint_bind(zmq_context, &options, reterr) : NULL;
    if (!socket) {
        goto fail;
    }
    control->view = view;
    control->secured = endpoint_is_secured(view->keys, options.endpoint);
    int rc = zsock_init(&control->zsock, view->loop, socket, control_on_request, control);
    if (rc != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "control.endpoint: %s", uv_strerror(rc));
        goto fail_socket;
    }
    control->answers.socket = socket;
    control->answers.stats = view->stats;
    control->answers.unread = (struct unread){.kind = UNREAD_ANSWERS,
                                              .config = view->config,
                                              .service = "control",
                                              .endpoint = view->config->control_endpoint.text,
                                              .keys = view->keys,
                                              .stats = view->stats};
    unread_start(&control->answers.unread, view->loop);
    jobs_start(&control->lists, view->loop, view->registry);
    control->open = 3;
    *ret_control = control;
    return 0;

fail_socket:
    zmq_close(socket);
fail:
    free(control);
    return -1;
}

void control_keep(void *data)
{
    struct control *control = data;
    endpoint_keep(control->zsock.socket, control->view->config->control_endpoint.text,
                  &control->file);
}

static void control_on_part_closed(void *data)
{
    struct control *control = data;
    if (--control->open == 0) {
        free(control);
    }
}

static void control_on_turn_closed(uv_handle_t *turn)
{
    control_on_part_closed((char *)turn->data - offsetof(struct control, lists));
}

static void control_on_zsock_closed(struct zsock *zsock)
{
    control_on_part_closed(zsock->data);
}

void control_close(struct control **control_p)
{
    struct control *control = *control_p;
    if (!control) {
        return;
    }
    for (int i = 0; i < control->flush_count; i++) {
        pending_answer(&control->flushes[i].pending, ERR_CLOSED, NULL, NULL);
    }
    jobs_stop(&control->lists);
    answers_close(&control->answers);
    uv_close((uv_handle_t *)&control->lists.turn, control_on_turn_closed);
    zsock_close(&control->zsock, control_on_zsock_closed);
    unread_close(&control->answers.unread, control_on_part_closed, control);
    *control_p = NULL;
}
