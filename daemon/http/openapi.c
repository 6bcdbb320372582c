/* SPDX-License-Identifier: MIT */
/* The OpenAPI description, made from the tables that requests are checked by; and the list of
 * metrics. */
#include "daemon/http/internal.h"

#include "proto/metric.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *metric_list_describe(int i)
{
    const struct metric_info *info = &metric_info[i];
    static const char *const worse[] = {"low", "high", "both", "neither"};
    /* [minimum, maximum], or null where one has no end. */
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s, s:f, s:s}", "name", info->name, "unit",
                     info->unit, "per", info->kind == METRIC_KIND_ROW ? "row" : "message", "group",
                     metric_in_spectrum((unsigned)i) ? "spectrum" : "heads", "domain",
                     isfinite(info->minimum) && isfinite(info->maximum)
                         ? json_pack("[f, f]", info->minimum, info->maximum)
                         : json_null(),
                     "worse", worse[info->worse], "resolution", info->resolution, "description",
                     info->description);
}

/* Takes over the reference; NULL when out of memory. */
static void openapi_reply(struct request *request, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (text) {
        reply_owned(request, MHD_HTTP_OK, "application/json", text, strlen(text));
    } else {
        reply_code(request, ERR_MEMORY, NULL);
    }
}

/* The metrics that a reader can choose from, with what they mean in one line. */
void handle_metric_list(struct request *request)
{
    json_t *list = json_array();
    for (int i = 0; i < METRIC_COUNT; i++) {
        json_array_append_new(list, metric_list_describe(i));
    }
    openapi_reply(request, list);
}

static json_t *schema_of(enum argument_type type)
{
    switch (type) {
    case ARGUMENT_NUMBER:
        return json_pack("{s:s, s:i}", "type", "integer", "minimum", 0);
    case ARGUMENT_FLAG:
        return json_pack("{s:s}", "type", "boolean");
    case ARGUMENT_LIST:
        return json_pack("{s:s, s:{s:s}}", "type", "array", "items", "type", "string");
    case ARGUMENT_TEXT:
        break;
    }
    return json_pack("{s:s}", "type", "string");
}

/* "{a b}" as an object with these keys, "[a b]" as a list of such. */
static json_t *describe_answer(const char *answer)
{
    json_t *keys = json_array();
    for (const char *at = answer + 1; *at && *at != '}' && *at != ']';) {
        size_t length = strcspn(at, " }]");
        json_array_append_new(keys, json_stringn(at, length));
        at += length + (at[length] == ' ');
    }
    json_t *object = json_pack("{s:s, s:o}", "type", "object", "required", keys);
    return *answer == '{' ? object : json_pack("{s:s, s:o}", "type", "array", "items", object);
}

static json_t *describe_responses(const struct route *route)
{
    json_t *content = json_object();
    if (route->answer) {
        json_object_set_new(content, "schema", describe_answer(route->answer));
    }
    json_t *json = json_pack("{s:{s:s, s:o}}", "200", "description", route->help, "content",
                             json_pack("{s:o}", route->type, content));
    json_object_set_new(json, "default",
                        json_pack("{s:s, s:{s:{s:{s:s}}}}", "description", "why not", "content",
                                  "application/json", "schema", "$ref",
                                  "#/components/schemas/Error"));
    return json;
}

/* One that is asked by POST, with its parameters as a JSON object. */
static void add_change(json_t *paths, const struct route *route)
{
    json_t *properties = json_object(), *needed = json_array();
    for (int i = 0; i < ARG_COUNT; i++) {
        if (argument_use(route, i)) {
            json_t *schema = schema_of(arguments[i].type);
            json_object_set_new(schema, "description", json_string(arguments[i].help));
            json_object_set_new(properties, arguments[i].name, schema);
        }
        if (argument_use(route, i) == METHOD_NEEDS) {
            json_array_append_new(needed, json_string(arguments[i].name));
        }
    }
    json_t *schema = json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties,
                               "required", needed);
    json_t *header = json_pack("{s:s, s:s, s:b, s:{s:s, s:[s]}}", "name", "X-Attnd", "in", "header",
                               "required", 1, "schema", "type", "string", "enum", "1");
    json_object_set_new(paths, route->path,
                        json_pack("{s:{s:s, s:[o], s:{s:b, s:{s:{s:o}}}, s:o}}", "post", "summary",
                                  route->help, "parameters", header, "requestBody", "required", 1,
                                  "content", "application/json", "schema", schema, "responses",
                                  describe_responses(route)));
}

/* A path that ends with any name has it in braces. */
static void add_route(json_t *paths, const struct route *route)
{
    if (route->role > ACCESS_READ) {
        add_change(paths, route);
        return;
    }
    size_t length = strlen(route->path);
    json_t *list = json_array();
    for (int i = 0; i < ARG_COUNT; i++) {
        if (argument_use(route, i)) {
            const struct argument *argument = &arguments[i];
            json_t *json =
                json_pack("{s:s, s:s, s:s, s:o}", "name", argument->name, "in", "query",
                          "description", argument->help, "schema", schema_of(argument->type));
            if (argument->type == ARGUMENT_LIST) {
                json_object_set_new(json, "explode", json_false());
            }
            if (argument_use(route, i) == METHOD_NEEDS) {
                json_object_set_new(json, "required", json_true());
            }
            json_array_append_new(list, json);
        }
    }
    json_t *get = json_pack("{s:s, s:o, s:o}", "summary", route->help, "parameters", list,
                            "responses", describe_responses(route));
    if (route->who != FOR_KNOWN) {
        json_object_set_new(get, "security", json_array());
    }
    json_t *json = json_pack("{s:o}", "get", get);
    char path[64];
    snprintf(path, sizeof path, "%s", route->path);
    if (path[length - 1] == '*') {
        snprintf(path + length - 1, sizeof path - length + 1, "{name}");
        json_array_append_new(json_object_get(json_object_get(json, "get"), "parameters"),
                              json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", "name", "in", "path",
                                        "required", 1, "schema", "type", "string"));
    }
    json_object_set_new(paths, path, json);
}

static json_t *describe_components(void)
{
    return json_pack("{s:{s:{s:s, s:{s:{s:s, s:{s:{s:s}, s:{s:s}}}}}}, s:{s:{s:s, s:s}}}",
                     "schemas", "Error", "type", "object", "properties", "error", "type", "object",
                     "properties", "code", "type", "string", "message", "type", "string",
                     "securitySchemes", "token", "type", "http", "scheme", "bearer");
}

void handle_openapi(struct request *request)
{
    json_t *paths = json_object();
    for (size_t i = 0; i < route_count; i++) {
        add_route(paths, &routes[i]);
    }
    json_t *json = json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:o}", "openapi", "3.0.3", "info",
                             "title", "attnd", "version", ATTND_VERSION, "description",
                             "Results are those of proto/PROTOCOL.md, as JSON.", "paths", paths,
                             "components", describe_components());
    if (request->http->visitors) {
        json_object_set_new(json, "security", json_pack("[{s:[]}]", "token"));
    }
    openapi_reply(request, json);
}
