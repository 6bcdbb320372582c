/* SPDX-License-Identifier: MIT */
/* unread: what the peers of a socket were sent and have not read, bounded by publish.budget. A body
 * is one block, whoever it is for, which ZeroMQ frees when the last peer has had it: until then its
 * bytes count. Above a part of the budget one looks for peers that do not read, and from half of it
 * on they are cut off (stalled.h); in the meantime the other half is for those that do. Loop thread
 * only. */
#ifndef DAEMON_BASE_UNREAD_H
#define DAEMON_BASE_UNREAD_H

#include "daemon/base/keys.h"
#include "daemon/base/stalled.h"

#include <uv.h>

/* Each has a budget of its own, counted in the process: bodies outlive whoever sent them. */
enum unread_kind { UNREAD_RESULTS, UNREAD_ANSWERS, UNREAD_KINDS };

/* Whoever has one fills in the fields down to `stats`, whose targets it borrows. */
struct unread {
    enum unread_kind kind;
    const struct config *config;
    const char *service, *endpoint; /* "publish", and where its peers are accepted */
    struct keyring *keys;           /* NULL: there are none */
    struct stats *stats;
    uv_timer_t timer;
    struct stalled *stalled;
    uint64_t cut_ns;
    void (*closed)(void *owner);
    void *owner;
};

void unread_start(struct unread *unread, uv_loop_t *loop);
/* A part of a value. */
struct unread_piece {
    const void *bytes;
    size_t size;
};

/* A body with a copy of the pieces, one after the other. Returns 0, or -1: no memory, or nothing
 * left of the budget. A body that is larger than it goes when it is alone. */
int unread_make(struct unread *unread, const struct unread_piece *pieces, int count,
                zmq_msg_t *ret_body);
/* Calls `closed` once its timer is closed. */
void unread_close(struct unread *unread, void (*closed)(void *owner), void *owner);

#endif
