/* SPDX-License-Identifier: MIT */
/* http: the page, the API, the event stream and /metrics, in a thread of its own with its own loop.
 *
 * Nothing of it is made on the loop thread. Questions go there by a queue, are answered by the
 * methods of control, and come back as MessagePack; results are copied to a bounded queue as they
 * are published. A slow or hostile reader affects this thread alone. */
#ifndef DAEMON_HTTP_HTTP_H
#define DAEMON_HTTP_HTTP_H

#include "config/config.h"
#include "daemon/base/stats.h"

#include <uv.h>

struct control;
struct http;

/* Binds http.endpoint, or a free port when that is the default and taken, and writes the address it
 * got back to *config. `loop` is the daemon's; it and config and stats outlive the http. Returns 0,
 * or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes). */
int http_new(uv_loop_t *loop, struct config *config, struct stats *stats, struct http **ret_http,
             char *reterr);

/* Starts the thread; questions are then put to `control`. `directory` is attnd's, "" = none, and
 * outlives the http. Returns as http_new. */
int http_start(struct http *http, struct control *control, const char *directory, char *reterr);

/* Reads http.token_file again: streams of those who are not on the list any more end. A mistake
 * changes nothing. Returns how many lines it has, 0 without a file; or -1 with a sentence in
 * reterr. Accepts NULL. Loop thread. */
int http_reload(struct http *http, char *reterr);

/* Writes the file `page` in the directory again when it has gone. `data` is the http. */
void http_keep_page(void *data);

/* Hands over one published result: a MessagePack map of `size` bytes, which is copied. Never waits;
 * what finds no room (a sixteenth of publish.budget) is dropped and counted. Loop thread. Accepts
 * NULL. */
void http_put(struct http *http, const char *topic, const void *map, size_t size);

/* Ends the thread: clients of the event stream are let go, questions that wait are answered with
 * 503. After control_close, which answers what waits there. Freed once the loop has run the close
 * callbacks. Accepts NULL. */
void http_close(struct http **http);

#endif
