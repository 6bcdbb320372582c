/* SPDX-License-Identifier: MIT */
#include "daemon/http/internal.h"

#include "proto/err.h"
#include "proto/header.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

void reply_header(struct request *request, const char *name, const char *value)
{
    if (request->response) {
        MHD_add_response_header(request->response, name, value);
    }
}

static void reply_set(struct request *request, unsigned status, const char *type,
                      struct MHD_Response *response)
{
    if (request->response) {
        MHD_destroy_response(request->response);
    }
    request->response = response;
    request->status = status;
    reply_header(request, MHD_HTTP_HEADER_CONTENT_TYPE, type);
}

void reply_bytes(struct request *request, unsigned status, const char *type, const void *bytes,
                 size_t size)
{
    /* Not changed: the mode says so, the type does not. */
    reply_set(
        request, status, type,
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)bytes, MHD_RESPMEM_PERSISTENT));
}

void reply_text(struct request *request, unsigned status, const char *type, const char *text)
{
    reply_set(request, status, type,
              MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                              MHD_RESPMEM_MUST_COPY));
}

/* An answer while it is being sent. */
struct reply_answer {
    struct http *http;
    void *bytes;
    size_t size;
};

static void reply_answer_free(void *data)
{
    struct reply_answer *answer = data;
    answer->http->answer_bytes -= answer->size;
    free(answer->bytes);
    free(answer);
}

void reply_owned(struct request *request, unsigned status, const char *type, void *bytes,
                 size_t size)
{
    struct http *http = request->http;
    /* One that is alone may be of any size. */
    if (http->answer_bytes > 0 && http->answer_bytes + size > http->config->publish_budget) {
        free(bytes);
        reply_code(request, ERR_AGAIN,
                   "answers that others have not read yet take all of publish.budget: try again");
        reply_header(request, MHD_HTTP_HEADER_RETRY_AFTER, "1");
        return;
    }
    struct MHD_Response *response = NULL;
    struct reply_answer *answer = malloc(sizeof *answer);
    if (answer) {
        *answer = (struct reply_answer){.http = http, .bytes = bytes, .size = size};
        http->answer_bytes += size;
        response = MHD_create_response_from_buffer_with_free_callback_cls(
            size, bytes, reply_answer_free, answer);
        if (!response) {
            reply_answer_free(answer);
        }
    } else {
        free(bytes);
    }
    reply_set(request, status, type, response);
}

void reply_error(struct request *request, unsigned status, const char *slug, const char *message)
{
    json_t *json = json_pack("{s:{s:s, s:s}}", "error", "code", slug, "message", message);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (text) {
        reply_text(request, status, "application/json", text);
    } else {
        reply_text(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "text/plain", "out of memory\n");
    }
    free(text);
}

void reply_refuse(struct request *request, unsigned status, const char *slug, const char *message)
{
    stats_add(request->http->stats, COUNT_HTTP_REFUSED, 1);
    reply_error(request, status, slug, message);
}

static unsigned status_of(int code)
{
    switch (code) {
    case ERR_ARGUMENT:
    case ERR_REQUEST:
        return MHD_HTTP_BAD_REQUEST;
    case ERR_JOB_UNKNOWN:
    case ERR_RUN_UNKNOWN:
    case ERR_NO_HISTORY:
    case ERR_NO_SUMMARY:
    case ERR_NO_MAP:
    case ERR_METHOD_UNKNOWN:
        return MHD_HTTP_NOT_FOUND;
    case ERR_RUNNING:
    case ERR_UNSENT:
    case ERR_HUB:
        return MHD_HTTP_CONFLICT;
    case ERR_QUERY_TIME:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    case ERR_MEMORY:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    default: /* again, closed, history_off: it may work later */
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    }
}

void reply_code(struct request *request, int code, const char *detail)
{
    reply_error(request, status_of(code), err_slug(code),
                detail && *detail ? detail : err_text(code));
}

bool reply_parse(struct request *request, const struct question *question, struct mpk_doc *ret_doc)
{
    if (question->code) {
        reply_code(request, question->code, question->detail);
        return false;
    }
    if (mpk_parse(question->result, question->size, &mpk_result_limits, ret_doc) != 0) {
        reply_code(request, ERR_MEMORY, "the answer is too large: ask for less of it");
        return false;
    }
    return true;
}

void reply_finish(struct request *request)
{
    reply_header(request, "X-Content-Type-Options", "nosniff");
    reply_header(request, "Referrer-Policy", "no-referrer");
    reply_header(request, "Cross-Origin-Resource-Policy", "same-origin");
    reply_header(request, "X-Frame-Options", "DENY");
    if (!request->route || request->route->who == FOR_KNOWN) {
        reply_header(request, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    }
}
