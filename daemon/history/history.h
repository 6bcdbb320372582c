/* SPDX-License-Identifier: MIT */
/* history: answers questions from the database, in a thread of its own with a read-only connection.
 *
 * Methods and their parameters are those of ../proto/PROTOCOL.md, section 4. A question may take
 * history.query_time; at most HISTORY_WAITING_MAX wait, and HISTORY_WAITING_EACH behind one that
 * is answered of an asker; askers take turns. Loop thread. */
#ifndef DAEMON_HISTORY_HISTORY_H
#define DAEMON_HISTORY_HISTORY_H

#include "config/config.h"
#include "proto/mpk.h"

#include <uv.h>

#define HISTORY_WAITING_MAX  64
#define HISTORY_WAITING_EACH 16
/* The asker of questions of attnd itself and of its page. */
#define HISTORY_OWN 0

struct history;
struct store;

/* Without store_path every question is answered with ERR_HISTORY_OFF. The store, which is told of
 * damage, outlives it. Returns 0, or -1 with a sentence (CONFIG_ERROR_MAX bytes). */
int history_new(uv_loop_t *loop, const struct config *config, struct store *store,
                struct history **ret_history, char *reterr);

/* The end of a question: `code` is 0 with a result, or an error with `detail`, which says what it
 * cannot say by itself ("": nothing). Both are borrowed. */
typedef void history_answered(void *data, int code, const char *detail,
                              const struct mpk_writer *result);

/* Asks for `asker`, some number; `answered` is called later, on the loop thread, never from inside
 * this call. `params` (one MessagePack map) is copied. Returns 0, ERR_AGAIN when too many wait,
 * ERR_HISTORY_OFF, ERR_METHOD_UNKNOWN or ERR_MEMORY; then `answered` is not called. */
int history_ask(struct history *history, uint64_t asker, const char *method, const void *params,
                size_t size, history_answered *answered, void *data);

/* Stops; questions that wait are answered with ERR_CLOSED, inside this call. Freed once the loop
 * has run the close callbacks. Accepts NULL. */
void history_close(struct history **history);

#endif
