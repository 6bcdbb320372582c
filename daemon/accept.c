/* SPDX-License-Identifier: MIT */
/* accept4 as libzmq calls it in attnd: the program's own symbol comes before that of the C library.
 *
 * The last descriptors are kept for attnd itself: a connection that gets one of them is closed. The
 * peer sees a connection that ends, and tries again later. If the last ones are used up, too, or
 * the whole system has none, accepting pauses, and libzmq never sees that error
 * (base/README.md, "Asserts of libzmq"). */
#include "daemon/accept.h"

#include "daemon/base/log.h"
#include "daemon/base/stats.h"
#include "daemon/base/unfinished.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEPT_BACK 16
#define PAUSE_MS  10

/* By this name to the linker: headers declare the other one with types of their own. */
__attribute__((visibility("default"))) int accept_or_refuse(int fd, struct sockaddr *address,
                                                            socklen_t *size,
                                                            int flags) __asm__("accept4");

static _Atomic(struct stats *) counted;

void accept_count(struct stats *stats)
{
    atomic_store(&counted, stats);
}

/* The lowest free number is given out first. */
static bool is_kept_back(int fd)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > KEPT_BACK &&
           (rlim_t)fd >= limit.rlim_cur - KEPT_BACK;
}

static void say_refused(void)
{
    struct stats *stats = atomic_load(&counted);
    uint64_t before =
        stats ? atomic_fetch_add(&stats->counter[COUNT_CONNECTIONS_BEYOND], 1) : UINT64_MAX;
    if (stats && log_is_round(before)) {
        log_event(LOG_WARNING, "descriptors_used_up", LOG_NUM("count", before + 1),
                  LOG_STR("detail", "attnd has as many descriptors as it may (LimitNOFILE, ulimit "
                                    "-n): others wait until some connections end"));
    }
}

int accept_or_refuse(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    int peer = (int)syscall(SYS_accept4, fd, address, size, flags);
    if (peer < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        poll(NULL, 0, PAUSE_MS);
    } else if (peer >= 0 && is_kept_back(peer)) {
        close(peer);
    } else {
        if (peer >= 0) {
            unfinished_accepted(peer);
        }
        return peer;
    }
    say_refused();
    errno = ECONNABORTED; /* which libzmq takes for a peer that has gone */
    return -1;
}
