/* SPDX-License-Identifier: MIT */
/* Start and stop. A message's way through the daemon is in messages.c, timers are in ticks.c
 * and rounds.c.
 *
 * Stopping: SIGTERM -> ingest drains its socket and posts NOTE_STOPPED; when that is here and
 * nothing is in flight, or shutdown.timeout has passed, the loop stops. Open windows are shown as
 * partial then, and the loop runs until all handles are closed. Sockets may linger a second for
 * slow subscribers. */
#include "daemon/daemon.h"

#include "daemon/accept.h"
#include "daemon/base/activation.h"
#include "daemon/base/cgroup.h"
#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "daemon/base/endpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/unfinished.h"
#include "daemon/control/baseline.h"
#include "daemon/http/page_url.h"
#include "daemon/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

/* How long a stop waits for commands and webhooks. */
#define NOTIFY_STOP_MS 2000
#define SAVE_STOP_NS   UINT64_C(1000000000)
/* How long a node goes on sending its last windows. */
#define FLEET_STOP_NS UINT64_C(2000000000)

/* Requests of runs */

static void forget_job(void *data, const char *job)
{
    struct daemon *daemon = data;
    if (daemon->publisher) { /* NULL: attnd stops */
        publisher_forget_job(daemon->publisher, job);
    }
}

static void daemon_on_pinned(void *data, int code, const char *detail)
{
    struct daemon *daemon = data;
    if (code && code != ERR_CLOSED && log_is_round(daemon->unpinned++)) {
        log_event(LOG_WARNING, "baseline_missing", LOG_STR("reason", err_text(code)),
                  LOG_STR("detail", detail), LOG_NUM("count", daemon->unpinned));
    }
}

/* drift.baseline names a run. Until its windows have been found, or without them, the layer's own
 * first windows are learned. */
static void pin_baseline(void *data, const struct run *run, const struct stream *stream,
                         uint32_t track)
{
    struct daemon *daemon = data;
    struct baseline_source source = {.has_last = false};
    if (!daemon->history) {
        return; /* windows that close while runs are brought back */
    }
    snprintf(source.run, sizeof source.run, "%.*s", 2 * RUN_BYTES,
             daemon->config.drift_baseline.text);
    int code = baseline_pin(daemon->history, daemon->registry, &daemon->config, run, stream, track,
                            &source, daemon_on_pinned, daemon);
    if (code) {
        daemon_on_pinned(daemon, code, "");
    }
}

/* Stop */

static void close_handle(void *opened)
{
    uv_handle_t *handle = opened; /* one that could not be opened has no type */
    if (handle->type != UV_UNKNOWN_HANDLE && !uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

static void daemon_close_handles(struct daemon *daemon)
{
    publisher_close(&daemon->publisher);
    history_close(&daemon->history);
    control_close(&daemon->control);
    http_close(&daemon->http);
    tap_close(&daemon->tap);
    keeper_close(daemon->keeper);
    idle_close(&daemon->idle);
    for (int i = 0; i < DAEMON_SIGNALS; i++) {
        close_handle(&daemon->signals[i]);
    }
    close_handle(&daemon->turns);
    close_handle(&daemon->tick);
    close_handle(&daemon->saver);
    close_handle(&daemon->deadline);
    service_close(daemon->service);
}

static void on_deadline(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    log_event(LOG_WARNING, "stop_timed_out", LOG_NUM("in_flight", daemon->in_flight));
    uv_stop(&daemon->loop);
}

/* `key` and `why` are for the log. */
static void begin_stop(struct daemon *daemon, const char *key, const char *why)
{
    daemon->stopping = true;
    log_event(LOG_INFO, "stopping", LOG_STR(key, why));
    service_stopping(daemon->service, daemon->config.shutdown_timeout);
    ingest_stop(daemon->ingest);
    uv_timer_start(&daemon->deadline, on_deadline, daemon->config.shutdown_timeout / 1000000, 0);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct daemon *daemon = signal->data;
    if (daemon->stopping) {
        _exit(EXIT_FAILURE);
    }
    begin_stop(daemon, "signal", number == SIGINT ? "SIGINT" : "SIGTERM");
}

static void daemon_on_idle(void *data)
{
    struct daemon *daemon = data;
    if (!daemon->stopping) {
        begin_stop(daemon, "reason", "idle");
    }
}

/* Cuts readers off that may no longer read; what comes in is judged as it comes. */
static void daemon_reload_keys(struct daemon *daemon)
{
    char error[CONFIG_ERROR_MAX];
    bool revoked = false;
    if (!daemon->keys) {
        return;
    }
    if (keys_reload(daemon->keys, &revoked, error) != 0) {
        log_event(LOG_ERROR, "access_refused", LOG_STR("detail", error),
                  LOG_STR("in_force", "the list as it was"));
        return;
    }
    log_event(LOG_INFO, "keys_read", LOG_NUM("keys", keys_count(daemon->keys)),
              LOG_STR("connections", revoked ? "ended" : "kept"));
    ingest_follow_keys(daemon->ingest);
    if (revoked) {
        publisher_renew(daemon->publisher);
        tap_renew(daemon->tap);
    }
}

/* A terminal that is closed hangs up, too: when there is nothing to be read again it ends attnd. */
static void on_hangup(uv_signal_t *signal, int number)
{
    struct daemon *daemon = signal->data;
    (void)number;
    if (daemon->stopping) {
        return;
    }
    bool has_tokens = daemon->http && *daemon->config.http_token_file.text;
    if (!daemon->reload.argc && !daemon->keys && !has_tokens) {
        begin_stop(daemon, "signal", "SIGHUP");
        return;
    }
    service_reloading(daemon->service);
    daemon_reload_keys(daemon);
    /* Whoever may ask over HTTP. */
    char error[CONFIG_ERROR_MAX];
    int count = http_reload(daemon->http, error);
    if (count < 0) {
        log_event(LOG_ERROR, "tokens_refused", LOG_STR("detail", error));
    } else if (*daemon->config.http_token_file.text) {
        log_event(LOG_INFO, "tokens_read", LOG_NUM("lines", (uint64_t)count));
    }
    if (daemon->reload.argc) {
        bool taken = reload_read(&daemon->reload, daemon->plans);
        atomic_store(&daemon->stats.config_refused, !taken);
        if (taken) {
            atomic_store(&daemon->stats.config_read_ns, clock_wall_ns());
        }
        ticks_limit_costs(daemon);
        if (taken && ticks_announce_plans(daemon) != 0) {
            log_event(LOG_ERROR, "plans_not_announced", LOG_STR("reason", err_slug(ERR_MEMORY)));
        }
    }
    service_reloaded(daemon->service);
}

/* Start */

static int daemon_fail(char *reterr, const char *what, const char *why)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot %s: %s", what, why);
    return -1;
}

/* A quarter of a control group's is for the memory that is in no budget. */
static int daemon_fit_memory(struct daemon *daemon, char *reterr)
{
    (void)reterr;
    uint64_t group = cgroup_memory_limit("") / 4 * 3, asked = daemon->config.limits_memory;
    uint64_t most = asked < group ? asked : group;
    uint64_t budgets = config_fit_memory(&daemon->config, most);
    if (budgets > most) {
        log_event(LOG_INFO, "budgets_lowered", LOG_NUM("from", budgets), LOG_NUM("to", most),
                  LOG_STR("by", most == group ? "the control group" : "limits.memory"));
    }
    unfinished_limit(daemon->config.ingest_budget, &daemon->stats);
    return 0;
}

static int daemon_open_loop(struct daemon *daemon, char *reterr)
{
    int rc = uv_loop_init(&daemon->loop);
    if (rc != 0) {
        return daemon_fail(reterr, "create the event loop", uv_strerror(rc));
    }
    daemon->loop_ready = true;
    uv_idle_init(&daemon->loop, &daemon->turns);
    daemon->turns.data = daemon;
    daemon->ready_last = &daemon->ready;
    rc = inbox_init(&daemon->inbox, &daemon->loop, ticks_on_note, daemon);
    if (rc != 0) {
        return daemon_fail(reterr, "create the event loop", uv_strerror(rc));
    }
    uv_timer_init(&daemon->loop, &daemon->tick);
    uv_timer_init(&daemon->loop, &daemon->saver);
    uv_timer_init(&daemon->loop, &daemon->deadline);
    daemon->tick.data = daemon->saver.data = daemon->deadline.data = daemon;
    for (int i = 0; i < DAEMON_SIGNALS && rc == 0; i++) {
        rc = uv_signal_init(&daemon->loop, &daemon->signals[i]);
        daemon->signals[i].data = daemon;
    }
    return rc == 0 ? 0 : daemon_fail(reterr, "handle signals", uv_strerror(rc));
}

/* Before the first thread: it reads and changes the environment. */
static int open_service(struct daemon *daemon, char *reterr)
{
    int code = service_new(&daemon->loop, &daemon->stats, &daemon->service);
    return code ? daemon_fail(reterr, "start", err_text(code))
                : activation_check(daemon->config.insecure || *daemon->config.keys_server.text,
                                   reterr);
}

static int open_workers(struct daemon *daemon, char *reterr)
{
    const struct config *config = &daemon->config;
    if (machine_init(&daemon->machine, config) != 0) {
        char names[64] = "";
        for (int i = 0; i < ISA_COUNT; i++) {
            if (isa_available((enum isa)i)) {
                snprintf(names + strlen(names), sizeof names - strlen(names), ", %s", isa_name[i]);
            }
        }
        snprintf(reterr, CONFIG_ERROR_MAX,
                 "workers.isa: %s: this machine does not have it (it has: auto%s)",
                 config_isa_name(config->workers_isa), names);
        return -1;
    }
    spectrum_global_init();
    int rc = pool_new(daemon->machine.threads, (uint32_t)config->workers_queue, &daemon->pool);
    if (rc != 0) {
        return daemon_fail(reterr, "start the workers",
                           rc > ERR_BASE ? strerror(-rc) : err_text(rc));
    }
    return 0;
}

static int open_registry(struct daemon *daemon, char *reterr)
{
    daemon->maps.limit = daemon->config.maps_memory;
    daemon->sink = (struct result_sink){
        .put = messages_put_result,
        .pause = messages_pause,
        .merged = merging_end,
        .recall = messages_recall,
        .settle = messages_settle_promises,
        .learning = strcmp(daemon->config.drift_baseline.text, "first") == 0 ? NULL : pin_baseline,
        .stats = &daemon->stats,
        .maps = &daemon->maps,
        .wall_offset_ns = clock_wall_ns() - clock_monotonic_ns(),
        .data = daemon,
    };
    daemon->registry = registry_new(&daemon->config, &daemon->sink, forget_job, daemon);
    return daemon->registry ? 0 : daemon_fail(reterr, "start", err_text(ERR_MEMORY));
}

static uint64_t view_bytes(void *data)
{
    return ingest_in_flight(((struct daemon *)data)->ingest);
}

/* Messages received and neither processed nor dropped yet. */
static uint64_t view_messages(void *data)
{
    struct stats *stats = &((struct daemon *)data)->stats;
    uint64_t settled = stats_get(stats, COUNT_PROCESSED) + stats_dropped_total(stats);
    uint64_t received = stats_get(stats, COUNT_RECEIVED);
    return received > settled ? received - settled : 0;
}

static int open_control(struct daemon *daemon, char *reterr)
{
    daemon->view = (struct control_view){
        .loop = &daemon->loop,
        .config = &daemon->config,
        .stats = &daemon->stats,
        .keys = daemon->keys,
        .registry = daemon->registry,
        .publisher = daemon->publisher,
        .pool = daemon->pool,
        .plans = daemon->plans,
        .plan_config = &daemon->reload.plans,
        .plans_changed = ticks_announce_plans,
        .started_ns = daemon->started_ns,
        .bytes_in_flight = view_bytes,
        .messages_in_flight = view_messages,
        .data = daemon,
    };
    return control_new(daemon->zmq, &daemon->view, &daemon->control, reterr);
}

/* Before everything that a second attnd should not even look at. */
static int open_keeper(struct daemon *daemon, char *reterr)
{
    return keeper_new(&daemon->loop, &daemon->config, &daemon->keeper, reterr);
}

/* Before the first socket that asks for keys. */
static int open_keys(struct daemon *daemon, char *reterr)
{
    daemon->zmq = endpoint_context_new();
    if (!daemon->zmq) {
        return daemon_fail(reterr, "create the ZeroMQ context", zmq_strerror(zmq_errno()));
    }
    return keys_new(daemon->zmq, &daemon->config, &daemon->stats, &daemon->keys, reterr);
}

static int daemon_open_publisher(struct daemon *daemon, char *reterr)
{
    return publisher_new(&daemon->loop, daemon->zmq, daemon->keys, &daemon->config, &daemon->stats,
                         &daemon->publisher, reterr);
}

static int open_tap(struct daemon *daemon, char *reterr)
{
    return tap_new(&daemon->loop, daemon->zmq, daemon->keys, &daemon->config, &daemon->stats,
                   &daemon->tap, reterr);
}

/* Before ingest tells trainers where it is. */
static int open_lane(struct daemon *daemon, char *reterr)
{
    return lane_new(daemon->zmq, daemon->keys, &daemon->config, &daemon->stats, &daemon->lane,
                    reterr);
}

static int open_ingest(struct daemon *daemon, char *reterr)
{
    struct plan_prefixes *prefixes = NULL;
    daemon->plans = plans_new(&daemon->config);
    if (daemon->plans) {
        prefixes = plans_prefixes(daemon->plans);
    }
    if (!prefixes) {
        return daemon_fail(reterr, "start", err_text(ERR_MEMORY));
    }
    return ingest_new(daemon->zmq, daemon->keys, &daemon->config, &daemon->machine, &daemon->inbox,
                      &daemon->stats, &prefixes, &daemon->ingest, reterr);
}

/* Once the ports are ours: a second attnd on this machine should not even look at the history.
 * Brings back the runs that were going on when attnd ended. */
static int open_history(struct daemon *daemon, char *reterr)
{
    stall_point("history");
    if (store_new(&daemon->config, &daemon->stats, &daemon->store) != 0) {
        return daemon_fail(reterr, "start", err_text(ERR_MEMORY));
    }
    if (daemon->config.history_enabled) {
        daemon->sink.store = daemon->store;
        registry_restore(daemon->registry, clock_monotonic_ns());
    }
    return history_new(&daemon->loop, &daemon->config, daemon->store, &daemon->history, reterr);
}

/* The outbox of a node is in the history. */
static int open_fleet(struct daemon *daemon, char *reterr)
{
    int rc = fleet_new(&daemon->config, daemon->store, &daemon->inbox, &daemon->fleet, reterr);
    daemon->view.store = daemon->store;
    daemon->view.history = daemon->history;
    daemon->view.fleet = daemon->fleet;
    return rc;
}

/* Early: a second attnd on this machine fails before it looks at the history. */
static int open_http(struct daemon *daemon, char *reterr)
{
    if (!daemon->config.http_enabled) {
        return 0;
    }
    return http_new(&daemon->loop, &daemon->config, &daemon->stats, &daemon->http, reterr);
}

static int start_http(struct daemon *daemon, char *reterr)
{
    if (daemon->http) {
        return http_start(daemon->http, daemon->control, daemon->config.directory, reterr);
    }
    if (*daemon->config.directory) {
        page_url_remove(daemon->config.directory); /* of an attnd that was killed */
    }
    return 0;
}

static bool daemon_may_promise(void *data)
{
    return !store_is_full(((struct daemon *)data)->store);
}

/* Last: nothing may arrive before there is somebody to handle it. */
static int start_ingest(struct daemon *daemon, char *reterr)
{
    ingest_set_lane(daemon->ingest, &daemon->lane, daemon_may_promise, daemon);
    store_set_settle(daemon->store, ingest_settle, daemon->ingest);
    store_set_wait(daemon->store, ingest_say_wait, daemon->ingest);
    return ingest_start(daemon->ingest, reterr);
}

static int start_idle(struct daemon *daemon, char *reterr)
{
    uint64_t limit_ns = daemon->config.shutdown_idle;
    if (limit_ns) {
        daemon->idle = idle_new(&daemon->loop, &daemon->stats, limit_ns, daemon_on_idle, daemon);
    }
    return limit_ns && !daemon->idle ? daemon_fail(reterr, "start", err_text(ERR_MEMORY)) : 0;
}

static void daemon_keep_files(void *data)
{
    struct daemon *daemon = data;
    ingest_keep(daemon->ingest, daemon->config.ingest_endpoint.text,
                daemon->config.reliable_endpoint.text);
    publisher_keep(daemon->publisher);
    control_keep(daemon->control);
    tap_keep(daemon->tap);
    if (daemon->http) {
        http_keep_page(daemon->http);
    }
}

static int start_keeper(struct daemon *daemon, char *reterr)
{
    (void)reterr;
    keeper_start(daemon->keeper, daemon_keep_files, daemon);
    return 0;
}

static int open_notify(struct daemon *daemon, char *reterr)
{
    return notify_new(&daemon->config, &daemon->stats, &daemon->notify, reterr);
}

/* Every connection takes a descriptor; what the system lets us have beats its first offer. */
static void daemon_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    limit.rlim_cur =
        limit.rlim_max < UNFINISHED_DESCRIPTORS ? limit.rlim_max : UNFINISHED_DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &limit); /* without it there is room for fewer connections */
}

static int start_signals(struct daemon *daemon, char *reterr)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is a full disk, and no end */
    static const int numbers[DAEMON_SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    int rc = 0;
    for (int i = 0; i < DAEMON_SIGNALS && rc == 0; i++) {
        rc = uv_signal_start(&daemon->signals[i], numbers[i] == SIGHUP ? on_hangup : on_signal,
                             numbers[i]);
    }
    return rc == 0 ? 0 : daemon_fail(reterr, "handle signals", uv_strerror(rc));
}

/* Each returns 0, or -1 with a sentence; in this order. */
typedef int daemon_opener(struct daemon *daemon, char *reterr);
static daemon_opener *const openers[] = {
    daemon_fit_memory, daemon_open_loop,
    open_service,      open_keeper,
    open_workers,      open_registry,
    start_signals,     open_notify,
    open_keys,         daemon_open_publisher,
    open_tap,          open_lane,
    open_ingest,       open_http,
    open_control,      open_history,
    open_fleet,        start_http,
    start_keeper,      start_idle,
    start_ingest,      NULL,
};
static daemon_opener *const openers_apart[] = {
    daemon_open_loop, open_workers, open_registry, start_signals, open_ingest, NULL,
};

static int daemon_open(const struct config *config, int argc, char **argv,
                       daemon_opener *const *opener, struct daemon **ret_daemon, char *reterr)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    daemon_fail(reterr, "start", err_text(ERR_MEMORY)); /* unless somebody knows better */
    if (!daemon) {
        return -1;
    }
    daemon->config = *config;
    daemon->reload =
        (struct reload){.argc = argc, .argv = argv, .given = *config, .plans = *config};
    daemon->started_ns = clock_monotonic_ns();
    atomic_store(&daemon->stats.config_read_ns, clock_wall_ns());
    daemon_raise_descriptor_limit();
    accept_count(&daemon->stats);
    for (; *opener; opener++) {
        if ((*opener)(daemon, reterr) != 0) {
            daemon_free(&daemon);
            return -1;
        }
    }
    *ret_daemon = daemon;
    return 0;
}

int daemon_new(const struct config *config, int argc, char **argv, struct daemon **ret_daemon,
               char *reterr)
{
    return daemon_open(config, argc, argv, openers, ret_daemon, reterr);
}

int daemon_new_apart(const struct config *config, struct daemon **ret_daemon, char *reterr)
{
    return daemon_open(config, 0, NULL, openers_apart, ret_daemon, reterr);
}

/* Run and stop */

/* Sockets are bound, the history is open, runs are back, and every thread goes. */
static void begin_service(struct daemon *daemon)
{
    const struct pulse *ingest = ingest_pulse(daemon->ingest), *store = store_pulse(daemon->store);
    service_watch(daemon->service,
                  &(struct pulse_subject){"ingest", ingest, ingest_ask, daemon->ingest});
    if (store) {
        service_watch(daemon->service,
                      &(struct pulse_subject){"store", store, store_ask, daemon->store});
    }
    service_ready(daemon->service);
}

void daemon_run(struct daemon *daemon)
{
    const struct config *config = &daemon->config;
    char page[PAGE_URL_MAX] = "";
    if (config->http_enabled) {
        page_url(config->http_endpoint.text, page);
    }
    log_event(LOG_INFO, "started", LOG_STR("version", ATTND_VERSION),
              LOG_STR("ingest", config->ingest_endpoint.text),
              LOG_STR("publish", config->publish_endpoint.text),
              LOG_STR("control", config->control_endpoint.text),
              LOG_STR("tap", config->tap_endpoint.text),
              LOG_STR("reliable", config->reliable_endpoint.text),
              LOG_STR("http", config->http_enabled ? config->http_endpoint.text : "off"),
              LOG_NUM("workers", pool_stats(daemon->pool).threads),
              LOG_STR("isa", isa_name[daemon->machine.isa]), LOG_NUM("pid", (uint64_t)getpid()),
              LOG_STR("page", page[0] ? page : "none"));
    if (daemon->config.insecure) {
        log_event(LOG_WARNING, "insecure",
                  LOG_STR("detail", "everybody who reaches its TCP sockets may send, read and "
                                    "change plans, and delete runs: there is no access control"));
    }
    ticks_start(daemon); /* for runs that came back */
    begin_service(daemon);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    /* Shows and saves what is open and lets go of the loop, whose run then ends. */
    uint64_t patience_ns = daemon->config.shutdown_timeout;
    patience_ns = patience_ns < SAVE_STOP_NS ? SAVE_STOP_NS : patience_ns;
    uint64_t now_ns = clock_monotonic_ns();
    daemon->finished = true;
    service_extend(daemon->service, patience_ns);
    messages_finish(daemon, now_ns + patience_ns / 2);
    rounds_save_all(daemon, now_ns + patience_ns);
    daemon_close_handles(daemon);
    /* The inbox is closed when the last thread that posts is joined. */
    uv_unref((uv_handle_t *)&daemon->inbox.wake);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    struct stats *stats = &daemon->stats;
    log_event(LOG_INFO, "stopped", LOG_NUM("received", stats_get(stats, COUNT_RECEIVED)),
              LOG_NUM("processed", stats_get(stats, COUNT_PROCESSED)),
              LOG_NUM("dropped", stats_dropped_total(stats)), LOG_NUM("lost", stats_lost(stats)),
              LOG_NUM("summaries", stats_get(stats, COUNT_SUMMARIES)));
    if (daemon->drained) {
        return;
    }
    /* Workers are still busy with what nobody waits for any more: leave without them. */
    ingest_join(daemon->ingest);
    service_extend(daemon->service, 0);
    notify_free(&daemon->notify, 0);
    fleet_free(&daemon->fleet, 0);
    store_free(&daemon->store);
    ingest_log_unanswered(daemon->ingest);
    keys_free(&daemon->keys);
    zmq_ctx_term(daemon->zmq);
    _exit(EXIT_SUCCESS);
}

void daemon_free(struct daemon **daemon_p)
{
    struct daemon *daemon = *daemon_p;
    if (!daemon) {
        return;
    }
    daemon->finished = true;
    if (daemon->ingest) {
        ingest_stop(daemon->ingest);
        ingest_join(daemon->ingest);
    }
    pool_free(&daemon->pool);
    fleet_free(&daemon->fleet, FLEET_STOP_NS); /* it posts no more */
    if (daemon->loop_ready) {
        daemon_close_handles(daemon);
        if (daemon->inbox.wake.type != UV_UNKNOWN_HANDLE) {
            inbox_close(&daemon->inbox);
        }
        uv_run(&daemon->loop, UV_RUN_DEFAULT);
        uv_loop_close(&daemon->loop);
    }
    plans_free(&daemon->plans);
    reload_clear(&daemon->reload);
    registry_free(&daemon->registry);
    service_extend(daemon->service, 0);
    notify_free(&daemon->notify, NOTIFY_STOP_MS);
    store_free(&daemon->store);
    ingest_free(&daemon->ingest);
    lane_free(&daemon->lane);
    keys_free(&daemon->keys);
    if (daemon->zmq) {
        zmq_ctx_term(daemon->zmq);
    }
    keeper_free(&daemon->keeper);
    service_free(&daemon->service);
    accept_count(NULL);
    free(daemon);
    *daemon_p = NULL;
}
