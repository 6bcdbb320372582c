/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/share.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* With more all sources are forgotten, and their next messages count for the jobs that they name.
 */
#define SOURCES_MAX 65536

/* Where messages come from, and whom they count for as long as that has something in flight. */
struct share_source {
    int64_t peer;
    struct ingest_share *share;
    UT_hash_handle hh;
};

/* A process, or below 0 a connection; 0: neither, a message that did not come from a socket. A
 * connection that has ended is one of its own. */
static int64_t share_peer(struct message *message)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    int fd = zmq_msg_get(&message->frames[0], ZMQ_SRCFD);
    if (fd < 0) {
        return 0;
    }
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0;
    return known ? peer.pid : -(int64_t)fd - 1;
}

static void share_forget_sources(struct shares *shares, bool all)
{
    struct share_source *source, *next;
    HASH_ITER(hh, shares->sources, source, next)
    {
        if (all || source->share->idle) {
            HASH_DEL(shares->sources, source);
            free(source);
        }
    }
}

/* Nothing but the thread that calls this makes them busy. */
static void share_forget_idle(struct shares *shares)
{
    struct ingest_share *share, *next;
    for (share = shares->by_payer; share; share = share->hh.next) {
        share->idle = atomic_load(&share->held[0]) == 0 && atomic_load(&share->held[1]) == 0 &&
                      inbox_is_read(shares->inbox, &share->line);
    }
    share_forget_sources(shares, HASH_COUNT(shares->sources) >= SOURCES_MAX);
    HASH_ITER(hh, shares->by_payer, share, next)
    {
        if (share->idle) {
            atomic_fetch_sub(&shares->scratch, share->scratch);
            HASH_DEL(shares->by_payer, share);
            free(share);
        }
    }
}

static struct share_source *share_find_source(const struct shares *shares, int64_t peer)
{
    struct share_source *source = NULL;
    HASH_FIND(hh, shares->sources, &peer, sizeof peer, source);
    return source;
}

struct ingest_share *share_find(const struct shares *shares, const struct message *message)
{
    const char *payer = message->sender ? message->sender : message->header.job;
    struct ingest_share *share = NULL;
    HASH_FIND_STR(shares->by_payer, payer, share);
    return share;
}

static struct ingest_share *share_add(struct shares *shares, const char *payer)
{
    struct ingest_share *share = calloc(1, sizeof *share);
    if (!share) {
        return NULL;
    }
    strcpy(share->payer, payer);
    HASH_ADD_STR(shares->by_payer, payer, share);
    if (!share->hh.tbl) {
        free(share);
        return NULL;
    }
    return share;
}

/* Without memory for that its messages count for the jobs that they name. */
static void share_add_source(struct shares *shares, int64_t peer, struct ingest_share *share)
{
    struct share_source *source = calloc(1, sizeof *source);
    if (!source) {
        return;
    }
    source->peer = peer;
    source->share = share;
    HASH_ADD(hh, shares->sources, peer, sizeof source->peer, source);
    if (!source->hh.tbl) {
        free(source);
    }
}

struct ingest_share *share_put(struct shares *shares, struct message *message,
                               struct ingest_share **ret_payer)
{
    int64_t peer = message->sender ? 0 : share_peer(message);
    struct share_source *source = share_find_source(shares, peer);
    struct ingest_share *own = share_find(shares, message);
    if (!own || (peer != 0 && !source)) {
        share_forget_idle(shares);
        source = share_find_source(shares, peer);
        own = share_find(shares, message);
    }
    own = own ? own : share_add(shares, message->sender ? message->sender : message->header.job);
    if (own && peer != 0 && !source) {
        share_add_source(shares, peer, own);
    }
    *ret_payer = source ? source->share : own;
    return own;
}

void share_free_all(struct shares *shares)
{
    struct ingest_share *share, *next;
    share_forget_sources(shares, true);
    HASH_ITER(hh, shares->by_payer, share, next)
    {
        HASH_DEL(shares->by_payer, share);
        free(share);
    }
}
