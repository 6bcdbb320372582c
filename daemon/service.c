/* SPDX-License-Identifier: MIT */
/* The watchdog: threads are asked for a turn, and at the next tick, a quarter of the watchdog's
 * time later, WATCHDOG=1 is sent if all of them turned, and they are asked again. Else nothing is
 * sent and nobody is asked: a thread that is late has the rest of the time. The loop's own turn
 * goes the way of everything that other threads hand it, by uv_async. */
#include "daemon/service.h"

#include "daemon/base/clock.h"
#include "daemon/base/crash.h"
#include "proto/err.h"
#include "daemon/base/log.h"
#include "daemon/service_notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATUS_MS      10000
#define WATCHDOG_SHARE 4
#define STOP_MS        1000
#define US_PER_MS      1000
/* Time beyond a stop's own deadline: sockets linger, events are handed over, the history is
 * closed. */
#define STOP_SLACK_NS UINT64_C(30000000000)

struct service {
    struct service_notify notify;
    struct stats *stats;
    uv_timer_t tick;
    uv_async_t asked; /* for a turn of the loop */
    struct pulse loop_pulse;
    struct pulse_round round;
    uint64_t watchdog_ms; /* 0: nobody waits for it */
    uint64_t stop_ns;     /* when a stop has to be over; 0: there is none */
    const char *missing;  /* the thread that was late at the last tick */
    struct {
        uint64_t time_ns, received, bytes; /* when the last status was made */
        char text[160];
    } status;
};

/* Status */

static double service_rate(uint64_t amount, uint64_t before, uint64_t ns)
{
    return (double)(amount - before) * 1e9 / (double)(ns ? ns : 1);
}

/* The messages since the last time, and the drops since the start. */
static void service_describe(struct service *service, uint64_t now_ns, char *text, size_t size)
{
    uint64_t received = stats_get(service->stats, COUNT_RECEIVED);
    uint64_t bytes = stats_get(service->stats, COUNT_BYTES);
    uint64_t ns = now_ns - service->status.time_ns;
    uint64_t dropped = stats_dropped_total(service->stats);
    if (received == 0) {
        snprintf(text, size, "waiting for jobs");
    } else {
        snprintf(text, size,
                 "%.1f messages/s, %.1f MB/s; %" PRIu64 " received, %" PRIu64 " dropped",
                 service_rate(received, service->status.received, ns),
                 service_rate(bytes, service->status.bytes, ns) / 1e6, received, dropped);
    }
    service->status.time_ns = now_ns;
    service->status.received = received;
    service->status.bytes = bytes;
}

static void say_status(struct service *service)
{
    char text[sizeof service->status.text], line[sizeof text + sizeof "STATUS="];
    service_describe(service, clock_monotonic_ns(), text, sizeof text);
    if (strcmp(text, service->status.text) == 0) {
        return;
    }
    snprintf(line, sizeof line, "STATUS=%s", text);
    if (service_notify_say(&service->notify, line)) {
        strcpy(service->status.text, text);
    }
}

/* Watchdog */

static void service_on_asked(uv_async_t *asked)
{
    struct service *service = asked->data;
    pulse_beat(&service->loop_pulse);
}

static void ask_loop(void *data)
{
    struct service *service = data;
    uv_async_send(&service->asked);
}

static void feed_watchdog(struct service *service)
{
    if (!service->watchdog_ms) {
        return;
    }
    const char *missing = pulse_missing(&service->round);
    if (missing && !service->missing) {
        log_event(LOG_WARNING, "thread_late", LOG_STR("thread", missing));
    }
    service->missing = missing;
    if (missing) {
        return;
    }
    service_notify_say(&service->notify, "WATCHDOG=1");
    pulse_ask(&service->round);
}

/* Time */

void service_extend(struct service *service, uint64_t patience_ns)
{
    char line[64];
    if (!service) {
        return;
    }
    snprintf(line, sizeof line, "EXTEND_TIMEOUT_USEC=%" PRIu64,
             (patience_ns + STOP_SLACK_NS) / 1000);
    service_notify_say(&service->notify, line);
}

static void service_on_tick(uv_timer_t *tick)
{
    struct service *service = tick->data;
    uint64_t now_ns = clock_monotonic_ns();
    stall_point("loop");
    feed_watchdog(service);
    if (!service->stop_ns) {
        say_status(service);
    } else {
        service_extend(service, service->stop_ns > now_ns ? service->stop_ns - now_ns : 0);
    }
}

static void service_start_tick(struct service *service, uint64_t period_ms)
{
    uint64_t watchdog_ms = service->watchdog_ms / WATCHDOG_SHARE;
    if (watchdog_ms && watchdog_ms < period_ms) {
        period_ms = watchdog_ms;
    }
    uv_timer_start(&service->tick, service_on_tick, period_ms, period_ms);
}

/* Life */

/* 0 when it is not meant for this process. Less than the timer can tell apart counts as that. */
static uint64_t read_watchdog_ms(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid())) {
        return 0;
    }
    uint64_t ms = strtoull(usec, NULL, 10) / US_PER_MS;
    return ms > 0 && ms < WATCHDOG_SHARE ? WATCHDOG_SHARE : ms;
}

static struct service *new_service(uv_loop_t *loop, struct stats *stats,
                                   const struct service_notify *notify)
{
    struct service *service = calloc(1, sizeof *service);
    if (!service) {
        return NULL;
    }
    service->notify = *notify;
    service->stats = stats;
    service->watchdog_ms = read_watchdog_ms();
    if (uv_async_init(loop, &service->asked, service_on_asked) != 0) {
        free(service);
        return NULL;
    }
    uv_timer_init(loop, &service->tick);
    service->tick.data = service->asked.data = service;
    uv_unref((uv_handle_t *)&service->tick); /* neither keeps a stopping loop */
    uv_unref((uv_handle_t *)&service->asked);
    service_watch(service,
                  &(struct pulse_subject){"loop", &service->loop_pulse, ask_loop, service});
    return service;
}

int service_new(uv_loop_t *loop, struct stats *stats, struct service **ret_service)
{
    struct service_notify notify;
    const char *path = getenv("NOTIFY_SOCKET");
    int code = service_notify_open(&notify, path);
    if (code) {
        log_event(LOG_WARNING, "service_manager_unreachable", LOG_STR("socket", path),
                  LOG_STR("reason", strerror(code)));
    }
    *ret_service = notify.fd >= 0 ? new_service(loop, stats, &notify) : NULL;
    code = notify.fd >= 0 && !*ret_service ? ERR_MEMORY : 0;
    if (code) {
        service_notify_close(&notify);
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    return code;
}

void service_watch(struct service *service, const struct pulse_subject *subject)
{
    if (service) {
        pulse_add(&service->round, subject);
    }
}

void service_ready(struct service *service)
{
    if (!service) {
        return;
    }
    service->status.time_ns = clock_monotonic_ns();
    service_notify_insist(&service->notify, "READY=1");
    say_status(service);
    pulse_ask(&service->round);
    service_start_tick(service, STATUS_MS);
}

void service_reloading(struct service *service)
{
    char lines[64];
    if (!service) {
        return;
    }
    snprintf(lines, sizeof lines, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
             clock_monotonic_ns() / 1000);
    service_notify_insist(&service->notify, lines);
}

void service_reloaded(struct service *service)
{
    if (service) {
        service_notify_insist(&service->notify, "READY=1");
    }
}

void service_stopping(struct service *service, uint64_t patience_ns)
{
    if (!service) {
        return;
    }
    service->round.count = 1; /* the loop */
    service->stop_ns = clock_monotonic_ns() + patience_ns;
    service_notify_insist(&service->notify, "STOPPING=1\nSTATUS=finishing what was received");
    service_extend(service, patience_ns);
    service_start_tick(service, STOP_MS);
}

void service_close(struct service *service)
{
    if (!service || uv_is_closing((uv_handle_t *)&service->tick)) {
        return;
    }
    uv_close((uv_handle_t *)&service->tick, NULL);
    uv_close((uv_handle_t *)&service->asked, NULL);
}

void service_free(struct service **service)
{
    if (!*service) {
        return;
    }
    service_notify_close(&(*service)->notify);
    free(*service);
    *service = NULL;
}
