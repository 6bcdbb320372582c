/* SPDX-License-Identifier: MIT */
/* Methods of control as JSON, and the event stream. */
#include "daemon/http/internal.h"

#include "daemon/base/clock.h"

#include <stdlib.h>
#include <string.h>

static bool is_one_of(const msgpack_object *name, const bool *metrics)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        if (metrics[m] && mpk_is_str(name, metric_info[m].name)) {
            return true;
        }
    }
    return false;
}

static void reply_result(struct request *request, struct mpk_doc *doc)
{
    if (request->arguments.given & UINT64_C(1) << ARG_metrics) {
        /* A list of live or summary maps without the numbers of other metrics: they become null,
         * and their names stay. So do the spectra of matrices, which are longer than all numbers of
         * the heads. */
        static const char *const of_heads[] = {"heads", "drift"};
        for (uint32_t i = 0; i < mpk_items(doc->root); i++) {
            msgpack_object *weights =
                (msgpack_object *)mpk_find(&doc->root->via.array.ptr[i], "weights");
            if (weights) {
                weights->type = MSGPACK_OBJECT_NIL;
            }
            for (size_t k = 0; k < sizeof of_heads / sizeof of_heads[0]; k++) {
                const msgpack_object *map = mpk_find(&doc->root->via.array.ptr[i], of_heads[k]);
                for (uint32_t p = 0; p < mpk_pairs(map); p++) {
                    if (!is_one_of(&map->via.map.ptr[p].key, request->arguments.metrics)) {
                        map->via.map.ptr[p].val.type = MSGPACK_OBJECT_NIL;
                    }
                }
            }
        }
    }
    char *json = mpk_to_json_base64(doc->root);
    if (json) {
        reply_owned(request, MHD_HTTP_OK, "application/json", json, strlen(json));
    } else {
        reply_code(request, ERR_MEMORY, NULL);
    }
}

static bool is_missing(int code)
{
    return code == ERR_JOB_UNKNOWN || code == ERR_RUN_UNKNOWN || code == ERR_NO_HISTORY ||
           code == ERR_NO_SUMMARY || code == ERR_NO_MAP || code == ERR_HISTORY_OFF;
}

void api_on_result(struct request *request, struct question *question)
{
    struct mpk_doc doc;
    if (is_missing(question->code) && request->arguments.or_null) {
        reply_text(request, MHD_HTTP_OK, "application/json", "null");
    } else if (reply_parse(request, question, &doc)) {
        reply_result(request, &doc);
        mpk_doc_clear(&doc);
    }
}

/* Whether this parameter names a job that the visitor may not see. */
static bool api_hides(struct request *request, const char *name)
{
    const char *job = request_argument(request, name);
    return job && !access_jobs_match(request->visitor.jobs, job);
}

void handle_method(struct request *request)
{
    enum route_jobs about = request->route->about;
    bool lists = about == JOBS_LISTED || about == JOBS_BOTH;
    bool sees_all = access_jobs_match(request->visitor.jobs, NULL);
    if (about != JOBS_LISTED && (api_hides(request, "job") || api_hides(request, "job_b"))) {
        struct question unknown = {.code = ERR_JOB_UNKNOWN};
        api_on_result(request, &unknown);
        return;
    }
    struct question *question = question_new(request->http, request->route->method);
    if (question) {
        argument_put_map(&request->arguments, lists && !sees_all ? request->visitor.jobs : NULL,
                         &question->params);
    }
    request_wait(request, question, api_on_result);
}

/* The event stream */

/* 0 when a word is no kind. */
static unsigned read_kinds(const char *words)
{
    unsigned kinds = 0;
    if (!words) {
        return (1u << EVENT_KINDS) - 1;
    }
    for (;; words++) {
        size_t length = strcspn(words, ",");
        int kind = event_kind_find(words, length);
        if (kind < 0) {
            return 0;
        }
        kinds |= 1u << kind;
        words += length;
        if (!*words) {
            return kinds;
        }
    }
}

static void api_open_stream(struct request *request, const struct event_filter *filter)
{
    const char *last_id = request_header(request, "Last-Event-ID");
    if (!last_id) {
        last_id = request_argument(request, "last_event_id");
    }
    request->response = events_open(&request->http->events, request->connection, filter, last_id,
                                    clock_monotonic_ns());
    request->status = MHD_HTTP_OK;
    if (request->response) {
        reply_header(request, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
        reply_header(request, "X-Accel-Buffering", "no"); /* a proxy may not hold events back */
        return;
    }
    stats_add(request->http->stats, COUNT_HTTP_REFUSED, 1);
    reply_code(request, ERR_AGAIN,
               "there are as many clients as a quarter of http.connections allows");
    reply_header(request, MHD_HTTP_HEADER_RETRY_AFTER, "10");
}

void handle_events(struct request *request)
{
    struct event_filter filter;
    const char *job = request_argument(request, "job");
    memset(&filter, 0, sizeof filter);
    filter.visitor = request->visitor;
    filter.kinds = read_kinds(request_argument(request, "kinds"));
    if (!filter.kinds) {
        reply_code(request, ERR_ARGUMENT,
                   "kinds: not of live, summary, alert, job and log, between commas");
        return;
    }
    if (job && !job_name_valid(job, strlen(job))) {
        reply_code(request, ERR_ARGUMENT, "job: not 1 to 128 of [A-Za-z0-9._-]");
        return;
    }
    if (job) {
        strcpy(filter.job, job);
    }
    if (request->head_only) { /* a stream has no end, and so no HEAD of its own */
        reply_bytes(request, MHD_HTTP_OK, "text/event-stream", "", 0);
    } else {
        api_open_stream(request, &filter);
    }
}
