/* SPDX-License-Identifier: MIT */
/* The methods that are about the daemon itself. */
#include "daemon/control/internal.h"

#include "daemon/base/clock.h"
#include "daemon/fleet/fleet.h"
#include "daemon/history/params.h"
#include "workers/base/pool.h"
#include "daemon/store/store.h"

#include <string.h>
#include <sys/stat.h>

/* A string parameter: `fallback` when it is missing, NULL when it does not fit or is no string. */
const char *string_param(const struct control_request *request, const char *key,
                         const char *fallback, char *buffer, size_t size)
{
    const msgpack_object *value = mpk_find(request->params, key);
    if (!value || value->type == MSGPACK_OBJECT_NIL) {
        if (!fallback) {
            snprintf(request->detail, CONTROL_DETAIL_MAX, "%s is needed", key);
            return NULL;
        }
        snprintf(buffer, size, "%s", fallback);
        return buffer;
    }
    if (value->type != MSGPACK_OBJECT_STR || value->via.str.size >= size ||
        memchr(value->via.str.ptr, '\0', value->via.str.size)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX,
                 "%s is not accepted (valid: text of at most %zu bytes)", key, size - 1);
        return NULL;
    }
    memcpy(buffer, value->via.str.ptr, value->via.str.size);
    buffer[value->via.str.size] = '\0';
    return buffer;
}

bool request_lists(const struct control_request *request, const char *job)
{
    char jobs[ACCESS_JOBS_MAX];
    return string_param(request, "jobs", "", jobs, sizeof jobs) &&
           (!*jobs || access_jobs_match(jobs, job));
}

bool request_takes(struct control_request *request, const char *const *keys, int count)
{
    const msgpack_object *params = request->params;
    for (uint32_t i = 0; params->type == MSGPACK_OBJECT_MAP && i < params->via.map.size; i++) {
        const msgpack_object *key = &params->via.map.ptr[i].key;
        int found = 0;
        while (found < count && !mpk_is_str(key, keys[found])) {
            found++;
        }
        if (found < count) {
            continue;
        }
        history_refuse_key(key, request->detail, CONTROL_DETAIL_MAX);
        return false;
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
