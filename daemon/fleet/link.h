/* SPDX-License-Identifier: MIT */
/* link: the connection of a node or a hub to the NATS servers, and the stream between them.
 *
 * One thread, the owner's, calls all of this unless said otherwise. Threads of libnats keep the
 * connection up: servers that are not there are tried for ever. A connection that ended for good
 * (the servers do not let us in) is made anew after a pause. */
#ifndef DAEMON_FLEET_LINK_H
#define DAEMON_FLEET_LINK_H

#include "config/config.h"

#include <nats/nats.h>

#define LINK_STREAM        "attnd-parts"
#define LINK_PART_SUBJECTS "attnd.part.>"
#define LINK_ERROR_MAX     256
/* How long a request to a server, or a write to its socket, may take. */
#define LINK_WAIT_MS 2000

struct fleet_link;

struct link_owner {
    /* Any thread: the connection came, went, or there is an error. */
    void (*wake)(void *data);
    /* The connection is about to be freed: destroy its subscriptions and contexts. From link_tend
     * and link_free; not when there was none. */
    void (*lose)(void *data);
    void *data;
};

/* Reads what the config names, and connects to nobody yet. Returns 0, or -1 with a sentence of at
 * most CONFIG_ERROR_MAX bytes. */
int link_new(const struct config *config, const struct link_owner *owner,
             struct fleet_link **ret_link, char *reterr);
/* Every second, and when woken: makes the connection when there is none, for which it may wait
 * LINK_WAIT_MS per server. Returns it, up or not, or NULL. */
natsConnection *link_tend(struct fleet_link *link);
/* Any thread. */
bool link_connected(struct fleet_link *link);
/* Any thread: what is wrong, a sentence; "" when nothing is. */
void link_error(struct fleet_link *link, char ret_error[LINK_ERROR_MAX]);
/* Any thread: something that the owner cannot do with the connection. Logged when it is another
 * one; "" takes it back. */
void link_set_trouble(struct fleet_link *link, const char *trouble);
/* The servers, without secrets. Any thread. */
const char *link_url(const struct fleet_link *link);
/* Whether `what` could be made: the stream, or what is of it. Returns 0, or -1 and sets the
 * trouble. */
int link_say(struct fleet_link *link, const char *what, natsStatus status, jsErrCode code);
/* Learns the domain, and makes the stream unless it is there; waits LINK_WAIT_MS at most three
 * times. Returns 0, or -1 and sets the trouble. */
int link_make_stream(struct fleet_link *link, jsCtx *js);
/* The domain of JetStream that the stream is in; "" = it has no name, or is not known. Valid until
 * link_make_stream. */
const char *link_domain(const struct fleet_link *link);
/* Whether rows of a node with this domain come to the stream; true where either is not known. */
bool link_takes_from(const struct fleet_link *link, const char *domain);
/* Waits for all threads of libnats, two seconds at most: there is one link in a process at a time.
 * Accepts NULL. */
void link_free(struct fleet_link **link);

/* Hexadecimal digits of FLEET_ID_BYTES bytes, terminated. */
#define LINK_ID_DIGITS 16
void link_id_text(const uint8_t *id, char ret_text[LINK_ID_DIGITS + 1]);
/* fleet.name, or the host's. */
void link_name(const struct config *config, char *ret_name, size_t size);

#endif
