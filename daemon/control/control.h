/* SPDX-License-Identifier: MIT */
/* control: questions and commands over a ROUTER socket, as MessagePack-RPC:
 * [0, id, method, params] -> [1, id, error, result]. A request may come from a DEALER (one frame)
 * or a REQ (an empty frame before it); what stands before the request is sent back as it came. Loop
 * thread only.
 *
 * control_call answers the same methods without a socket.
 *
 * The methods are those of method.def. A flush is answered once everything received before it has
 * been shown, a question about the past when the history's thread has looked it up, one for jobs
 * when the list is made (jobs.c); everything else at once. */
#ifndef DAEMON_CONTROL_CONTROL_H
#define DAEMON_CONTROL_CONTROL_H

#include "config/config.h"
#include "daemon/base/keys.h"
#include "daemon/publish/publisher.h"
#include "daemon/run/registry.h"
#include "daemon/base/stats.h"

#include <uv.h>

struct fleet;
struct history;
struct plans;
struct pool;
struct store;

/* The sources of the answers; they and the view outlive the control. Sources of the past may be set
 * until the loop runs: clients find the socket while a long history is still being opened. */
struct control_view {
    uv_loop_t *loop;
    struct config *config;
    struct stats *stats;
    struct keyring *keys; /* that clients over TCP come with; NULL = none */
    struct registry *registry;
    struct publisher *publisher;
    struct pool *pool;
    struct plans *plans;
    const struct config
        *plan_config; /* what its keys of plans are in force of, instead of config */
    int (*plans_changed)(void *data); /* returns 0 or an error */
    uint64_t started_ns;
    uint64_t (*bytes_in_flight)(void *data);
    uint64_t (*messages_in_flight)(void *data);
    void *data;
    struct store *store; /* of the past, with the next two */
    struct history *history;
    struct fleet *fleet; /* NULL: fleet.role is off */
};

struct control;

/* Binds control.endpoint, and writes the address it got back to the config. Returns 0, or -1 with a
 * sentence in reterr (CONFIG_ERROR_MAX bytes). */
int control_new(void *zmq_context, const struct control_view *view, struct control **ret_control,
                char *reterr);
/* The end of a call: `code` is 0 with a result (one value), or an error with `detail` ("" or NULL:
 * the error's own sentence). All borrowed. */
typedef void control_answered(void *data, int code, const char *detail,
                              const struct mpk_writer *result);
/* A request without a socket: `params` is one MessagePack value of `size` bytes. `answered` is
 * called once, inside this call or later, at the latest when history and control are closed. */
void control_call(struct control *control, const char *method, const void *params, size_t size,
                  control_answered *answered, void *data);
/* Answers flushes that have been waiting, if none waits any more. Accepts NULL. */
void control_settle(struct control *control);
/* Binds again when clients no longer find the socket. `data` is the control. */
void control_keep(void *data);
/* Stops; freed once the loop has run the close callbacks. After history_close, which answers what
 * waits there. Accepts NULL. */
void control_close(struct control **control);

#endif
