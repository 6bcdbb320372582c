/* SPDX-License-Identifier: MIT */
/* Questions to the daemon: a DEALER that asks one thing at a time, [0, id, method, params], and
 * waits for [1, id, error, result]. ZeroMQ never says that nobody is there, so every call has a
 * deadline; an answer to an earlier call that came too late is skipped by its id. */
#include "clients/c/include/attn/attn.h"

#include "clients/c/src/link.h"
#include "clients/c/src/listener.h"
#include "clients/c/src/result.h"
#include "clients/c/src/series.h"
#include "clients/c/src/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_MAX 512
/* Somebody waits for an answer meanwhile. */
#define LOOK_EVERY_MS 50

struct attn_control {
    void *context;
    struct link link;
    uint64_t last_id;
    int timeout_ms;
    char error[ERROR_MAX]; /* what the daemon said when it last refused */
};

void attn_question_default(attn_question *ret_question)
{
    *ret_question = (attn_question){.stack = -1,
                                    .layer = -1,
                                    .site = -1,
                                    .head = -1,
                                    .to = UINT64_MAX,
                                    .last = UINT64_MAX,
                                    .limit = 1000};
}

static int control_open(const char *endpoint, const char *address, int timeout_ms,
                        attn_control **ret_control)
{
    struct link_target target;
    static const struct socket_option options[] = {
        {ZMQ_LINGER, 0}, {ZMQ_RECONNECT_IVL, 100}, {ZMQ_RECONNECT_IVL_MAX, 2000}};
    attn_control *control;
    int rc;
    if (!ret_control || timeout_ms < 1 ||
        link_name(endpoint, address, ADDRESS_CONTROL, LOOK_EVERY_MS, &target) != 0) {
        return ATTN_E_ARGUMENT;
    }
    control = calloc(1, sizeof *control);
    if (!control) {
        return ATTN_E_MEMORY;
    }
    control->timeout_ms = timeout_ms;
    control->context = socket_context_new();
    rc = control->context ? link_open(&control->link, control->context, ZMQ_DEALER, options,
                                      sizeof options / sizeof options[0],
                                      (int64_t)mpk_result_limits.bytes, &target)
                          : ATTN_E_MEMORY;
    if (rc) {
        attn_control_free(&control);
    } else {
        *ret_control = control;
    }
    return rc;
}

int attn_control_new(const char *endpoint, int timeout_ms, attn_control **ret_control)
{
    return control_open(endpoint, NULL, timeout_ms, ret_control);
}

int attn_control_new_at(const char *address, int timeout_ms, attn_control **ret_control)
{
    return control_open(NULL, address, timeout_ms, ret_control);
}

void attn_control_free(attn_control **control)
{
    if (!control || !*control) {
        return;
    }
    link_close(&(*control)->link);
    socket_context_free((*control)->context);
    free(*control);
    *control = NULL;
}

const char *attn_control_error(const attn_control *control)
{
    return control->error;
}

/* ---- requests ---- */

/* Members of a question that a method takes, besides job and run. */
enum {
    TAKES_LAYER = 1 << 0,
    TAKES_HEAD = 1 << 1,
    TAKES_METRIC = 1 << 2,
    TAKES_WINDOW = 1 << 3,
    TAKES_LAST = 1 << 4,
    TAKES_RANGE = 1 << 5, /* from, to, limit */
    TAKES_OTHER = 1 << 6, /* job_b, run_b */
    TAKES_PACKED = 1 << 7,
    NEEDS_JOB = 1 << 8,
};

static void control_put_text(struct mpk_writer *writer, const char *key, const char *text,
                             bool takes)
{
    if (takes && text) {
        mpk_pair_str(writer, key, text);
    }
}

static void control_put_number(struct mpk_writer *writer, const char *key, uint64_t number,
                               bool given)
{
    if (given) {
        mpk_pair_u64(writer, key, number);
    }
}

/* ---- answers ---- */

/* Sets root to the answer's result. Returns 0, ATTN_E_REFUSED, ATTN_E_MESSAGE, or ATTN_E_TIMEOUT
 * for an answer to another call. */
static int open_answer(attn_control *control, attn_result *result)
{
    const msgpack_object *root = result->doc.root, *part = root->via.array.ptr;
    uint64_t kind, id;
    if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size != 4 ||
        mpk_get_u64(&part[0], 1, &kind) != 0 || kind != 1 ||
        mpk_get_u64(&part[1], UINT64_MAX, &id) != 0) {
        return ATTN_E_MESSAGE;
    }
    if (id != control->last_id) {
        return ATTN_E_TIMEOUT;
    }
    result->root = &part[3];
    if (part[2].type == MSGPACK_OBJECT_NIL) {
        return 0;
    }
    char code[64], message[ERROR_MAX - 66];
    mpk_find_text(&part[2], "code", code, sizeof code);
    mpk_find_text(&part[2], "message", message, sizeof message);
    snprintf(control->error, sizeof control->error, "%s: %s", code, message);
    return ATTN_E_REFUSED;
}

/* One frame that is there. */
static int take_answer(attn_control *control, attn_result **ret_result)
{
    attn_result *result = NULL;
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    int rc = zmq_msg_recv(&frame, control->link.socket, ZMQ_DONTWAIT) < 0 ? ATTN_E_TIMEOUT : 0;
    if (!rc) {
        rc = result_new(NULL, 0, &frame, &result);
    }
    zmq_msg_close(&frame);
    if (!rc) {
        rc = open_answer(control, result);
    }
    if (rc) {
        attn_result_free(&result);
    } else {
        *ret_result = result;
    }
    return rc;
}

/* Nobody has answered for a while: ATTN_E_REFUSED with a sentence when it is the keys, else
 * ATTN_E_TIMEOUT. */
static int control_try_keys(attn_control *control)
{
    const struct link *link = &control->link;
    char sentence[ADDRESS_REASON_MAX];
    if (listener_try_keys(&link->target.keys, ADDRESS_CONTROL, link->endpoint, sentence) !=
        KEYS_WRONG) {
        return ATTN_E_TIMEOUT;
    }
    snprintf(control->error, sizeof control->error, "key: %.500s", sentence);
    return ATTN_E_REFUSED;
}

/* Sends the request once somebody is there, and again on each new connection: an attnd that ended
 * took it along. A question changes nothing; answers to earlier calls are skipped. */
static int control_exchange(attn_control *control, const struct mpk_writer *request,
                            attn_result **ret_result)
{
    struct link *link = &control->link;
    uint64_t deadline = socket_now_ms() + (uint64_t)control->timeout_ms;
    uint64_t asked_on = 0, now, look = socket_now_ms() + LISTENER_LOOK_MS;
    int rc;
    look = look < deadline ? look : deadline;
    do {
        now = socket_now_ms();
        link_tend(link);
        if (link_is_up(link) && link->connections != asked_on) {
            asked_on = link->connections;
            if (zmq_send(link->socket, request->buffer.data, request->buffer.size, ZMQ_DONTWAIT) <
                0) {
                return errno == EAGAIN ? ATTN_E_TIMEOUT : ATTN_E_TRANSPORT;
            }
        }
        rc = link_wait(link, now < look ? (long)(look - now) : 0);
        if (rc > 0) {
            rc = take_answer(control, ret_result);
        } else if (rc == 0) {
            rc = ATTN_E_TIMEOUT;
            now = socket_now_ms();
            if (now >= look) {
                look = deadline;
                rc = control_try_keys(control);
            }
        }
    } while (rc == ATTN_E_TIMEOUT && now < deadline);
    return rc;
}

/* `ret`: what the caller wants to set. */
static int control_ask(attn_control *control, const char *method, unsigned takes,
                       const attn_question *question, const void *ret, attn_result **ret_result)
{
    struct mpk_writer writer;
    int rc = ATTN_E_MEMORY;
    if (!control || !question || !ret || question->limit == 0 ||
        (takes & NEEDS_JOB && !question->job)) {
        return ATTN_E_ARGUMENT;
    }
    mpk_writer_init(&writer);
    bool layer = takes & TAKES_LAYER, range = takes & TAKES_RANGE;
    struct mpk_open params;
    mpk_put_array(&writer, 4);
    mpk_put_u64(&writer, 0);
    mpk_put_u64(&writer, ++control->last_id);
    mpk_put_str(&writer, method);
    params = mpk_open(&writer, NULL);
    control_put_text(&writer, "job", question->job, true);
    control_put_text(&writer, "run", question->run, true);
    control_put_text(&writer, "job_b", question->job_b, takes & TAKES_OTHER);
    control_put_text(&writer, "run_b", question->run_b, takes & TAKES_OTHER);
    control_put_text(&writer, "stack",
                     question->stack >= 0 ? stack_names[question->stack != ATTN_ENCODER] : NULL,
                     layer);
    control_put_number(&writer, "layer", (uint64_t)question->layer, layer && question->layer >= 0);
    control_put_text(&writer, "site",
                     question->site >= 0 ? site_names[question->site != ATTN_SELF] : NULL, layer);
    control_put_number(&writer, "head", (uint64_t)question->head,
                       takes & TAKES_HEAD && question->head >= 0);
    control_put_text(&writer, "metric", question->metric, takes & TAKES_METRIC);
    control_put_text(&writer, "window", question->window, takes & TAKES_WINDOW);
    control_put_number(&writer, "last", question->last,
                       takes & TAKES_LAST && question->last < UINT64_MAX);
    control_put_number(&writer, "from", question->from, range && question->from > 0);
    control_put_number(&writer, "to", question->to, range && question->to < UINT64_MAX);
    control_put_number(&writer, "limit", question->limit, range);
    if (takes & TAKES_PACKED) {
        mpk_pair_bool(&writer, "packed", true);
    }
    mpk_close_map(&writer, &params);
    if (mpk_writer_ok(&writer)) {
        rc = control_exchange(control, &writer, ret_result);
    }
    mpk_writer_clear(&writer);
    return rc;
}

int attn_history(attn_control *control, const attn_question *question, attn_series **ret_series)
{
    attn_result *result;
    int rc = control_ask(control, "history",
                         NEEDS_JOB | TAKES_LAYER | TAKES_HEAD | TAKES_METRIC | TAKES_WINDOW |
                             TAKES_RANGE | TAKES_PACKED,
                         question, ret_series, &result);
    if (!rc) {
        rc = series_new(result->root, ret_series);
        attn_result_free(&result);
    }
    return rc;
}

int attn_map(attn_control *control, const attn_question *question, attn_mean_map *ret_map)
{
    attn_result *result;
    int rc = control_ask(control, "map",
                         NEEDS_JOB | TAKES_LAYER | TAKES_WINDOW | TAKES_LAST | TAKES_PACKED,
                         question, ret_map, &result);
    if (!rc) {
        rc = map_read(result->root, ret_map);
        attn_result_free(&result);
    }
    return rc;
}

int attn_alerts(attn_control *control, const attn_question *question, attn_result **ret_result)
{
    return control_ask(control, "alerts", TAKES_RANGE, question, ret_result, ret_result);
}

int attn_compare(attn_control *control, const attn_question *question, attn_result **ret_result)
{
    return control_ask(control, "compare",
                       NEEDS_JOB | TAKES_OTHER | TAKES_METRIC | TAKES_WINDOW | TAKES_RANGE,
                       question, ret_result, ret_result);
}
