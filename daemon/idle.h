/* SPDX-License-Identifier: MIT */
/* idle: notices that nobody uses attnd any more (`shutdown.idle`).
 *
 * Somebody does while a connection to one of its sockets is open, and while messages, requests or
 * questions to the page come in. Loop thread only. */
#ifndef DAEMON_IDLE_H
#define DAEMON_IDLE_H

#include "daemon/base/stats.h"

#include <stdbool.h>
#include <uv.h>

struct idle;

/* Begins to look. Nobody is told more than once: `on_idle` is called when nobody has used attnd for
 * `limit_ns`, which is not 0. Returns NULL when out of memory. `stats` outlives it. */
struct idle *idle_new(uv_loop_t *loop, struct stats *stats, uint64_t limit_ns,
                      void (*on_idle)(void *data), void *data);

/* Whether somebody is connected to a socket that this process listens on: true, too, when that
 * cannot be found out. */
bool idle_has_peers(void);

/* Looks no more; the loop runs its close callback, and frees it. Accepts NULL. */
void idle_close(struct idle **idle);

#endif
