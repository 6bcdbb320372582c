/* SPDX-License-Identifier: MIT */
/* link: a socket and its one daemon.
 *
 * A daemon that was named, by an endpoint or an address, is connected to once, and ZeroMQ connects
 * again by itself. One that nobody named is looked for (proto/address.h), about once a second until
 * it is found, and again when its connection has ended: then in all places, since it may come back
 * in another one, and a place may have become somebody else's. ZeroMQ is kept from connecting there
 * by itself; and, where somebody is told of keys, from giving a daemon up that has refused them: it
 * is connected to as often as ZeroMQ would, and while it refuses them about once a second.
 *
 * One thread. */
#ifndef CLIENTS_C_SRC_LINK_H
#define CLIENTS_C_SRC_LINK_H

#include "proto/address.h"
#include "proto/key.h"
#include "clients/c/src/socket.h"

#include <zmq.h>

#define LINK_LOOK_EVERY_MS 1000

/* The daemon to connect to. The environment is read once, here: a thread of our own may not look
 * there while the program changes it. */
struct link_target {
    char endpoint[ADDRESS_MAX]; /* "" = nobody was named */
    char runtime_dir[ADDRESS_MAX];
    struct key_client keys; /* for an endpoint that is TCP */
    enum address_socket which;
    uint32_t look_every_ms;
    /* With keys: is called by link_tend, in sentences, when attnd does not let them in, and when it
     * does again. NULL: nobody is told, and ZeroMQ stops trying. */
    void (*tell)(void *data, const char *sentence);
    void *data;
};

/* The endpoint says exactly which socket; NULL: the address says which daemon; NULL or "":
 * $ATTND_ADDRESS does, or nobody. Returns 0, or ATTN_E_ARGUMENT also when the keys that are set
 * cannot be read. */
int link_name(const char *endpoint, const char *address, enum address_socket which,
              uint32_t look_every_ms, struct link_target *ret_target);

struct link {
    void *socket;
    void *monitor; /* tells that a connection has ended; NULL: the daemon was named */
    struct link_target target;
    char endpoint[ADDRESS_MAX]; /* connected to, or on the way; "" = nobody was found */
    bool ended;                 /* that connection, or the attempt */
    bool let_in;                /* it is no mere attempt; with `tell` */
    bool refused;               /* the last thing that was told */
    uint64_t connections;       /* begun: a request that was sent on an earlier one may be lost */
    uint64_t look_ms;           /* not to be looked for before */
    uint64_t knock_ms;          /* keys not to be tried before */
};

/* Makes a socket, and looks for the first time. Returns 0 or ATTN_E_TRANSPORT; on failure *ret_link
 * is closed. */
int link_open(struct link *ret_link, void *context, int type, const struct socket_option *options,
              size_t count, int64_t frame_bytes_max, const struct link_target *target);
/* The same for a reader: one that has subscribed to the topic and closes without delay. */
int link_subscribe(struct link *ret_link, void *context, const char *topic, int64_t frame_bytes_max,
                   const struct link_target *target);
void link_close(struct link *link);

/* Takes in that the connection has ended, and looks for a daemon when that is due and nothing is
 * left to be received. Does not block. */
void link_tend(struct link *link);

/* Whether there is a connection, or an attempt at one. */
bool link_is_up(const struct link *link);

/* Waits up to timeout_ms (< 0: for ever) for something to receive, tending the link. Returns 1, 0,
 * or ATTN_E_TRANSPORT. Early or interrupted it is 0: look at the clock and wait again. */
int link_wait(struct link *link, long timeout_ms);

/* Milliseconds until link_tend has something to do by itself; -1: until link_items wake. */
long link_idle_ms(const struct link *link);

/* The socket and, when there is one, the monitor, to be polled. Returns how many. */
int link_items(const struct link *link, zmq_pollitem_t ret_items[2]);

#endif
