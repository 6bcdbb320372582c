/* SPDX-License-Identifier: MIT */
#include "daemon/http/route.h"

#include <string.h>

#define JSON "application/json"

#define METHOD(name, function, when, role, of_all, takes, result)
#define ROUTED(name, function, when, role, of_all, takes, result, path, about, more, answer, help) \
    _Static_assert(!(of_all) || JOBS_##about == JOBS_LISTED || JOBS_##about == JOBS_ALL,           \
                   path ": those who may not see all jobs would see all");
#include "proto/method.def"

const struct route routes[] = {
#define METHOD(name, function, when, role, of_all, takes, result)
#define ROUTED(name, function, when, role, of_all, takes, result, path, about, more, answer, help) \
    {path,      JSON,         handle_method, name, takes,      "or_null " more,                    \
     FOR_KNOWN, JOBS_##about, answer,        help, ACCESS_READ},
#define CHANGES(name, function, when, role, takes, result, path, answer, help)                     \
    {path,      JSON,       handle_change, name, takes,        "",                                 \
     FOR_KNOWN, JOBS_NAMED, answer,        help, ACCESS_##role},
#include "proto/method.def"
    {"/api/v1/metrics", JSON, handle_metric_list, NULL, "", "", FOR_KNOWN, JOBS_NONE,
     "[name unit per group domain description]", "the metrics there are", ACCESS_READ},
    {"/api/v1/events", "text/event-stream", handle_events, NULL, "", "job kinds last_event_id",
     FOR_KNOWN, JOBS_NONE, NULL,
     "live values, summaries, alerts, job states and logged values as they come", ACCESS_READ},
    {"/api/v1/openapi.json", JSON, NULL, NULL, "", "", FOR_KNOWN, JOBS_NONE,
     "{openapi info paths components}", "this description", ACCESS_READ},
    {"/metrics", "text/plain", handle_metrics, NULL, "", "", FOR_KNOWN, JOBS_NONE, NULL,
     "Prometheus metrics", ACCESS_READ},
    {"/healthz", "text/plain", handle_health, NULL, "", "", FOR_ALL, JOBS_NONE, NULL,
     "200 when the loop of attnd answers", ACCESS_READ},
    {"/readyz", "text/plain", handle_ready, NULL, "", "", FOR_ALL, JOBS_NONE, NULL,
     "200 when messages are taken and the history can be written", ACCESS_READ},
    {"/", "text/html", handle_page, NULL, "", "", FOR_TOKEN_HOLDER, JOBS_NONE, NULL, "the page",
     ACCESS_READ},
    {"/assets/*", "text/plain", handle_asset, NULL, "", "", FOR_TOKEN_HOLDER, JOBS_NONE, NULL,
     "what the page is made of", ACCESS_READ},
};
const size_t route_count = sizeof routes / sizeof routes[0];

const struct route *route_find(const char *path)
{
    for (size_t i = 0; i < route_count; i++) {
        size_t length = strlen(routes[i].path);
        bool prefix = routes[i].path[length - 1] == '*';
        if (prefix ? strncmp(path, routes[i].path, length - 1) == 0
                   : strcmp(path, routes[i].path) == 0) {
            return &routes[i];
        }
    }
    return NULL;
}
