/* SPDX-License-Identifier: MIT */
#include "daemon/http/peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <utlist.h>

struct peer *peer_add(struct peers *peers, int fd, struct whose_peer whose, uint64_t timeout_ns,
                      uint64_t now_ns)
{
    unsigned timeout_ms = (unsigned)(timeout_ns / 1000000);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    struct peer *peer = malloc(sizeof *peer);
    if (!peer) {
        return NULL;
    }
    *peer = (struct peer){.fd = fd, .whose = whose, .since_ns = now_ns};
    DL_PREPEND2(peers->first, peer, previous, next);
    peers->count++;
    return peer;
}

void peer_remove(struct peers *peers, struct peer *peer)
{
    if (!peer) {
        return;
    }
    DL_DELETE2(peers->first, peer, previous, next);
    peers->count--;
    free(peer);
}

void peer_expect(struct peer *peer, uint64_t now_ns)
{
    if (peer) {
        peer->since_ns = now_ns;
    }
}

/* It is not chosen again before the server has ended it. */
static void peer_cut(struct peer *peer)
{
    shutdown(peer->fd, SHUT_RDWR);
    peer->since_ns = 0;
}

void peers_make_room(const struct peers *peers)
{
    struct peer *idlest = NULL;
    for (struct peer *peer = peers->first; peer; peer = peer->next) {
        if (peer->since_ns != 0 && (!idlest || peer->since_ns < idlest->since_ns)) {
            idlest = peer;
        }
    }
    if (idlest) {
        peer_cut(idlest);
    }
}

void peers_cut(const struct peers *peers, uint64_t now_ns, uint64_t timeout_ns)
{
    for (struct peer *peer = peers->first; peer; peer = peer->next) {
        if (peer->since_ns != 0 && now_ns - peer->since_ns > timeout_ns) {
            peer_cut(peer);
        }
    }
}
