/* SPDX-License-Identifier: MIT */
/* service: reports the state of attnd to the service manager.
 *
 * READY=1 once there is somebody to handle what comes, RELOADING=1 while the config is read again,
 * STOPPING=1 and more time while what was received is finished, a STATUS= line with rates, and
 * WATCHDOG=1 as long as every thread that a message or its window has to pass goes on turning.
 * Without $NOTIFY_SOCKET there is no service (NULL, which everything accepts), and no timer: an
 * idle attnd has no wake-ups. Loop thread. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include "daemon/base/pulse.h"
#include "daemon/base/stats.h"

#include <uv.h>

struct service;

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and takes them out of the environment, so
 * that programs which attnd starts do not speak for it: before any thread is started. `stats`
 * outlives the service. *ret_service is NULL when nobody wants to be told. A manager that cannot be
 * told is logged. Returns 0 or ERR_MEMORY. */
int service_new(uv_loop_t *loop, struct stats *stats, struct service **ret_service);

/* A thread besides the loop's that the watchdog looks after, from service_ready on. */
void service_watch(struct service *service, const struct pulse_subject *subject);

void service_ready(struct service *service);
void service_reloading(struct service *service);
void service_reloaded(struct service *service);
/* From now on only the loop is looked after: the other threads end. The stop takes `patience_ns`
 * more at most, and the service manager is asked for it as long as the loop turns. */
void service_stopping(struct service *service, uint64_t patience_ns);
/* The next step takes at most this long, and keeps the loop from turning. Also after
 * service_close. */
void service_extend(struct service *service, uint64_t patience_ns);

/* Lets go of the loop; service_free once it has run the close callbacks. */
void service_close(struct service *service);
void service_free(struct service **service);

#endif
