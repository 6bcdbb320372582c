/* SPDX-License-Identifier: MIT */
/* notify_internal: the two ways out of notify, a command and a webhook. Private to notify; its
 * thread. */
#ifndef DAEMON_ALERTS_NOTIFY_INTERNAL_H
#define DAEMON_ALERTS_NOTIFY_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* When to give up because the daemon stops. */
struct notify_stop {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* on the monotonic clock */
    uint64_t at_ns;         /* UINT64_MAX = not stopping */
};

void notify_stop_init(struct notify_stop *stop);
void notify_stop_clear(struct notify_stop *stop);
/* Any thread. */
void notify_stop_set(struct notify_stop *stop, uint64_t at_ns);
/* The earlier of the two. */
uint64_t notify_stop_before(struct notify_stop *stop, uint64_t until_ns);
/* Waits until then, or until it is time to give up. Returns false in the latter case. */
bool notify_stop_wait(struct notify_stop *stop, uint64_t until_ns);

#define NOTIFY_REASON_MAX 256

/* A program and its arguments. */
struct notify_command;

/* `text`: an absolute path and arguments between blanks. Returns 0, or -1 with a reason. */
int command_new(const char *text, uint64_t timeout_ns, struct notify_command **ret_command,
                char reterr_reason[NOTIFY_REASON_MAX]);
void command_free(struct notify_command **command);
/* Runs it with `line` on its standard input, and waits for its end. Returns 0 when it exits with
 * status 0 in time, or -1 with a reason. */
int command_run(const struct notify_command *command, const char *line, struct notify_stop *stop,
                char reterr_reason[NOTIFY_REASON_MAX]);

/* A URL that takes events. */
struct webhook;

int webhook_new(const char *url, uint64_t timeout_ns, uint32_t retries,
                struct webhook **ret_webhook, char reterr_reason[NOTIFY_REASON_MAX]);
void webhook_free(struct webhook **webhook);
/* Posts `line`, again when that may help. Returns 0 for an answer of 2xx, or -1 with a reason. */
int webhook_post(struct webhook *webhook, const char *line, struct notify_stop *stop,
                 char reterr_reason[NOTIFY_REASON_MAX]);
/* Makes a post look at `stop` at once. Any thread. */
void webhook_wake(struct webhook *webhook);

#endif
