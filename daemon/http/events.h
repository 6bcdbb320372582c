/* SPDX-License-Identifier: MIT */
/* events: the event stream: published results become numbered events in a ring, which each client
 * reads at its own pace. HTTP thread.
 *
 * A live value of a layer goes out at once, and then at most every http.live_interval: the newest
 * of what came meanwhile. Events are rendered only while somebody listens. A client that falls out
 * of the ring, or comes back too late, gets `resync` and must fetch again. */
#ifndef DAEMON_HTTP_EVENTS_H
#define DAEMON_HTTP_EVENTS_H

#include "config/config.h"
#include "daemon/base/feed.h"
#include "daemon/http/ring.h"
#include "daemon/base/stats.h"

#include <microhttpd.h>

struct held; /* the live value of a layer, by its topic */
struct event_client;

struct events {
    struct stats *stats;
    struct ring ring;
    uint32_t boot; /* of this start of attnd: the first part of ids */
    uint64_t live_interval_ns;
    uint64_t heartbeat_ns;
    struct held *held; /* hash */
    struct event_client *clients;
    /* Live values that wait for their interval; beyond the limit none waits. */
    uint64_t held_bytes, held_limit;
    uint32_t client_count, client_limit;
    bool urgent; /* something that no client should wait for is new since events_wake */
    bool closing;
};

void events_init(struct events *events, struct stats *stats, const struct config *config);
void events_clear(struct events *events);

/* One published map. */
void events_put(struct events *events, const struct published *published, uint64_t now_ns);
/* Something was lost on the way here: all clients have to ask again. */
void events_lost(struct events *events);
/* Sends live values that were held back and are due. Returns whether some still are. */
bool events_send_held(struct events *events, uint64_t now_ns);
/* About every second: sends heartbeats to those that have heard nothing for long, lets those go
 * that have hung up, and forgets layers that are silent. */
void events_tick(struct events *events, uint64_t now_ns);
/* Judges the clients by another list (or NULL), and lets those go that it does not know: for
 * events_wake afterwards. */
void events_judge(struct events *events, const struct access *visitors);
/* Ends all streams. */
void events_close(struct events *events);
/* Lets clients that wait go on: for server_run afterwards. */
void events_wake(struct events *events);

/* A client of what the filter lets through. `last_id` is what it heard last, or NULL. Returns the
 * response that streams, for a connection that exists until the response is destroyed; NULL when
 * there are too many clients, or no memory. */
struct MHD_Response *events_open(struct events *events, struct MHD_Connection *connection,
                                 const struct event_filter *filter, const char *last_id,
                                 uint64_t now_ns);

/* "01234567-12" of this boot to 12; returns false when it is of another, or none. */
bool events_parse_id(const char *text, uint32_t boot, uint64_t *ret_number);

#endif
