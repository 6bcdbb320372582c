/* SPDX-License-Identifier: MIT */
/* The open descriptors say who is connected, over all libraries that own them: a connection that
 * was accepted has the local address of its listener. ZeroMQ itself would tell by events on a
 * socket per socket, which have to be read for ever and counted without a mistake. */
#include "daemon/idle.h"

#include "daemon/base/clock.h"

#include <dirent.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Looks IDLE_LOOKS times per limit, at least every IDLE_LOOK_MS. */
#define IDLE_LOOKS   8
#define IDLE_LOOK_MS 10000

struct idle {
    uv_timer_t timer;
    struct stats *stats;
    uint64_t limit_ns;
    uint64_t used_ns; /* when somebody was seen last */
    uint64_t used;    /* messages and requests by then */
    void (*on_idle)(void *data);
    void *data;
};

/* The port of a TCP socket, else 0. */
static in_port_t idle_port(const struct sockaddr_storage *address)
{
    switch (address->ss_family) {
    case AF_INET:
        return ((const struct sockaddr_in *)address)->sin_port;
    case AF_INET6:
        return ((const struct sockaddr_in6 *)address)->sin6_port;
    default:
        return 0;
    }
}

/* How a port is in use. */
enum { IDLE_LISTENS = 1, IDLE_CONNECTED = 2 };

/* Marks the port of a TCP socket. Returns whether it is a connection that a Unix socket has
 * accepted: others have no name. */
static bool idle_see(uint8_t ports[UINT16_MAX + 1], int fd)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof address, option_size = sizeof(int);
    int listens = 0;
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &option_size) != 0) {
        return false; /* no socket */
    }
    ports[idle_port(&address)] |= listens ? IDLE_LISTENS : IDLE_CONNECTED;
    return address.ss_family == AF_UNIX && !listens &&
           size > offsetof(struct sockaddr_un, sun_path);
}

bool idle_has_peers(void)
{
    uint8_t ports[UINT16_MAX + 1] = {0};
    bool found = false;
    DIR *descriptors = opendir("/proc/self/fd");
    if (!descriptors) {
        return true;
    }
    for (struct dirent *entry = readdir(descriptors); entry; entry = readdir(descriptors)) {
        if (entry->d_name[0] != '.') {
            found = idle_see(ports, atoi(entry->d_name)) || found;
        }
    }
    closedir(descriptors);
    for (int i = 1; i <= UINT16_MAX; i++) {
        found = found || ports[i] == (IDLE_LISTENS | IDLE_CONNECTED);
    }
    return found;
}

/* Counts clients, too, that came and went between two looks. */
static uint64_t idle_used(struct stats *stats)
{
    return stats_get(stats, COUNT_RECEIVED) + stats_get(stats, COUNT_REQUESTS) +
           stats_get(stats, COUNT_HTTP_REQUESTS);
}

static void idle_look(uv_timer_t *timer)
{
    struct idle *idle = timer->data;
    uint64_t now = clock_monotonic_ns(), used = idle_used(idle->stats);
    if (used != idle->used || idle_has_peers()) {
        idle->used = used;
        idle->used_ns = now;
    } else if (now - idle->used_ns >= idle->limit_ns) {
        uv_timer_stop(timer);
        idle->on_idle(idle->data);
    }
}

struct idle *idle_new(uv_loop_t *loop, struct stats *stats, uint64_t limit_ns,
                      void (*on_idle)(void *data), void *data)
{
    struct idle *idle = malloc(sizeof *idle);
    if (!idle) {
        return NULL;
    }
    uint64_t period_ms = limit_ns / IDLE_LOOKS / 1000000 + 1;
    *idle = (struct idle){.stats = stats,
                          .limit_ns = limit_ns,
                          .used_ns = clock_monotonic_ns(),
                          .used = idle_used(stats),
                          .on_idle = on_idle,
                          .data = data};
    period_ms = period_ms < IDLE_LOOK_MS ? period_ms : IDLE_LOOK_MS;
    uv_timer_init(loop, &idle->timer);
    idle->timer.data = idle;
    uv_timer_start(&idle->timer, idle_look, period_ms, period_ms);
    return idle;
}

static void idle_free(uv_handle_t *timer)
{
    free(timer->data);
}

void idle_close(struct idle **idle)
{
    if (*idle) {
        uv_close((uv_handle_t *)&(*idle)->timer, idle_free);
    }
    *idle = NULL;
}
