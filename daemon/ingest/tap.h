/* SPDX-License-Identifier: MIT */
/* tap: lets recorders hear a job's messages as they came, on an XPUB socket of its own.
 *
 * A tapped message is: frame 0 `tap/<job>/`; frame 1 a MessagePack map `{v, n, received_ns,
 * dropped}` (n: +1 per message that the tap saw of this job; dropped: how many of them it could not
 * pass on so far; both begin at 0 when somebody begins to listen); then the message's own frames,
 * topic first, not copied. A subscriber to `tap/<job>/` is sent frames 0 and 1 alone at once, with
 * the n of the message that comes next; other recorders of the job see them too. While nobody
 * listens it costs nothing; at most a quarter of publish.budget are on their way, and an eighth of
 * that for events; beyond it messages are dropped there and counted. Never blocks. Loop thread. */
#ifndef DAEMON_INGEST_TAP_H
#define DAEMON_INGEST_TAP_H

#include "daemon/base/keys.h"
#include "daemon/ingest/message.h"
#include "daemon/base/stats.h"

#include <uv.h>

struct tap;

/* Binds tap.endpoint, and writes the address it got back to *config. Returns 0, or -1 with a
 * sentence in reterr (CONFIG_ERROR_MAX bytes). */
int tap_new(uv_loop_t *loop, void *zmq_context, struct keyring *keys, struct config *config,
            struct stats *stats, struct tap **ret_tap, char *reterr);
/* A message that has just arrived, before anything else is done with it. Accepts NULL. */
void tap_message(struct tap *tap, struct message *message);
/* Ends the connections of all recorders that came with keys; those who still may come back. */
void tap_renew(struct tap *tap);
/* Asked every few seconds: binds again when recorders no longer find the socket, and ends the
 * connections of those that read nothing for 10 s while half of that budget waits. `data` is the
 * tap. */
void tap_keep(void *data);
/* Stops; freed once the loop has run the close callbacks. Accepts NULL. */
void tap_close(struct tap **tap);

#endif
