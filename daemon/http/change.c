/* SPDX-License-Identifier: MIT */
/* Requests that change something. A page of somebody else's cannot make one: its Origin is not this
 * host, and a header that no form sends, or a body of this type, makes its browser ask first, which
 * is refused as a method. */
#include "daemon/http/internal.h"

#include "daemon/http/guard.h"
#include "proto/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ASKED_HEADER "X-Attnd"

void change_begin(struct request *request)
{
    const char *type = request_header(request, MHD_HTTP_HEADER_CONTENT_TYPE);
    const char *length = request_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *asked = request_header(request, ASKED_HEADER);
    const uint64_t most = request->http->config->http_max_body;
    static const char json[] = "application/json";
    char *end = NULL;
    uint64_t size = length ? strtoull(length, &end, 10) : 0;
    char message[96];
    if (!asked || strcmp(asked, "1") != 0) {
        reply_refuse(request, MHD_HTTP_FORBIDDEN, "header",
                     "a request that changes something needs the header " ASKED_HEADER ": 1");
    } else if (!type || strncasecmp(type, json, strlen(json)) != 0 ||
               !strchr("; ", type[strlen(json)])) {
        reply_refuse(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "body",
                     "the body has to be JSON: Content-Type: application/json");
    } else if (size == 0 || *end || request_header(request, MHD_HTTP_HEADER_TRANSFER_ENCODING)) {
        reply_refuse(request, MHD_HTTP_LENGTH_REQUIRED, "body",
                     "a body is needed, and its Content-Length");
    } else if (size > most) {
        snprintf(message, sizeof message, "the body is larger than http.max_body, %llu bytes",
                 (unsigned long long)most);
        reply_refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "body", message);
    } else if (!(request->body = malloc(size))) {
        reply_code(request, ERR_MEMORY, NULL);
    } else {
        request->body_room = size;
    }
}

bool change_take(struct request *request, const char *piece, size_t size)
{
    if (size > request->body_room - request->body_size) {
        return false;
    }
    memcpy(request->body + request->body_size, piece, size);
    request->body_size += size;
    return true;
}

/* A value of a parameter. No method takes lists of lists, maps or what is in them: an empty one
 * stands for each. */
static void change_put_value(const json_t *value, bool in_list, struct mpk_writer *params)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        mpk_put_text(params, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        msgpack_pack_int64(&params->packer, json_integer_value(value));
        break;
    case JSON_REAL:
        mpk_put_f64(params, json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        mpk_put_bool(params, json_is_true(value));
        break;
    case JSON_NULL:
        mpk_put_nil(params);
        break;
    case JSON_OBJECT:
        mpk_put_map(params, 0);
        break;
    case JSON_ARRAY:
        mpk_put_array(params, in_list ? 0 : (uint32_t)json_array_size(value));
        for (size_t i = 0; !in_list && i < json_array_size(value); i++) {
            change_put_value(json_array_get(value, i), true, params);
        }
    }
}

static void change_ask(struct request *request, json_t *body)
{
    struct question *question = question_new(request->http, request->route->method);
    const char *key;
    json_t *value;
    if (question) {
        mpk_put_map(&question->params, (uint32_t)json_object_size(body));
        json_object_foreach(body, key, value)
        {
            mpk_put_str(&question->params, key);
            change_put_value(value, false, &question->params);
        }
    }
    request_wait(request, question, api_on_result);
}

void handle_change(struct request *request)
{
    const enum access_role role = request->route->role;
    json_error_t error;
    json_t *body = NULL;
    char message[256];
    if (MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, NULL, NULL) == 0) {
        body = json_loadb(request->body, request->body_size, JSON_REJECT_DUPLICATES, &error);
    } else {
        snprintf(error.text, sizeof error.text, "its parameters belong there, not in the address");
    }
    const char *job = json_string_value(json_object_get(body, "job"));
    if (!json_is_object(body)) {
        snprintf(message, sizeof message, "the body has to be a JSON object: %.120s",
                 body ? "it is none" : error.text);
        utf8_make_plain(message, strlen(message)); /* it repeats some of the body */
        reply_refuse(request, MHD_HTTP_BAD_REQUEST, "body", message);
    } else if (job && !access_jobs_match(request->visitor.jobs, job)) {
        reply_code(request, ERR_JOB_UNKNOWN, NULL);
    } else if (job && !guard_may(&request->visitor, request->http->visitors, role, job)) {
        snprintf(
            message, sizeof message, "this needs the role %s for the job%s", access_role_name[role],
            request->visitor.kind == GUARD_LOCAL ? ", which attnd's own user and root have" : "");
        reply_refuse(request, MHD_HTTP_FORBIDDEN, err_slug(ERR_ACCESS), message);
    } else {
        change_ask(request, body);
    }
    json_decref(body);
}
