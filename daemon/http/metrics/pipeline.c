/* SPDX-License-Identifier: MIT */
/* Writes the metrics of attnd itself: counters, queues, latencies; and of each job. */
#include "daemon/http/metrics/internal.h"

#include "proto/err.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
    const char *name, *help;
} counters[COUNT_COUNT] = {
#define COUNTER(symbol, name, exposed, unit, help) [COUNT_##symbol] = {"attnd_" exposed, help},
#include "daemon/base/stats.def"
#undef COUNTER
};

/* Gauges that `stats` answers */

struct answered {
    const char *map, *key; /* map: NULL = the answer's own key */
    const char *name, *help;
    enum family_type type;
};

static const struct answered answered[] = {
    {NULL, "in_flight", "attnd_messages_in_flight",
     "Messages received and neither processed nor dropped yet.", FAMILY_GAUGE},
    {NULL, "in_flight_bytes", "attnd_in_flight_bytes",
     "Bytes of messages in flight and of what computing them takes.", FAMILY_GAUGE},
    {NULL, "jobs", "attnd_jobs", "Jobs that attnd knows.", FAMILY_GAUGE},
    {"pool", "threads", "attnd_workers", "Worker threads.", FAMILY_GAUGE},
    {"pool", "queued", "attnd_worker_queue_length", "Parts of messages that wait for a worker.",
     FAMILY_GAUGE},
    {"pool", "completed", "attnd_worker_tasks", "Parts of messages that workers have computed.",
     FAMILY_COUNTER},
    {"pool", "rejected", "attnd_worker_tasks_rejected",
     "Parts of messages that found the queue full, and were tried again.", FAMILY_COUNTER},
    {"history", "size", "attnd_history_size_bytes", "The history's database and its log.",
     FAMILY_GAUGE},
    {"history", "waiting", "attnd_history_waiting_bytes", "Records on their way to the disk.",
     FAMILY_GAUGE},
};

void metrics_put_pipeline(struct metrics_text *text, struct metrics *metrics,
                          const struct metrics_view *view)
{
    const msgpack_object *stats = mpk_find(view->monitor, "stats");
    const msgpack_object *path = mpk_find(mpk_find(stats, "history"), "path");
    const struct family build = {"attnd_build", FAMILY_INFO, "Version and compiler of attnd."};
    char labels[256] = "", name[96];
    metrics_label(labels, sizeof labels, "version", ATTND_VERSION);
    metrics_label(labels, sizeof labels, "compiler", __VERSION__);
    metrics_head(text, &build);
    metrics_count(text, &build, labels, 1);
    metrics_one_count(text, "attnd_config_last_reload_successful", FAMILY_GAUGE,
                      "Whether the config that was read last came into force.",
                      !atomic_load(&metrics->stats->config_refused));
    metrics_one(text, "attnd_config_last_reload_success_timestamp_seconds", FAMILY_GAUGE,
                "When a config last came into force.",
                (double)(atomic_load(&metrics->stats->config_read_ns) / 1000000) / 1e3);
    for (enum counter i = 0; i < COUNT_COUNT; i++) {
        metrics_one_count(text, counters[i].name, FAMILY_COUNTER, counters[i].help,
                          stats_get(metrics->stats, i));
    }
    /* All reasons, so that the first drop of one is seen as an increase. */
    const struct family family = {"attnd_messages_dropped", FAMILY_COUNTER,
                                  "Messages that were received and not used, by reason; "
                                  "repeated: no loss, but sent again."};
    metrics_head(text, &family);
    for (int i = 0; i < ERR_COUNT; i++) {
        char label[96] = "";
        metrics_label(label, sizeof label, "reason", err_slug(ERR_BASE - i));
        metrics_count(text, &family, label, stats_dropped(metrics->stats, i));
    }
    for (size_t i = 0; i < sizeof answered / sizeof answered[0]; i++) {
        const struct answered *a = &answered[i];
        const msgpack_object *map = a->map ? mpk_find(stats, a->map) : stats;
        metrics_one_count(text, a->name, a->type, a->help, map ? mpk_find_u64(map, a->key) : 0);
    }
    metrics_one_count(text, "attnd_in_flight_limit_bytes", FAMILY_GAUGE,
                      "Bytes in flight beyond which messages are dropped: ingest.budget.",
                      metrics->config->ingest_budget);
    metrics_one_count(text, "attnd_worker_queue_limit", FAMILY_GAUGE,
                      "Room of a job in the workers' queue: workers.queue.",
                      metrics->config->workers_queue);
    metrics_one_count(text, "attnd_history_waiting_limit_bytes", FAMILY_GAUGE,
                      "Waiting bytes beyond which records are dropped: a quarter of ingest.budget.",
                      config_records_bytes(metrics->config));
    metrics_one_count(text, "attnd_history_up", FAMILY_GAUGE,
                      "Whether there is a history that is written to.",
                      path && path->type == MSGPACK_OBJECT_STR);
    metrics_one_count(text, "attnd_http_event_clients", FAMILY_GAUGE,
                      "Clients of the event stream.", view->event_clients);
    metrics_one_count(text, "attnd_http_connections", FAMILY_GAUGE, "Open HTTP connections.",
                      view->connections);
    /* How far the page is from whole. */
    const msgpack_object *jobs = mpk_find(view->monitor, "jobs");
    uint64_t shown = 0, active = 0;
    for (uint32_t i = 0; i < mpk_items(jobs); i++) {
        const msgpack_object *job = &jobs->via.array.ptr[i], *state = mpk_find(job, "state");
        active += state && mpk_is_str(state, "active") ? mpk_find_u64(job, "layers") : 0;
    }
    for (const struct metrics_layer *layer = metrics->layers; layer; layer = layer->hh.next) {
        shown += layer->shown;
    }
    metrics_one_count(text, "attnd_layers", FAMILY_GAUGE,
                      "Attention layers of active jobs, newest runs.", active);
    metrics_one_count(text, "attnd_layers_exposed", FAMILY_GAUGE,
                      "Layers with numbers on this page: of active runs, http.metrics_layers at "
                      "most.",
                      shown);
    for (int i = 0; i < LATENCY_COUNT; i++) {
        snprintf(name, sizeof name, "attnd_%s_seconds", latency_name[i]);
        const struct family latency = {name, FAMILY_HISTOGRAM, latency_help[i]};
        metrics_histogram(text, &latency, &metrics->stats->latency[i]);
    }
}

/* The process, by the metric names that are usual with Prometheus. Numbers that cannot be read are
 * left out. */

/* Fields of /proc/self/stat, in clock ticks, pages and bytes. */
struct process {
    unsigned long user, system, virtual_bytes;
    unsigned long long start;
    long resident_pages, threads;
};

/* The name in the second field may have blanks and parentheses: the last one ends it. */
static bool read_process(struct process *process)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    size_t used = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    text[used] = '\0';
    const char *at = strrchr(text, ')');
    return at && sscanf(at + 1,
                        " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %ld "
                        "%*d %llu %lu %ld",
                        &process->user, &process->system, &process->threads, &process->start,
                        &process->virtual_bytes, &process->resident_pages) == 6;
}

/* Seconds since 1970; 0 when it cannot be told. */
static double boot_time(void)
{
    char line[256];
    unsigned long long boot = 0;
    FILE *file = fopen("/proc/stat", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "btime %llu", &boot) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return (double)boot;
}

static uint64_t count_descriptors(void)
{
    uint64_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) {
        return 0;
    }
    while (readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count > 3 ? count - 3 : 0; /* ".", "..", and the directory itself */
}

void metrics_put_process(struct metrics_text *text)
{
    struct process process;
    double ticks = (double)sysconf(_SC_CLK_TCK), boot = boot_time();
    struct rlimit limit;
    metrics_one_count(text, "process_open_fds", FAMILY_GAUGE, "Open file descriptors.",
                      count_descriptors());
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        metrics_one_count(text, "process_max_fds", FAMILY_GAUGE,
                          "File descriptors that may be open.", limit.rlim_cur);
    }
    if (!read_process(&process)) {
        return;
    }
    metrics_one(text, "process_cpu_seconds", FAMILY_COUNTER, "Processor time spent.",
                (double)(process.user + process.system) / ticks);
    metrics_one_count(text, "process_virtual_memory_bytes", FAMILY_GAUGE, "Virtual memory.",
                      process.virtual_bytes);
    metrics_one_count(text, "process_resident_memory_bytes", FAMILY_GAUGE, "Resident memory.",
                      (uint64_t)process.resident_pages * (uint64_t)sysconf(_SC_PAGESIZE));
    metrics_one_count(text, "process_threads", FAMILY_GAUGE, "Threads.", (uint64_t)process.threads);
    if (boot > 0) {
        metrics_one(text, "process_start_time_seconds", FAMILY_GAUGE,
                    "When the process began, since 1970.", boot + (double)process.start / ticks);
    }
}
