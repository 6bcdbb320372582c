/* SPDX-License-Identifier: MIT */
/* One thread takes events off a bounded queue, one after the other, and gives each to the command
 * and to the webhook. A slow receiver therefore delays later events, and at last drops them; it
 * never delays the loop, whose only part is to copy an event under a lock that nobody holds for
 * long.
 *
 * Stopping sets a time to give up. Until then the thread goes on as before; from then on nothing is
 * begun, what is running is ended, and what waits is dropped. */
#include "daemon/alerts/notify.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "proto/mpk.h"
#include "daemon/alerts/notify_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

struct notify_event {
    struct notify_event *next;
    size_t size;
    unsigned char map[];
};

struct notify {
    struct stats *stats;
    struct notify_command *command;
    struct webhook *webhook;
    uint32_t queue_max;
    struct notify_stop stop;
    uint64_t failures; /* of the thread */
    pthread_t thread;
    /* under the lock of `stop` */
    pthread_cond_t arrived;
    struct notify_event *first, **last;
    uint32_t waiting;
    uint64_t overflows;
    bool ending; /* no more will come */
};

/* Queue */

/* The oldest event; waits for one. NULL when there is none and none will come. */
static struct notify_event *notify_take(struct notify *notify)
{
    pthread_mutex_lock(&notify->stop.lock);
    while (!notify->first && !notify->ending) {
        pthread_cond_wait(&notify->arrived, &notify->stop.lock);
    }
    struct notify_event *event = notify->first;
    if (event) {
        notify->first = event->next;
        notify->last = notify->first ? notify->last : &notify->first;
        notify->waiting--;
    }
    pthread_mutex_unlock(&notify->stop.lock);
    return event;
}

void notify_put(struct notify *notify, const void *map, size_t size)
{
    uint64_t overflows = 0;
    if (!notify) {
        return;
    }
    struct notify_event *event = malloc(sizeof *event + size);
    if (event) {
        event->next = NULL;
        event->size = size;
        memcpy(event->map, map, size);
        /* Into the queue, unless that is full. */
        pthread_mutex_lock(&notify->stop.lock);
        bool room = notify->waiting < notify->queue_max;
        overflows = notify->overflows;
        notify->overflows += !room;
        if (room) {
            *notify->last = event;
            notify->last = &event->next;
            notify->waiting++;
            pthread_cond_signal(&notify->arrived);
        }
        pthread_mutex_unlock(&notify->stop.lock);
        if (room) {
            return;
        }
    }
    free(event);
    stats_add(notify->stats, COUNT_NOTIFY_FAILED, 1);
    if (log_is_round(overflows)) {
        log_event(LOG_WARNING, "notify_queue_full", LOG_NUM("dropped", overflows + 1),
                  LOG_STR("see", "alerts.queue, alerts.timeout"));
    }
}

/* Thread */

static void account(struct notify *notify, const char *way, int result, const char *reason)
{
    stats_add(notify->stats, result == 0 ? COUNT_NOTIFIED : COUNT_NOTIFY_FAILED, 1);
    if (result != 0 && log_is_round(notify->failures++)) {
        log_event(LOG_WARNING, "notify_failed", LOG_STR("by", way), LOG_STR("reason", reason),
                  LOG_NUM("failures", notify->failures));
    }
}

/* A map as a line of JSON; malloc'ed, NULL when out of memory. */
static char *json_line(const struct notify_event *event)
{
    struct mpk_doc doc;
    if (mpk_parse(event->map, event->size, &mpk_result_limits, &doc) != 0) {
        return NULL;
    }
    char *json = mpk_to_json(doc.root, 0);
    mpk_doc_clear(&doc);
    char *line = json ? realloc(json, strlen(json) + 2) : NULL;
    if (!line) {
        free(json);
        return NULL;
    }
    return strcat(line, "\n");
}

static void *notify_run(void *data)
{
    struct notify *notify = data;
    for (struct notify_event *event; (event = notify_take(notify)); free(event)) {
        char reason[NOTIFY_REASON_MAX] = "out of memory", *line = json_line(event);
        bool stopped = notify_stop_before(&notify->stop, UINT64_MAX) <= clock_monotonic_ns();
        if (stopped) {
            snprintf(reason, sizeof reason, "attnd stops");
        }
        bool able = line && !stopped;
        if (notify->command) {
            account(notify, "command",
                    able ? command_run(notify->command, line, &notify->stop, reason) : -1, reason);
        }
        if (notify->webhook) {
            account(notify, "webhook",
                    able ? webhook_post(notify->webhook, line, &notify->stop, reason) : -1, reason);
        }
        free(line);
    }
    return NULL;
}

/* Life */

static int make_ways(struct notify *notify, const struct config *config, char *reterr)
{
    const char *command = config->alerts_command.text, *webhook = config->alerts_webhook.text;
    char reason[NOTIFY_REASON_MAX];
    if (*command && command_new(command, config->alerts_timeout, &notify->command, reason) != 0) {
        size_t program = strcspn(command, " "); /* arguments may be secrets */
        snprintf(reterr, CONFIG_ERROR_MAX, "alerts.command: '%.*s': %s",
                 (int)(program < 500 ? program : 500), command, reason);
        return -1;
    }
    if (*webhook && webhook_new(webhook, config->alerts_timeout, (uint32_t)config->alerts_retries,
                                &notify->webhook, reason) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "alerts.webhook: %s", reason);
        return -1;
    }
    return 0;
}

/* With all signals blocked: they are the loop's, and a pipe or connection that breaks is an error
 * code. */
static int notify_start(struct notify *notify)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&notify->thread, NULL, notify_run, notify);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error) {
        pthread_setname_np(notify->thread, "attnd-notify");
    }
    return error;
}

static void notify_destroy(struct notify *notify)
{
    command_free(&notify->command);
    webhook_free(&notify->webhook);
    pthread_cond_destroy(&notify->arrived);
    notify_stop_clear(&notify->stop);
    free(notify);
}

int notify_new(const struct config *config, struct stats *stats, struct notify **ret_notify,
               char *reterr)
{
    *ret_notify = NULL;
    if (!*config->alerts_command.text && !*config->alerts_webhook.text) {
        return 0;
    }
    struct notify *notify = calloc(1, sizeof *notify);
    if (!notify) {
        snprintf(reterr, CONFIG_ERROR_MAX, "alerts: out of memory");
        return -1;
    }
    notify->stats = stats;
    notify->queue_max = (uint32_t)config->alerts_queue;
    notify->last = &notify->first;
    notify_stop_init(&notify->stop);
    pthread_cond_init(&notify->arrived, NULL);
    int result = make_ways(notify, config, reterr);
    int error = result == 0 ? notify_start(notify) : 0;
    if (error) {
        snprintf(reterr, CONFIG_ERROR_MAX, "alerts: no thread: %s", strerror(error));
    }
    if (result != 0 || error) {
        notify_destroy(notify);
        return -1;
    }
    *ret_notify = notify;
    return 0;
}

void notify_free(struct notify **notify_p, uint64_t deadline_ms)
{
    struct notify *notify = *notify_p;
    if (!notify) {
        return;
    }
    notify_stop_set(&notify->stop, clock_monotonic_ns() + deadline_ms * MS);
    pthread_mutex_lock(&notify->stop.lock);
    notify->ending = true;
    pthread_cond_signal(&notify->arrived);
    pthread_mutex_unlock(&notify->stop.lock);
    if (notify->webhook) {
        webhook_wake(notify->webhook);
    }
    pthread_join(notify->thread, NULL);
    notify_destroy(notify);
    *notify_p = NULL;
}
