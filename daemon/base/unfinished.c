/* SPDX-License-Identifier: MIT */
/* A frame takes 64 bytes in libzmq, or more than its own bytes, and at least 2 on the wire. Large
 * frames are read into their own memory; of what is read in small pieces each byte counts as 32. */
#include "daemon/base/unfinished.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/stalled.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SMALL_PIECE  8192 /* libzmq's buffer */
#define SMALL_WEIGHT 32
#define LEAST        (UINT64_C(4) << 20) /* a message of 16 such pieces passes */
#define PATIENCE_NS  UINT64_C(500000000)
#define PAUSE_MS     1

/* A connection of libzmq's, by its descriptor. */
struct unfinished_peer {
    _Atomic uint64_t cookie; /* the kernel's name of the connection; 0: there is none */
    _Atomic uint64_t bytes, since_ns;
};

static struct unfinished_peer peers[UNFINISHED_DESCRIPTORS];
static _Atomic int peers_end; /* behind the highest descriptor */
static _Atomic uint64_t together, most = UINT64_MAX;
static _Atomic uint64_t full_since_ns; /* together exceeds most, or did and is not half of it yet */
static _Atomic(struct stats *) counted;

/* By this name to the linker, as in ../accept.c. */
__attribute__((visibility("default"))) ssize_t recv_or_wait(int fd, void *data, size_t size,
                                                            int flags) __asm__("recv");

void unfinished_limit(uint64_t bytes, struct stats *stats)
{
    atomic_store(&counted, stats);
    atomic_store(&most, bytes < LEAST ? LEAST : bytes);
}

static struct unfinished_peer *peer_of(int fd)
{
    bool known = fd >= 0 && fd < UNFINISHED_DESCRIPTORS && atomic_load(&peers[fd].cookie);
    return known ? &peers[fd] : NULL;
}

static void forget_bytes(struct unfinished_peer *peer)
{
    atomic_fetch_sub(&together, atomic_exchange(&peer->bytes, 0));
}

void unfinished_accepted(int fd)
{
    char name[16] = "";
    if (fd >= UNFINISHED_DESCRIPTORS) {
        return;
    }
    pthread_getname_np(pthread_self(), name, sizeof name);
    forget_bytes(&peers[fd]);
    atomic_store(&peers[fd].cookie, strstr(name, "ZMQ") ? connection_cookie(fd) : 0);
    int end = atomic_load(&peers_end);
    while (fd >= end && !atomic_compare_exchange_weak(&peers_end, &end, fd + 1)) {
    }
}

void unfinished_taken(zmq_msg_t *frame)
{
    struct unfinished_peer *peer = peer_of(zmq_msg_get(frame, ZMQ_SRCFD));
    if (peer && atomic_load(&peer->bytes) > 0) {
        forget_bytes(peer);
    }
}

static void end_connection(int fd)
{
    struct stats *stats = atomic_load(&counted);
    uint64_t bytes = atomic_load(&peers[fd].bytes);
    forget_bytes(&peers[fd]);
    if (!connection_end(fd, atomic_load(&peers[fd].cookie))) {
        atomic_store(&peers[fd].cookie, 0); /* it has ended */
        return;
    }
    uint64_t before = atomic_fetch_add(&stats->counter[COUNT_UNFINISHED_CUT], 1);
    if (log_is_round(before)) {
        log_event(LOG_WARNING, "unfinished_cut", LOG_NUM("count", before + 1),
                  LOG_NUM("bytes", bytes),
                  LOG_STR("detail", "a peer has not finished its message, and such messages take "
                                    "more memory than ingest.budget: its connection was ended"));
    }
}

/* Whether there is room to read more. It may lack because attnd stood still: then messages are
 * taken now, and nobody is ended before PATIENCE_NS. */
static bool has_room(void)
{
    uint64_t limit = atomic_load(&most), bytes = atomic_load(&together);
    if (bytes <= limit) {
        if (bytes <= limit / 2) {
            atomic_store(&full_since_ns, 0);
        }
        return true;
    }
    uint64_t now_ns = clock_monotonic_ns(), none = 0;
    atomic_compare_exchange_strong(&full_since_ns, &none, now_ns);
    if (none == 0 || now_ns - none < PATIENCE_NS) {
        return false;
    }
    while (atomic_load(&together) > limit) {
        /* The one that has taken longest, and longer than PATIENCE_NS, of those that hold as much
         * as the average: some always do. -1: none has taken so long yet. */
        int slowest = -1, end = atomic_load(&peers_end);
        uint64_t since_ns = now_ns - PATIENCE_NS, average = atomic_load(&together) / (uint64_t)end;
        for (int fd = 0; fd < end; fd++) {
            struct unfinished_peer *peer = peer_of(fd);
            if (peer && atomic_load(&peer->bytes) >= average &&
                atomic_load(&peer->since_ns) < since_ns) {
                since_ns = atomic_load(&peer->since_ns);
                slowest = fd;
            }
        }
        if (slowest < 0) {
            return false;
        }
        end_connection(slowest);
    }
    return true;
}

ssize_t recv_or_wait(int fd, void *data, size_t size, int flags)
{
    struct unfinished_peer *peer = peer_of(fd);
    if (peer && !has_room()) {
        poll(NULL, 0, PAUSE_MS);
        errno = EAGAIN;
        return -1;
    }
    ssize_t got = syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);
    if (peer && got > 0) {
        uint64_t bytes = (uint64_t)got * (size > SMALL_PIECE ? 1 : SMALL_WEIGHT);
        if (atomic_load(&peer->bytes) == 0) {
            atomic_store(&peer->since_ns, clock_monotonic_ns());
        }
        atomic_fetch_add(&together, bytes);
        atomic_fetch_add(&peer->bytes, bytes);
    } else if (peer && (got == 0 || (errno != EAGAIN && errno != EINTR))) {
        forget_bytes(peer);
    }
    return got;
}
