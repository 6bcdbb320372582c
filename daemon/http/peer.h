/* SPDX-License-Identifier: MIT */
/* peer: the connections of the server, and how long each has been without a complete request. A
 * client that sends its request byte by byte is never idle to the server; here it is. HTTP
 * thread. */
#ifndef DAEMON_HTTP_PEER_H
#define DAEMON_HTTP_PEER_H

#include "daemon/http/whose.h"

#include <stdint.h>

struct peer {
    int fd;            /* of the server */
    uint64_t since_ns; /* when a request was last expected to begin; 0 = one is being answered */
    struct whose_peer whose; /* at the other end, when it connected */
    bool judged, may_ask;    /* whether that user may ask, once a request wanted to know */
    struct peer *next, *previous;
};

struct peers {
    struct peer *first;
    unsigned count;
};

/* A new connection, which expects a request. One whose other side does not acknowledge, or does not
 * read, what is sent to it ends after timeout_ns: an event stream has nothing else to notice it by.
 * NULL when out of memory: then nobody counts its time. */
struct peer *peer_add(struct peers *peers, int fd, struct whose_peer whose, uint64_t timeout_ns,
                      uint64_t now_ns);
/* Accepts NULL. */
void peer_remove(struct peers *peers, struct peer *peer);
/* A request is expected from now_ns on; 0: there is one. Accepts NULL. */
void peer_expect(struct peer *peer, uint64_t now_ns);
/* Shuts down the one that has sent no request for longest, if there is one: the others are answered
 * or read. */
void peers_make_room(const struct peers *peers);
/* Shuts down those that have not sent a whole request for timeout_ns; the server then ends them. */
void peers_cut(const struct peers *peers, uint64_t now_ns, uint64_t timeout_ns);

#endif
