/* SPDX-License-Identifier: MIT */
/* A message's life on the loop thread: NOTE_ARRIVED (registry says compute) -> work_new -> pool;
 * when the pool's queue is full it waits in `waiting`, bounded by the byte budget, and goes on when
 * jobs finish. NOTE_DONE -> work_finish -> registry -> message freed, its bytes released to ingest.
 *
 * Stopping: SIGTERM -> ingest drains its socket and posts NOTE_STOPPED; when that is here and
 * nothing is in flight, or shutdown.timeout has passed, open windows are shown as partial, the
 * handles are closed and uv_run returns. Sockets may linger a second for slow subscribers. */
#include "daemon/daemon.h"

#include "daemon/base/activation.h"
#include "daemon/control/baseline.h"
#include "daemon/base/clock.h"
#include "daemon/control/control.h"
#include "daemon/base/endpoint.h"
#include "daemon/history/history.h"
#include "daemon/http/http.h"
#include "daemon/ingest/ingest.h"
#include "daemon/keeper.h"
#include "daemon/base/log.h"
#include "daemon/state/maps.h"
#include "daemon/alerts/notify.h"
#include "daemon/http/page_url.h"
#include "daemon/publish/publisher.h"
#include "daemon/run/registry.h"
#include "daemon/reload.h"
#include "daemon/service.h"
#include "daemon/store/store.h"
#include "daemon/ingest/tap.h"
#include "daemon/ingest/work.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zmq.h>

#define TICK_MS 1000
/* How long a stop waits for commands and webhooks. */
#define NOTIFY_STOP_MS 2000
#define SAVE_STOP_NS   UINT64_C(1000000000)
/* Checkpoints are packed in so many slices per history.checkpoint, and take this share of the
 * loop's time at most: 20 ms every 200 ms by default. */
#define SAVER_SLICES 10
#define SAVER_SHARE  10
/* A batch of a checkpoint is about this share of history.queue, of which checkpoints may use half.
 */
#define SAVER_BATCHES 32

struct daemon {
    struct config config;
    struct machine machine;
    uv_loop_t loop;
    uv_signal_t sigterm, sigint, sighup;
    uv_async_t stop;     /* daemon_stop, from any thread */
    uv_timer_t tick;     /* runs while a job is active */
    uv_timer_t saver;    /* runs while there may be something to save */
    uv_timer_t deadline; /* runs while stopping */
    void *zmq;
    struct stats stats;
    struct inbox inbox;
    struct pool *pool;
    struct plans *plans;
    struct reload reload;
    struct ingest *ingest;
    struct publisher *publisher;
    struct control *control;
    struct keeper *keeper;
    struct http *http; /* NULL: switched off */
    struct history *history;
    uint64_t unpinned;     /* layers that drift.baseline had nothing for */
    struct notify *notify; /* NULL: nobody to tell */
    struct tap *tap;
    struct registry *registry;
    struct store *store;
    struct service *service; /* NULL: no service manager */
    struct result_sink sink;
    struct map_shelf maps;
    struct {
        uint64_t began_ns; /* the last round of checkpoints */
        bool goes_on;
        bool last; /* nobody was training any more when it began */
    } round;
    struct message *waiting, **waiting_last; /* for room in the pool's queue */
    uint64_t arrival_ns; /* when the newest note of ingest that was read had been received */
    uint32_t in_flight;  /* messages with work, waiting or in the pool */
    uint64_t started_ns;
    bool loop_ready, handles_ready;
    bool stopping, ingest_stopped, finished, drained;
};

/* Results */

static void put_result(void *data, const struct run *run, const char *topic, uint32_t track,
                       struct mpk_writer *writer, enum result_kind kind)
{
    struct daemon *daemon = data;
    stats_add(&daemon->stats, COUNT_SUMMARIES, kind == RESULT_SUMMARY);
    if (mpk_writer_ok(writer)) {
        http_put(daemon->http, topic, writer->buffer.data, writer->buffer.size);
    }
    if (kind == RESULT_ALERT) {
        publisher_send(daemon->publisher, topic, writer);
        notify_put(daemon->notify, writer->buffer.data, writer->buffer.size);
    } else {
        publisher_put(daemon->publisher, run->id, topic, track, writer, kind == RESULT_SUMMARY);
    }
}

static void forget_job(void *data, const char *job)
{
    struct daemon *daemon = data;
    publisher_forget_job(daemon->publisher, job);
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

/* Messages */

/* Windows see time as messages see it: while some are waiting in the inbox it is not later than
 * these. */
static uint64_t daemon_now_ns(struct daemon *daemon)
{
    return inbox_depth(&daemon->inbox) > 0 ? daemon->arrival_ns : clock_monotonic_ns();
}

static void daemon_release(struct daemon *daemon, struct message *message)
{
    uint64_t cost = message->cost;
    bool reserved = message->reserved;
    work_free(&message->work);
    message_free(&message);
    ingest_release(daemon->ingest, cost, reserved);
}

static void daemon_drop(struct daemon *daemon, struct message *message, int code)
{
    uint64_t before = stats_drop(&daemon->stats, code);
    if (log_is_round(before)) {
        log_event(LOG_WARNING, "message_dropped", LOG_STR("reason", err_slug(code)),
                  LOG_STR("detail", err_text(code)), LOG_STR("job", message->header.job),
                  LOG_NUM("rank", message->header.rank), LOG_NUM("epoch", message->header.epoch),
                  LOG_NUM("step", message->header.step), LOG_NUM("count", before + 1));
    }
    daemon_release(daemon, message);
}

static void wait_for_room(struct daemon *daemon, struct message *message)
{
    message->next = NULL;
    *daemon->waiting_last = message;
    daemon->waiting_last = &message->next;
}

static void submit_waiting(struct daemon *daemon)
{
    while (daemon->waiting && work_submit(daemon->waiting->work) == 0) {
        daemon->waiting = daemon->waiting->next;
    }
    if (!daemon->waiting) {
        daemon->waiting_last = &daemon->waiting;
    }
}

/* One that has to wait for its turn keeps its numbers only. */
static void lighten(struct daemon *daemon, struct message *message)
{
    uint64_t bytes = message_free_tensors(message);
    message->cost -= bytes;
    ingest_release(daemon->ingest, bytes, message->reserved);
}

static void account_for(struct daemon *daemon, struct message *message)
{
    bool is_event = message->header.type == MESSAGE_EVENT;
    stats_add(&daemon->stats, COUNT_LOST, message->losses.lost);
    stats_add(&daemon->stats, COUNT_FOUND, message->losses.found);
    stats_add(&daemon->stats, COUNT_SOURCE_DROPPED, message->losses.source - message->losses.known);
    if (message->code) {
        daemon_drop(daemon, message, message->code);
        return;
    }
    if (!is_event) {
        latency_add_between(&daemon->stats.latency[LATENCY_PROCESSING], message->received_ns,
                            clock_monotonic_ns());
    }
    stats_add(&daemon->stats, COUNT_PROCESSED, 1);
    stats_add(&daemon->stats, COUNT_EVENTS, is_event);
    daemon_release(daemon, message);
}

/* Takes what has its turn now that this message is finished. */
static void daemon_settle(struct daemon *daemon, struct message *message)
{
    struct run *run = message->run;
    if (message->detached) {
        run_join(run, message, daemon_now_ns(daemon));
        account_for(daemon, message);
    } else if (message != run->queue) {
        lighten(daemon, message);
    }
    while ((message = run_take(run))) {
        account_for(daemon, message);
    }
}

static void daemon_compute(struct daemon *daemon, struct message *message)
{
    struct run *run = message->run;
    message->code = work_new(message, &run->job_config, &daemon->machine,
                             run_spectrum_turn(run, message), daemon->pool, &daemon->inbox);
    if (message->code) {
        run_finish(run, message);
        daemon_settle(daemon, message);
        return;
    }
    daemon->in_flight++;
    wait_for_room(daemon, message);
    submit_waiting(daemon);
}

static void daemon_start_tick(struct daemon *daemon);

static void on_arrived(struct daemon *daemon, struct message *message)
{
    bool worth_it;
    if (!message->code) { /* else its tensors are gone */
        tap_message(daemon->tap, message);
    }
    stats_received(&daemon->stats, message->bytes);
    daemon_start_tick(daemon);
    daemon->arrival_ns = message->received_ns;
    int code = registry_arrive(daemon->registry, message, message->received_ns, &worth_it);
    if (code) {
        daemon_drop(daemon, message, code);
    } else if (worth_it) {
        daemon_compute(daemon, message);
    } else {
        daemon_settle(daemon, message);
    }
}

static void time_work(struct stats *stats, const struct message *message)
{
    latency_add_between(&stats->latency[LATENCY_WAITING], message->received_ns, message->begun_ns);
    latency_add_between(&stats->latency[LATENCY_COMPUTING], message->begun_ns,
                        message->computed_ns);
}

static void daemon_on_done(struct daemon *daemon, struct message *message)
{
    daemon->in_flight--;
    time_work(&daemon->stats, message);
    int code = work_finish(message->work, &message->measured);
    message->code = message->code ? message->code : code; /* it may have been refused meanwhile */
    run_finish(message->run, message);
    if (!code) {
        stats_add(&daemon->stats, COUNT_SPECTRA, message->measured->spectra);
        stats_add(&daemon->stats, COUNT_SPECTRA_SKIPPED, message->measured->spectra_skipped);
    }
    daemon_settle(daemon, message);
    submit_waiting(daemon);
}

static void on_refused(struct daemon *daemon, struct refusal *refusal)
{
    daemon->arrival_ns = refusal->received_ns;
    registry_refused(daemon->registry, refusal->job, refusal->code);
    free(refusal);
    ingest_release(daemon->ingest, sizeof *refusal, true);
}

/* After the end: nobody is there to publish for. */
static void discard(struct note *note)
{
    struct message *message = (struct message *)note;
    if (note->kind == NOTE_REFUSED) {
        free(note);
    } else if (note->kind != NOTE_STOPPED) {
        work_free(&message->work);
        message_free(&message);
    }
}

static void finish_if_drained(struct daemon *daemon);

static void daemon_on_note(void *data, struct note *note)
{
    struct daemon *daemon = data;
    if (daemon->finished) {
        discard(note);
        return;
    }
    switch (note->kind) {
    case NOTE_ARRIVED:
        on_arrived(daemon, (struct message *)note);
        break;
    case NOTE_DONE:
        daemon_on_done(daemon, (struct message *)note);
        break;
    case NOTE_REFUSED:
        on_refused(daemon, (struct refusal *)note);
        break;
    case NOTE_STOPPED:
        daemon->ingest_stopped = true;
        break;
    }
    control_settle(daemon->control);
    finish_if_drained(daemon);
}

/* Time and signals */

static void daemon_on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    if (!registry_tick(daemon->registry, daemon_now_ns(daemon))) {
        uv_timer_stop(timer); /* nobody is training: no wake-ups */
    }
    control_settle(daemon->control);
}

static bool ticks(const struct daemon *daemon)
{
    return uv_is_active((const uv_handle_t *)&daemon->tick);
}

/* A part of a round, until the deadline, and as long as the disk keeps up: else a later slice goes
 * on. No message comes between the steps and their submit. */
static void go_on_with_round(struct daemon *daemon, uint64_t deadline)
{
    uint64_t batch_bytes = daemon->config.history_queue / SAVER_BATCHES;
    while (daemon->round.goes_on && clock_monotonic_ns() < deadline &&
           store_has_room(daemon->store, batch_bytes)) {
        do {
            daemon->round.goes_on = registry_step(daemon->registry);
        } while (daemon->round.goes_on && clock_monotonic_ns() < deadline &&
                 registry_collected(daemon->registry) < batch_bytes);
        registry_submit(daemon->registry, daemon_now_ns(daemon));
    }
}

static bool history_is_on(const struct daemon *daemon)
{
    const char *reason;
    return daemon->sink.store && store_path(daemon->store, &reason);
}

/* A round begins when history.checkpoint has passed since the last one began and that one is
 * through. */
static void on_save(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    uint64_t now = clock_monotonic_ns();
    bool due = now - daemon->round.began_ns >= daemon->config.history_checkpoint;
    if (!daemon->round.goes_on && due) {
        daemon->round.began_ns = now;
        daemon->round.goes_on = true;
        daemon->round.last = !ticks(daemon);
        registry_begin_round(daemon->registry);
    }
    if (!history_is_on(daemon)) {
        daemon->round.goes_on = false;
    }
    go_on_with_round(daemon, now + daemon->config.history_checkpoint / SAVER_SHARE / SAVER_SLICES);
    if (!daemon->round.goes_on && daemon->round.last && !ticks(daemon)) {
        uv_timer_stop(timer);
    }
}

static void start_saver(struct daemon *daemon)
{
    uint64_t period_ms = daemon->config.history_checkpoint / SAVER_SLICES / 1000000;
    if (!history_is_on(daemon) || uv_is_active((const uv_handle_t *)&daemon->saver)) {
        return;
    }
    daemon->round.last = false;
    uv_timer_start(&daemon->saver, on_save, period_ms, period_ms);
}

static void daemon_start_tick(struct daemon *daemon)
{
    if (daemon->finished || ticks(daemon)) {
        return;
    }
    uv_timer_start(&daemon->tick, daemon_on_tick, TICK_MS, TICK_MS);
    start_saver(daemon);
}

static void close_handle(void *handle)
{
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

/* What is computed counts, also behind messages that are not. */
static void take_finished(void *data, struct run *run)
{
    struct message *message;
    run_skip_unfinished(run);
    while ((message = run_take(run))) {
        account_for(data, message);
    }
}

static uint64_t stop_patience(const struct daemon *daemon)
{
    uint64_t patience = daemon->config.shutdown_timeout;
    return patience < SAVE_STOP_NS ? SAVE_STOP_NS : patience;
}

/* Everything, waiting for the disk, but no longer than a stop may take (a second at least). The
 * first round may be one that was going on, and does not come back to what it has had. */
static void save_all(struct daemon *daemon)
{
    uint64_t deadline = clock_monotonic_ns() + stop_patience(daemon);
    for (int round = 0; round < 2 && history_is_on(daemon); round++) {
        registry_begin_round(daemon->registry);
        daemon->round.goes_on = true;
        while (daemon->round.goes_on && clock_monotonic_ns() < deadline) {
            go_on_with_round(daemon, deadline);
            if (daemon->round.goes_on) {
                uv_sleep(1);
            }
        }
    }
}

/* Shows and saves what is open and lets go of the loop, whose run then ends. */
static void daemon_finish(struct daemon *daemon)
{
    daemon->finished = true;
    registry_each(daemon->registry, take_finished, daemon);
    registry_show(daemon->registry);
    service_extend(daemon->service, stop_patience(daemon));
    save_all(daemon);
    publisher_close(&daemon->publisher);
    history_close(&daemon->history);
    control_close(&daemon->control);
    http_close(&daemon->http);
    tap_close(&daemon->tap);
    keeper_close(daemon->keeper);
    close_handle(&daemon->sigterm);
    close_handle(&daemon->sigint);
    close_handle(&daemon->sighup);
    close_handle(&daemon->stop);
    close_handle(&daemon->tick);
    close_handle(&daemon->saver);
    close_handle(&daemon->deadline);
    service_close(daemon->service);
    uv_unref(
        (uv_handle_t *)&daemon->inbox.wake); /* closed when the last thread that posts is joined */
}

static void finish_if_drained(struct daemon *daemon)
{
    if (!daemon->ingest_stopped || daemon->in_flight > 0 || daemon->finished) {
        return;
    }
    daemon->drained = true;
    daemon_finish(daemon);
}

static void on_deadline(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    log_event(LOG_WARNING, "stop_timed_out", LOG_NUM("in_flight", daemon->in_flight));
    daemon_finish(daemon);
}

static void begin_stop(struct daemon *daemon, const char *why)
{
    daemon->stopping = true;
    log_event(LOG_INFO, "stopping", LOG_STR("signal", why));
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
    begin_stop(daemon, number == SIGINT ? "SIGINT" : "SIGTERM");
}

/* The trainers hear of it from the ingest thread. */
static int announce_plans(void *data)
{
    struct daemon *daemon = data;
    struct plan_prefixes *prefixes = plans_prefixes(daemon->plans);
    if (!prefixes) {
        return ERR_MEMORY;
    }
    ingest_subscribe(daemon->ingest, &prefixes);
    return 0;
}

static void read_config_again(struct daemon *daemon)
{
    service_reloading(daemon->service);
    bool taken = reload_read(&daemon->reload, daemon->plans);
    atomic_store(&daemon->stats.config_refused, !taken);
    if (taken) {
        atomic_store(&daemon->stats.config_read_ns, clock_wall_ns());
    }
    if (taken && announce_plans(daemon) != 0) {
        log_event(LOG_ERROR, "plans_not_announced", LOG_STR("reason", err_slug(ERR_MEMORY)));
    }
    service_reloaded(daemon->service);
}

/* A terminal that is closed hangs up, too: without a file it ends attnd. */
static void on_hangup(uv_signal_t *signal, int number)
{
    struct daemon *daemon = signal->data;
    (void)number;
    if (daemon->stopping) {
        return;
    }
    if (!reload_possible(&daemon->reload)) {
        begin_stop(daemon, "SIGHUP");
    } else {
        read_config_again(daemon);
    }
}

static void daemon_on_stop(uv_async_t *stop)
{
    struct daemon *daemon = stop->data;
    if (!daemon->stopping) {
        begin_stop(daemon, "none");
    }
}

void daemon_stop(struct daemon *daemon)
{
    uv_async_send(&daemon->stop);
}

/* Start */

static int daemon_fail(char *reterr, const char *what, const char *why)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "cannot %s: %s", what, why);
    return -1;
}

static int daemon_open_loop(struct daemon *daemon, char *reterr)
{
    int rc = uv_loop_init(&daemon->loop);
    if (rc != 0) {
        return daemon_fail(reterr, "create the event loop", uv_strerror(rc));
    }
    daemon->loop_ready = true;
    rc = inbox_init(&daemon->inbox, &daemon->loop, daemon_on_note, daemon);
    if (rc != 0) {
        return daemon_fail(reterr, "create the event loop", uv_strerror(rc));
    }
    uv_timer_init(&daemon->loop, &daemon->tick);
    uv_timer_init(&daemon->loop, &daemon->saver);
    uv_timer_init(&daemon->loop, &daemon->deadline);
    uv_signal_init(&daemon->loop, &daemon->sigterm);
    uv_signal_init(&daemon->loop, &daemon->sigint);
    uv_signal_init(&daemon->loop, &daemon->sighup);
    uv_async_init(&daemon->loop, &daemon->stop,
                  daemon_on_stop); /* what it opens the inbox has opened */
    daemon->stop.data = daemon;
    daemon->tick.data = daemon->saver.data = daemon->deadline.data = daemon;
    daemon->sigterm.data = daemon->sigint.data = daemon->sighup.data = daemon;
    daemon->handles_ready = true;
    return 0;
}

/* Before the first thread: it reads and changes the environment. */
static int open_service(struct daemon *daemon, char *reterr)
{
    int code = service_new(&daemon->loop, &daemon->stats, &daemon->service);
    return code ? daemon_fail(reterr, "start", err_text(code))
                : activation_check(daemon->config.insecure, reterr);
}

/* The kernels that the config asks for must run here. */
static int inspect_machine(struct daemon *daemon, char *reterr)
{
    const struct config *config = &daemon->config;
    char names[64] = "";
    if (machine_init(&daemon->machine, config) == 0) {
        return 0;
    }
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

static int open_workers(struct daemon *daemon, char *reterr)
{
    if (inspect_machine(daemon, reterr) != 0) {
        return -1;
    }
    spectrum_global_init();
    int rc =
        pool_new(daemon->machine.threads, (uint32_t)daemon->config.workers_queue, &daemon->pool);
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
        .put = put_result,
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

static struct control_view make_view(struct daemon *daemon)
{
    return (struct control_view){
        .config = &daemon->config,
        .stats = &daemon->stats,
        .registry = daemon->registry,
        .publisher = daemon->publisher,
        .pool = daemon->pool,
        .store = daemon->store,
        .history = daemon->history,
        .plans = daemon->plans,
        .plan_config = &daemon->reload.plans,
        .plans_changed = announce_plans,
        .started_ns = daemon->started_ns,
        .bytes_in_flight = view_bytes,
        .messages_in_flight = view_messages,
        .data = daemon,
    };
}

/* Before everything that a second attnd should not even look at. */
static int open_keeper(struct daemon *daemon, char *reterr)
{
    return keeper_new(&daemon->loop, &daemon->config, &daemon->keeper, reterr);
}

static int daemon_open_publisher(struct daemon *daemon, char *reterr)
{
    daemon->zmq = endpoint_context_new();
    if (!daemon->zmq) {
        return daemon_fail(reterr, "create the ZeroMQ context", zmq_strerror(zmq_errno()));
    }
    return publisher_new(&daemon->loop, daemon->zmq, &daemon->config, &daemon->stats,
                         &daemon->publisher, reterr);
}

static int open_tap(struct daemon *daemon, char *reterr)
{
    return tap_new(&daemon->loop, daemon->zmq, &daemon->config, &daemon->stats, &daemon->tap,
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
    return ingest_new(daemon->zmq, &daemon->config, &daemon->machine, &daemon->inbox,
                      &daemon->stats, &prefixes, &daemon->ingest, reterr);
}

/* Once the ports are ours: a second attnd on this machine should not even look at the history.
 * Brings back the runs that were going on when attnd ended. */
static int open_history(struct daemon *daemon, char *reterr)
{
    const char *reason;
    if (store_new(&daemon->config, &daemon->stats, &daemon->store) != 0) {
        return daemon_fail(reterr, "start", err_text(ERR_MEMORY));
    }
    if (daemon->config.history_enabled) {
        daemon->sink.store = daemon->store;
        registry_restore(daemon->registry, clock_monotonic_ns());
    }
    return history_new(&daemon->loop, &daemon->config, store_path(daemon->store, &reason),
                       &daemon->history, reterr);
}

static int open_control(struct daemon *daemon, char *reterr)
{
    struct control_view view = make_view(daemon);
    return control_new(&daemon->loop, daemon->zmq, &view, &daemon->control, reterr);
}

/* The port is taken early, so that a second attnd on this machine fails before it looks at the
 * history. */
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

/* Last: nothing may arrive before there is somebody to handle it. */
static int start_ingest(struct daemon *daemon, char *reterr)
{
    return ingest_start(daemon->ingest, reterr);
}

static void keep_ingest(void *data)
{
    struct daemon *daemon = data;
    ingest_keep(daemon->ingest, daemon->config.ingest_endpoint.text);
}

static int start_keeper(struct daemon *daemon, char *reterr)
{
    (void)reterr;
    keeper_add(daemon->keeper, keep_ingest, daemon);
    keeper_add(daemon->keeper, publisher_keep, daemon->publisher);
    keeper_add(daemon->keeper, control_keep, daemon->control);
    keeper_add(daemon->keeper, tap_keep, daemon->tap);
    if (daemon->http) {
        keeper_add(daemon->keeper, http_keep_page, daemon->http);
    }
    keeper_start(daemon->keeper);
    return 0;
}

static int open_notify(struct daemon *daemon, char *reterr)
{
    return notify_new(&daemon->config, &daemon->stats, &daemon->notify, reterr);
}

/* Every connection takes a descriptor; what the system lets us have is better than its first offer.
 */
static void daemon_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit); /* without it there is room for fewer connections */
}

static int start_signals(struct daemon *daemon, char *reterr)
{
    signal(SIGPIPE, SIG_IGN);
    int rc = uv_signal_start(&daemon->sigterm, on_signal, SIGTERM);
    if (rc == 0) {
        rc = uv_signal_start(&daemon->sigint, on_signal, SIGINT);
    }
    if (rc == 0) {
        rc = uv_signal_start(&daemon->sighup, on_hangup, SIGHUP);
    }
    return rc == 0 ? 0 : daemon_fail(reterr, "handle signals", uv_strerror(rc));
}

/* Each returns 0, or -1 with a sentence; in this order. */
static int (*const openers[])(struct daemon *daemon, char *reterr) = {
    daemon_open_loop, open_service,  open_keeper,  open_workers,
    open_registry,    start_signals, open_notify,  daemon_open_publisher,
    open_tap,         open_ingest,   open_http,    open_history,
    open_control,     start_http,    start_keeper, start_ingest,
};

int daemon_new(const struct config *config, const struct config_reader *reader,
               struct daemon **ret_daemon, char *reterr)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    daemon_fail(reterr, "start", err_text(ERR_MEMORY)); /* unless somebody knows better */
    if (!daemon) {
        return -1;
    }
    daemon->config = *config;
    daemon->reload = (struct reload){.reader = reader, .given = *config, .plans = *config};
    daemon->waiting_last = &daemon->waiting;
    daemon->started_ns = daemon->arrival_ns = clock_monotonic_ns();
    atomic_store(&daemon->stats.config_read_ns, clock_wall_ns());
    daemon_raise_descriptor_limit();
    for (size_t i = 0; i < sizeof openers / sizeof openers[0]; i++) {
        if (openers[i](daemon, reterr) != 0) {
            daemon_free(&daemon);
            return -1;
        }
    }
    *ret_daemon = daemon;
    return 0;
}

/* Run and stop */

static void log_started(struct daemon *daemon)
{
    const struct config *config = &daemon->config;
    log_event(LOG_INFO, "started", LOG_STR("version", ATTND_VERSION),
              LOG_STR("ingest", config->ingest_endpoint.text),
              LOG_STR("publish", config->publish_endpoint.text),
              LOG_STR("control", config->control_endpoint.text),
              LOG_STR("tap", config->tap_endpoint.text),
              LOG_STR("http", config->http_enabled ? config->http_endpoint.text : "off"),
              LOG_NUM("workers", pool_stats(daemon->pool).threads),
              LOG_STR("isa", isa_name[daemon->machine.isa]), LOG_NUM("pid", (uint64_t)getpid()));
}

static void log_stopped(struct daemon *daemon)
{
    struct stats *stats = &daemon->stats;
    log_event(LOG_INFO, "stopped", LOG_NUM("received", stats_get(stats, COUNT_RECEIVED)),
              LOG_NUM("processed", stats_get(stats, COUNT_PROCESSED)),
              LOG_NUM("dropped", stats_dropped_total(stats)), LOG_NUM("lost", stats_lost(stats)),
              LOG_NUM("summaries", stats_get(stats, COUNT_SUMMARIES)));
}

/* Sockets are bound, the history is open, runs are back, and every thread goes. */
static void begin_service(struct daemon *daemon)
{
    const struct pulse *store = store_pulse(daemon->store);
    struct pulse_subject ingest = {"ingest", ingest_pulse(daemon->ingest), ingest_ask,
                                   daemon->ingest};
    service_watch(daemon->service, &ingest);
    if (store) {
        service_watch(daemon->service,
                      &(struct pulse_subject){"store", store, store_ask, daemon->store});
    }
    service_ready(daemon->service);
}

void daemon_run(struct daemon *daemon)
{
    log_started(daemon);
    if (daemon->config.insecure) {
        log_event(LOG_WARNING, "insecure",
                  LOG_STR("detail", "whoever reaches its TCP sockets may send, read and change "
                                    "plans; nobody is asked who they are"));
    }
    daemon_start_tick(daemon); /* for runs that came back */
    begin_service(daemon);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    log_stopped(daemon);
    if (daemon->drained) {
        return;
    }
    /* Workers are still busy with what nobody waits for any more: leave without them. */
    ingest_join(daemon->ingest);
    service_extend(daemon->service, 0);
    notify_free(&daemon->notify, 0);
    store_free(&daemon->store);
    zmq_ctx_term(daemon->zmq);
    _exit(EXIT_SUCCESS);
}

static void daemon_close_loop(struct daemon *daemon)
{
    publisher_close(&daemon->publisher);
    history_close(&daemon->history);
    control_close(&daemon->control);
    http_close(&daemon->http);
    tap_close(&daemon->tap);
    keeper_close(daemon->keeper);
    if (daemon->handles_ready) {
        close_handle(&daemon->sigterm);
        close_handle(&daemon->sigint);
        close_handle(&daemon->sighup);
        close_handle(&daemon->stop);
        close_handle(&daemon->tick);
        close_handle(&daemon->saver);
        close_handle(&daemon->deadline);
        inbox_close(&daemon->inbox);
    }
    service_close(daemon->service);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    uv_loop_close(&daemon->loop);
}

static void stop_threads(struct daemon *daemon)
{
    if (daemon->ingest) {
        ingest_stop(daemon->ingest);
        ingest_join(daemon->ingest);
    }
    pool_free(&daemon->pool);
}

void daemon_free(struct daemon **daemon_p)
{
    struct daemon *daemon = *daemon_p;
    if (!daemon) {
        return;
    }
    daemon->finished = true;
    stop_threads(daemon);
    if (daemon->loop_ready) {
        daemon_close_loop(daemon);
    }
    ingest_free(&daemon->ingest);
    plans_free(&daemon->plans);
    reload_clear(&daemon->reload);
    registry_free(&daemon->registry);
    service_extend(daemon->service, 0);
    notify_free(&daemon->notify, NOTIFY_STOP_MS);
    store_free(&daemon->store);
    if (daemon->zmq) {
        zmq_ctx_term(daemon->zmq);
    }
    keeper_free(&daemon->keeper);
    service_free(&daemon->service);
    free(daemon);
    *daemon_p = NULL;
}
