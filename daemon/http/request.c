/* SPDX-License-Identifier: MIT */
/* Requests that wait for the loop thread. A question that is on its way when its request ends is
 * nobody's any more, and freed when it comes back. */
#include "daemon/http/internal.h"

#include "daemon/base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

/* Questions that are with the loop thread at once: their answers are all in memory. Others wait
 * here. */
#define ASKED_MAX 16

const char *request_header(struct request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *request_argument(struct request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* The q of "text/plain;a=b;q=0.5", which ends at a comma: 1 when it has none. */
static double request_read_q(const char *range)
{
    for (const char *at = range + strcspn(range, ";,"); *at == ';'; at += strcspn(at, ";,")) {
        at += strspn(at, "; \t");
        if (strncasecmp(at, "q=", 2) == 0) {
            return strtod(at + 2, NULL);
        }
    }
    return 1;
}

double request_quality(struct request *request, const char *header, const char *word)
{
    const char *at = request_header(request, header);
    double best = 0;
    for (; at && *at; at += strcspn(at, ",")) {
        at += strspn(at, ", \t");
        size_t length = strcspn(at, ";, \t");
        if (length == strlen(word) && strncasecmp(at, word, length) == 0) {
            double q = request_read_q(at);
            best = q > best ? q : best;
        }
    }
    return best;
}

/* Questions whose request is gone need no answer. */
void requests_send(struct http *http)
{
    struct question *question;
    while (http->to_ask && (http->to_ask->urgent || http->asked_count < ASKED_MAX)) {
        question = question_take(&http->to_ask);
        if (question->data) {
            http->asked_count++;
            question->asked_ns = clock_monotonic_ns();
            uv_mutex_lock(&http->lock);
            question_put(&http->to_loop, question);
            uv_mutex_unlock(&http->lock);
            uv_async_send(&http->asked);
        } else {
            question_free(&question);
        }
    }
}

void request_stop_waiting(struct request *request)
{
    struct http *http = request->http;
    DL_DELETE2(http->waiting, request, previous, next);
    request->question->data = NULL;
    request->question = NULL;
}

static void on_answer(struct question *question)
{
    struct request *request = question->data;
    if (request) {
        request_stop_waiting(request);
        request->answered(request, question);
        MHD_resume_connection(request->connection);
    }
    question_free(&question);
}

void request_wait(struct request *request, struct question *question,
                  void (*answered)(struct request *request, struct question *question))
{
    struct http *http = request->http;
    if (!question || !mpk_writer_ok(&question->params)) {
        question_free(&question);
        reply_code(request, ERR_MEMORY, NULL);
        return;
    }
    if (http->stopping) {
        question_free(&question);
        reply_code(request, ERR_CLOSED, "attnd is stopping");
        return;
    }
    question->data = request;
    question->answered = on_answer;
    request->question = question;
    request->answered = answered;
    DL_PREPEND2(http->waiting, request, previous, next);
    MHD_suspend_connection(request->connection);
    question_put(&http->to_ask, question);
    requests_send(http);
}

void request_ask(struct request *request, const char *method,
                 void (*answered)(struct request *request, struct question *question))
{
    struct question *question = question_new(request->http, method);
    if (question) {
        question->urgent = true;
        mpk_put_map(&question->params, 0);
    }
    request_wait(request, question, answered);
}

static void request_give_up(struct request *request, const char *slug, const char *message)
{
    request_stop_waiting(request);
    reply_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, slug, message);
    MHD_resume_connection(request->connection);
}

void requests_check(struct http *http, uint64_t now_ns)
{
    struct request *next;
    for (struct request *request = http->waiting; request; request = next) {
        next = request->next;
        /* A question that has not been asked yet waits for those before it: while the loop thread
         * answers them, it is not the one that is slow. */
        const struct question *question = request->question;
        uint64_t began_ns = request->began_ns, heard_ns = request->http->heard_ns;
        uint64_t since_ns = question->asked_ns    ? question->asked_ns
                            : heard_ns > began_ns ? heard_ns
                                                  : began_ns;
        if (!question->is_back && now_ns - since_ns > request->patience_ns) {
            request_give_up(request, "again",
                            "attnd is busy and has not answered in time: try again later");
        }
    }
}

/* From here on a request that would have to wait is refused at once. */
void requests_end(struct http *http)
{
    http->stopping = true;
    while (http->waiting) {
        request_give_up(http->waiting, "closed", "attnd is stopping");
    }
}

struct question *question_new(struct http *http, const char *method)
{
    struct question *question = calloc(1, sizeof *question);
    if (!question) {
        return NULL;
    }
    question->http = http;
    question->method = method;
    mpk_writer_init(&question->params);
    return question;
}

void question_free(struct question **question_p)
{
    struct question *question = *question_p;
    if (!question) {
        return;
    }
    mpk_writer_clear(&question->params);
    free(question->result);
    free(question);
    *question_p = NULL;
}

void question_put(struct question **list, struct question *question)
{
    if (question->urgent) {
        DL_PREPEND2(*list, question, previous, next);
    } else {
        DL_APPEND2(*list, question, previous, next);
    }
}

struct question *question_take(struct question **list)
{
    struct question *first = *list;
    if (first) {
        DL_DELETE2(*list, first, previous, next);
    }
    return first;
}
