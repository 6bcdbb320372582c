/* SPDX-License-Identifier: MIT */
#include "daemon/http/route.h"

#include <string.h>

#define A(name) (1u << ARG_##name)
#define RUNS    (A(job) | A(run))
#define LAYERS  (RUNS | A(stack) | A(layer) | A(site))
#define WINDOWS (A(window) | A(from) | A(to))
#define JSON    "application/json"

/* The fields that every result about a layer and every answer of maps has. */
#define RESULT "v kind job run epoch step time_ns stack layer site tier shape causal rows heads"
#define MAPS                                                                                       \
    "job run epoch step queries keys first_query first_key queries_sent keys_sent rows columns "   \
    "labels q_labels"

const struct route routes[] = {
    {"/api/v1/version", JSON, handle_method, "ping", A(or_null), 0, FOR_KNOWN, JOBS_NONE,
     "{version uptime_s directory ingest}", "version and uptime of attnd, and where jobs attach"},
    {"/api/v1/metrics", JSON, handle_metric_list, NULL, 0, 0, FOR_KNOWN, JOBS_NONE,
     "[name unit per group domain description]", "the metrics there are"},
    {"/api/v1/jobs", JSON, handle_method, "jobs", A(or_null), 0, FOR_KNOWN, JOBS_LISTED,
     "[v kind job run epoch step time_ns state heard_ns world ranks layers received processed lost "
     "dropped]",
     "the runs that attnd knows, with their layers"},
    {"/api/v1/runs", JSON, handle_method, "runs", A(job) | A(limit) | A(or_null), 0, FOR_KNOWN,
     JOBS_LISTED, "{runs more}", "runs in the history, newest first"},
    {"/api/v1/layers", JSON, handle_method, "windows", LAYERS | A(or_null), A(job), FOR_KNOWN,
     JOBS_NAMED, "{job run layers}",
     "layers of a run in the history: their heads, windows and metrics"},
    {"/api/v1/summary", JSON, handle_method, "summary",
     LAYERS | A(window) | A(metrics) | A(or_null), A(job), FOR_KNOWN, JOBS_NAMED,
     "[" RESULT " window ranks messages lost dropped quantile_error]",
     "the last window of each layer of a run"},
    {"/api/v1/live", JSON, handle_method, "live", LAYERS | A(tier) | A(metrics) | A(or_null),
     A(job), FOR_KNOWN, JOBS_NAMED, "[" RESULT " rank]",
     "the last message's numbers of each layer of a run"},
    {"/api/v1/history", JSON, handle_method, "history",
     LAYERS | A(head) | A(metric) | WINDOWS | A(limit) | A(statistics) | A(packed) | A(or_null),
     A(job), FOR_KNOWN, JOBS_NAMED, "{job run metric unit length every heads more windows values}",
     "one metric of a layer, window by window"},
    {"/api/v1/grid", JSON, handle_method, "grid",
     LAYERS | A(metric) | A(statistic) | WINDOWS | A(points) | A(packed) | A(or_null), A(job),
     FOR_KNOWN, JOBS_NAMED, "{job run metric statistic unit length every total windows layers}",
     "one metric of all layers and heads over a run"},
    {"/api/v1/roles", JSON, handle_method, "roles", LAYERS | A(head) | A(window) | A(or_null),
     A(job), FOR_KNOWN, JOBS_NAMED, "{job run unit length every heads more}",
     "what each head does, the evidence for it, and since when"},
    {"/api/v1/ranks", JSON, handle_method, "ranks",
     LAYERS | A(metric) | A(window) | A(last) | A(or_null), A(job), FOR_KNOWN, JOBS_NAMED,
     "{job run stack layer site unit length every first last epoch step partial metric heads ranks "
     "odd more}",
     "the mean entropy of each head of a layer by rank, and which rank is the odd one out"},
    {"/api/v1/map", JSON, handle_method, "map",
     LAYERS | A(window) | A(last) | A(kind) | A(packed) | A(or_null), A(job), FOR_KNOWN, JOBS_NAMED,
     "{job run stack layer site unit length every first last epoch step queries keys rows columns "
     "partial values}",
     "the stored map of a window: the mean over heads, or one of each head"},
    {"/api/v1/maps", JSON, handle_method, "maps",
     LAYERS | A(head) | A(heads) | A(size) | A(kind) | A(packed) | A(or_null), A(job), FOR_KNOWN,
     JOBS_NAMED, "{" MAPS " stack layer site tier sample causal kind heads values}",
     "the newest map of each head of a layer, or one over all heads"},
    {"/api/v1/rollout", JSON, handle_method, "rollout", RUNS | A(stack) | A(packed) | A(or_null),
     A(job), FOR_KNOWN, JOBS_NAMED, "{" MAPS " stack layers exact values}",
     "attention rollout over the layers of a stack"},
    {"/api/v1/alerts", JSON, handle_method, "alerts",
     RUNS | A(rule) | A(severity) | A(state) | A(from) | A(to) | A(limit) | A(or_null), 0,
     FOR_KNOWN, JOBS_BOTH, "{firing}",
     "what fires, or did at the end of its run; of a job also all that was told"},
    {"/api/v1/rules", JSON, handle_method, "rules", A(job) | A(or_null), 0, FOR_KNOWN, JOBS_LISTED,
     "[name metric statistic per_key each job layer condition bound clear within for after_clear "
     "severity why advice]",
     "the alert rules in force"},
    {"/api/v1/verdict", JSON, handle_method, "verdict", RUNS | A(limit) | A(or_null), A(job),
     FOR_KNOWN, JOBS_NAMED, "{job run state epoch step alerts more checks}",
     "what fires in a run, or did at its end, worst first, and how many checks had numbers"},
    {"/api/v1/compare", JSON, handle_method, "compare",
     RUNS | A(job_b) | A(run_b) | A(metric) | WINDOWS | A(windows) | A(limit) | A(or_null), A(job),
     FOR_KNOWN, JOBS_NAMED, "{a b heads only_a only_b more}", "two runs, head by head"},
    {"/api/v1/log", JSON, handle_method, "log", RUNS | A(from) | A(points) | A(or_null), A(job),
     FOR_KNOWN, JOBS_NAMED, "{job run series}",
     "what the training itself reported, such as its loss"},
    {"/api/v1/plan", JSON, handle_method, "plan.get", A(job) | A(or_null), 0, FOR_KNOWN, JOBS_BOTH,
     NULL, "what a job is asked to capture"},
    {"/api/v1/stats", JSON, handle_method, "stats", A(or_null), 0, FOR_KNOWN, JOBS_ALL,
     "{uptime_s received processed bytes lost dropped}", "counters of attnd"},
    {"/api/v1/fleet", JSON, handle_method, "fleet", A(or_null), 0, FOR_KNOWN, JOBS_ALL, "{role}",
     "this attnd among those of other machines: a node, a hub, or neither"},
    {"/api/v1/events", "text/event-stream", handle_events, NULL,
     A(job) | A(kinds) | A(last_event_id), 0, FOR_KNOWN, JOBS_NONE, NULL,
     "live values, summaries, alerts, job states and logged values as they come"},
    {"/api/v1/openapi.json", JSON, NULL, NULL, 0, 0, FOR_KNOWN, JOBS_NONE,
     "{openapi info paths components}", "this description"},
    {"/metrics", "text/plain", handle_metrics, NULL, 0, 0, FOR_KNOWN, JOBS_NONE, NULL,
     "Prometheus metrics"},
    {"/healthz", "text/plain", handle_health, NULL, 0, 0, FOR_ALL, JOBS_NONE, NULL,
     "200 when the loop of attnd answers"},
    {"/readyz", "text/plain", handle_ready, NULL, 0, 0, FOR_ALL, JOBS_NONE, NULL,
     "200 when messages are taken and the history can be written"},
    {"/", "text/html", handle_page, NULL, 0, 0, FOR_TOKEN_HOLDER, JOBS_NONE, NULL, "the page"},
    {"/assets/*", "text/plain", handle_asset, NULL, 0, 0, FOR_TOKEN_HOLDER, JOBS_NONE, NULL,
     "what the page is made of"},
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
