/* SPDX-License-Identifier: MIT */
/* notify: passes events on to a command and a webhook, in a thread of its own.
 *
 * alerts.command is run without a shell, with one event as a line of JSON on its standard input;
 * alerts.webhook gets it as an HTTP POST, and again after 1 s, 2 s, 4 s, ... when that fails. Both
 * have alerts.timeout. At most alerts.queue events wait; later ones are dropped. Every outcome is
 * counted (NOTIFIED, NOTIFY_FAILED: one for each of the two), and failures are logged. */
#ifndef DAEMON_ALERTS_NOTIFY_H
#define DAEMON_ALERTS_NOTIFY_H

#include "config/config.h"
#include "daemon/base/stats.h"

#include <stddef.h>

struct notify;

/* *ret_notify is NULL, with 0, when neither is configured. `config` and `stats` outlive it. Returns
 * 0, or -1 with a sentence (CONFIG_ERROR_MAX bytes): what is configured cannot work. */
int notify_new(const struct config *config, struct stats *stats, struct notify **ret_notify,
               char *reterr);
/* An encoded alert (MessagePack), copied. Never blocks. Accepts NULL. Loop thread. */
void notify_put(struct notify *notify, const void *map, size_t size);
/* Gives what waits until `deadline_ms` from now, then ends the thread, and what it is about to do,
 * and frees. Accepts NULL. */
void notify_free(struct notify **notify, uint64_t deadline_ms);

#endif
