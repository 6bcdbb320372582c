/* SPDX-License-Identifier: MIT */
/* history: answers questions from the database, in a thread of its own with a read-only connection.
 *
 * Methods and their parameters are those of PROTOCOL.md: history, map, alerts, compare, windows
 * (and what the export needs). A question may take history.query_time; at most HISTORY_WAITING_MAX
 * wait. Loop thread. */
#ifndef DAEMON_HISTORY_H
#define DAEMON_HISTORY_H

#include "config.h"
#include "mpk.h"

#include <uv.h>

#define HISTORY_WAITING_MAX 64

struct history;

/* `path` is store_path's; NULL: every question is answered with ERR_HISTORY_OFF. Returns 0, or -1
 * with a sentence (CONFIG_ERROR_MAX bytes). */
int history_new(uv_loop_t *loop, const struct config *config, const char *path,
                struct history **ret_history, char *reterr);

/* Whether there is such a method. */
bool history_knows(const char *method);

/* Asks; `answered` is called later, on the loop thread, never from inside this call: with 0 and a
 * result, or an error. `params` (one MessagePack map) is copied. Returns 0, ERR_AGAIN when too many
 * wait, ERR_HISTORY_OFF or ERR_MEMORY; then `answered` is not called. */
int history_ask(struct history *history, const char *method, const void *params, size_t size,
                void (*answered)(void *data, int code, const struct mpk_writer *result),
                void *data);

/* Stops; questions that wait are answered with ERR_CLOSED. Freed once the loop has run the close
 * callbacks. Accepts NULL. */
void history_close(struct history **history);

#endif
