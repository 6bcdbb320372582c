/* SPDX-License-Identifier: MIT */
/* The methods that are about the daemon itself. */
#include "daemon/control/internal.h"

#include "daemon/base/clock.h"
#include "daemon/fleet/fleet.h"
#include "daemon/history/params.h"
#include "workers/base/pool.h"
#include "daemon/store/store.h"
#include "config/config.h"
#include "config/rules.h"
#include "proto/method.h"
#include "proto/result.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int request_find_run(struct control_request *request, const char *job, const char *prefix,
                     struct run **ret_run)
{
    const struct registry *registry = request->view->registry;
    bool job_known = registry_knows(registry, job);
    *ret_run = registry_find(registry, job, prefix);
    if (*ret_run) {
        return 0;
    }
    snprintf(request->detail, CONTROL_DETAIL_MAX,
             "no such %s in memory; the history may have it: see runs",
             job_known ? "run of this job" : "job");
    return job_known ? ERR_RUN_UNKNOWN : ERR_JOB_UNKNOWN;
}

/* rules: the alert rules in force, for whoever draws their bounds. */
static void control_rules_put(struct mpk_writer *result, const struct rule *rule)
{
    static const char *const each[RULE_EACH_COUNT] = {"head", "layer", "run"};
    mpk_put_map(result, 17);
    mpk_pair_str(result, "name", rule->name);
    mpk_pair_str(result, "metric", rule_metric_name(rule->metric));
    mpk_pair_str(result, "statistic", rule_statistic_name(rule->statistic));
    mpk_pair_bool(result, "per_key", rule->per_key);
    mpk_pair_str(result, "each", each[rule->each]);
    mpk_pair_str(result, "job", rule->job);
    mpk_pair_str(result, "layer", rule->layer);
    mpk_pair_str(result, "condition", rule_condition_name(rule->condition));
    mpk_pair_f64(result, "bound", rule->bound);
    mpk_pair_f64(result, "clear", rule->clear);
    mpk_pair_u64(result, "within", rule->within);
    mpk_pair_u64(result, "for", rule->times);
    mpk_pair_bool(result, "after_clear", rule->after_clear);
    mpk_pair_str(result, "severity", alert_severity_name((enum alert_severity)rule->severity));
    mpk_pair_str(result, "why", rule_why(rule->name, rule_metric_name(rule->metric)));
    mpk_pair_str(result, "advice", rule_advice(rule->name, rule_metric_name(rule->metric)));
    mpk_pair_str(result, "needs", rule_needs(rule->name, rule_metric_name(rule->metric)));
}

int method_rules(struct control_request *request)
{
    const struct config *config = request->view->config;
    char name[JOB_NAME_MAX + 1], shown[HISTORY_SHOWN_MAX];
    const char *job = string_param(request, "job", "", name, sizeof name);
    if (!job || (*job && !job_name_valid(job, strlen(job)))) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "job: not the name of one: %s (valid: 1 to 128 of A-Z a-z 0-9 . _ -; without it "
                 "the rules of all jobs are listed)",
                 history_show_value(request_param(request, "job"), shown));
        return ERR_ARGUMENT;
    }
    const struct rule *found[RULES_MAX];
    char jobs[ACCESS_JOBS_MAX];
    uint32_t count = 0;
    if (!string_param(request, "jobs", "", jobs, sizeof jobs)) {
        return ERR_ARGUMENT;
    }
    uint32_t all = config->alerts_enabled ? config_rule_count(config) : 0;
    for (uint32_t i = 0; i < all && count < RULES_MAX; i++) {
        const struct rule *rule = config_rule(config, i);
        bool listed = strcmp(rule->job, "*") == 0 || request_lists(request, rule->job);
        if (rule->enabled && listed && (!*job || fnmatch(rule->job, job, 0) == 0)) {
            found[count++] = rule;
        }
    }
    mpk_put_array(request->result, count);
    for (uint32_t i = 0; i < count; i++) {
        control_rules_put(request->result, found[i]);
    }
    return 0;
}

/* keys: the list of keys in force, for whoever looks after it. */
static void control_keys_put(void *data, const struct access_line *line,
                             const bool connected[KEYS_OWN_COUNT], uint64_t refused)
{
    static const char *const address[KEYS_OWN_COUNT] = {"first", "next"};
    struct mpk_writer *result = data;
    mpk_put_map(result, 7);
    mpk_pair_str(result, "name", line->comment);
    mpk_pair_str(result, "public_key", line->who);
    mpk_pair_str(result, "role", access_role_name[line->role]);
    mpk_pair_str(result, "jobs", line->pattern);
    mpk_pair_bool(result, "connected", connected[KEYS_SERVER] || connected[KEYS_NEXT]);
    mpk_pair_array(result, "connected_at",
                   (uint32_t)(connected[KEYS_SERVER] + connected[KEYS_NEXT]));
    for (int own = 0; own < KEYS_OWN_COUNT; own++) {
        if (connected[own]) {
            mpk_put_str(result, address[own]);
        }
    }
    mpk_pair_u64(result, "refused", refused);
}

int method_keys(struct control_request *request)
{
    struct keyring *keys = request->view->keys;
    if (!keys || !config_uses_tcp(request->view->config)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX, "this attnd asks for no keys: %s",
                 keys ? "none of its sockets is on TCP"
                      : "keys.server and keys.access are not set");
        return ERR_ARGUMENT;
    }
    mpk_put_array(request->result, keys_count(keys));
    keys_each(keys, control_keys_put, request->result);
    return 0;
}

const msgpack_object *request_param(const struct control_request *request, const char *key)
{
    const msgpack_object *value = mpk_find(request->params, key);
    return value && value->type != MSGPACK_OBJECT_NIL ? value : NULL;
}

int request_refuse(const struct control_request *request, const char *key, const char *valid)
{
    history_refuse_value(key, mpk_find(request->params, key), valid, request->detail,
                         CONTROL_DETAIL_MAX);
    return ERR_ARGUMENT;
}

bool number_param(const struct control_request *request, const char *key, uint64_t least,
                  uint64_t most, uint64_t *ret_number)
{
    const msgpack_object *value = request_param(request, key);
    char valid[64];
    uint64_t number = least;
    if (value && (mpk_get_u64(value, most, &number) != 0 || number < least)) {
        snprintf(valid, sizeof valid, "%" PRIu64 " to %" PRIu64, least, most);
        request_refuse(request, key, valid);
        return false;
    }
    *ret_number = value ? number : *ret_number;
    return true;
}

bool flag_param(const struct control_request *request, const char *key, bool *ret_flag)
{
    const msgpack_object *value = request_param(request, key);
    return !value || mpk_get_bool(value, ret_flag) == 0 ||
           request_refuse(request, key, "true, false") == 0;
}

const char *string_param(const struct control_request *request, const char *key,
                         const char *fallback, char *buffer, size_t size)
{
    const msgpack_object *value = request_param(request, key);
    if (!value) {
        if (!fallback) {
            snprintf(request->detail, CONTROL_DETAIL_MAX, "%s is needed", key);
            return NULL;
        }
        snprintf(buffer, size, "%s", fallback);
        return buffer;
    }
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size >= size ||
        memchr(value->via.str.ptr, '\0', value->via.str.size)) {
        char valid[64];
        snprintf(valid, sizeof valid, "text of at most %zu bytes", size - 1);
        request_refuse(request, key, valid);
        return NULL;
    }
    memcpy(buffer, value->via.str.ptr, value->via.str.size);
    buffer[value->via.str.size] = '\0';
    return buffer;
}

bool word_param(const struct control_request *request, const char *key, const char *words,
                char *buffer, size_t size)
{
    const char *text = string_param(request, key, "", buffer, size);
    if (text && (!*text || history_is_word(text, words))) {
        return true;
    }
    request_refuse(request, key, words);
    return false;
}

bool request_lists(const struct control_request *request, const char *job)
{
    char jobs[ACCESS_JOBS_MAX];
    return string_param(request, "jobs", "", jobs, sizeof jobs) &&
           (!*jobs || access_jobs_match(jobs, job));
}

bool request_takes(struct control_request *request, const char *takes)
{
    const msgpack_object *params = request->params;
    bool any = params->type != MSGPACK_OBJECT_MAP || strstr(takes, "...");
    for (uint32_t i = 0; !any && i < params->via.map.size; i++) {
        const msgpack_object *key = &params->via.map.ptr[i].key;
        if (key->type != MSGPACK_OBJECT_STR ||
            !method_parameter_find(takes, key->via.str.ptr, key->via.str.size)) {
            history_refuse_key(key, request->detail, CONTROL_DETAIL_MAX);
            return false;
        }
    }
    return true;
}

static double uptime_s(const struct control_view *view)
{
    return (double)(clock_monotonic_ns() - view->started_ns) / 1e9;
}

int method_ping(struct control_request *request)
{
    mpk_put_map(request->result, 5);
    mpk_pair_str(request->result, "version", ATTND_VERSION);
    mpk_pair_f64(request->result, "uptime_s", uptime_s(request->view));
    mpk_pair_str(request->result, "directory", request->view->config->directory);
    mpk_pair_str(request->result, "ingest", request->view->config->ingest_endpoint.text);
    mpk_pair_u64(request->result, "time_ns", clock_wall_ns());
    return 0;
}

/* Bytes of the file and of what waits beside it to get in; 0 when there is none. */
static uint64_t history_size(const char *path)
{
    static const char *const suffixes[] = {"", "-wal"};
    uint64_t size = 0;
    for (int i = 0; i < 2; i++) {
        char name[CONFIG_TEXT_MAX + 8];
        struct stat file;
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        size += stat(name, &file) == 0 ? (uint64_t)file.st_size : 0;
    }
    return size;
}

int method_stats(struct control_request *request)
{
    const struct control_view *view = request->view;
    struct mpk_writer *result = request->result;
    mpk_put_map(result, COUNT_COUNT + 9);
    mpk_pair_f64(result, "uptime_s", uptime_s(view));
    for (int i = 0; i < COUNT_COUNT; i++) {
        mpk_pair_u64(result, counter_name[i],
                     i == COUNT_LOST ? stats_lost(view->stats)
                                     : stats_get(view->stats, (enum counter)i));
    }
    mpk_pair_u64(result, "in_flight", view->messages_in_flight(view->data));
    mpk_pair_u64(result, "in_flight_bytes", view->bytes_in_flight(view->data));
    mpk_pair_u64(result, "budget_bytes", view->config->ingest_budget);
    mpk_pair_u64(result, "jobs", registry_jobs(view->registry));
    mpk_pair_bool(result, "config_refused", atomic_load(&view->stats->config_refused));
    /* Ingest may count on meanwhile: each counter is read once. */
    struct mpk_open dropped = mpk_open(result, "dropped");
    for (int i = 0; i < ERR_COUNT; i++) {
        uint64_t count = stats_dropped(view->stats, i);
        if (count > 0) {
            mpk_pair_u64(result, err_slug(ERR_BASE - i), count);
        }
    }
    mpk_close_map(result, &dropped);
    struct pool_stats stats = pool_stats(view->pool);
    mpk_pair_map(result, "pool", 6);
    mpk_pair_u64(result, "threads", stats.threads);
    mpk_pair_u64(result, "submitted", stats.submitted);
    mpk_pair_u64(result, "completed", stats.completed);
    mpk_pair_u64(result, "rejected", stats.rejected);
    mpk_pair_u64(result, "queued", stats.queued);
    mpk_pair_u64(result, "queued_max", stats.queued_max);
    struct store *store = view->store;
    const char *reason = "", *path = store_path(store, &reason);
    mpk_pair_map(result, "history", 5);
    mpk_pair_str(result, "path", path);
    mpk_pair_str(result, "reason", path ? store_trouble(store) : reason);
    mpk_pair_str(result, "damaged", store_damage(store));
    mpk_pair_u64(result, "size", path ? history_size(path) : 0);
    mpk_pair_u64(result, "waiting", store_waiting(store));
    return 0;
}

int method_fleet(struct control_request *request)
{
    fleet_encode(request->view->fleet, request->result);
    return 0;
}

/* The keys of plans, or those of all else. */
struct key_visit {
    struct mpk_writer *result;
    bool plans;
};

static void control_methods_visit_key(void *data, const char *section, const char *name,
                                      const char *value)
{
    struct key_visit *visit = data;
    char key[JOB_NAME_MAX + 128]; /* jobs.<pattern>.<key> is the longest */
    char public[CONFIG_PUBLIC_MAX];
    if (config_is_plan_key(section, name) != visit->plans) {
        return;
    }
    snprintf(key, sizeof key, "%s%s%s", section, *section ? "." : "", name);
    mpk_pair_str(visit->result, key, config_public(section, name, value, public));
}

int method_config(struct control_request *request)
{
    struct key_visit others = {request->result, false}, plans = {request->result, true};
    struct mpk_open keys = mpk_open(request->result, NULL);
    config_each(request->view->config, control_methods_visit_key, &others);
    config_each(request->view->plan_config, control_methods_visit_key, &plans);
    mpk_close_map(request->result, &keys);
    return 0;
}
