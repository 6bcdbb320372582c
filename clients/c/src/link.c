/* SPDX-License-Identifier: MIT */
#include "clients/c/src/link.h"

#include "clients/c/include/attn/attn.h"
#include "clients/c/src/keys.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Between the end of a connection and the next look: what came before the end has come by then.
 * ZeroMQ waits as long before it connects again. */
#define SETTLE_MS 100
/* Days. Not -1: then ZeroMQ takes the connection away with all that was not read yet. */
#define NEVER_MS (1 << 29)

int link_name(const char *endpoint, const char *address, enum address_socket which,
              uint32_t look_every_ms, struct link_target *ret_target)
{
    char reason[ADDRESS_REASON_MAX];
    const char *runtime_dir = getenv("XDG_RUNTIME_DIR");
    struct link_target target = {.which = which, .look_every_ms = look_every_ms};
    if (endpoint && (address || !*endpoint || strlen(endpoint) >= ADDRESS_MAX)) {
        return ATTN_E_ARGUMENT;
    }
    if (!endpoint && (!address || !*address)) {
        address = getenv("ATTND_ADDRESS");
    }
    if (endpoint) {
        strcpy(target.endpoint, endpoint);
    } else if (address && *address &&
               address_endpoint(address, which, target.endpoint, reason) != 0) {
        return ATTN_E_ARGUMENT;
    }
    if (strncmp(target.endpoint, "tcp://", strlen("tcp://")) == 0 &&
        key_find(&target.keys, reason) != 0) {
        return ATTN_E_ARGUMENT;
    }
    if (runtime_dir && strlen(runtime_dir) < ADDRESS_MAX) {
        strcpy(target.runtime_dir, runtime_dir);
    }
    *ret_target = target;
    return 0;
}

/* From now on ZeroMQ says when a connection ends, and begins none. */
static int watch_connections(struct link *link, void *context)
{
    static const int never = NEVER_MS, unbounded = 0;
    static _Atomic unsigned count; /* a name that was used lives on for a moment */
    char name[32];
    snprintf(name, sizeof name, "inproc://link-%u", atomic_fetch_add(&count, 1));
    if (zmq_setsockopt(link->socket, ZMQ_RECONNECT_IVL, &never, sizeof never) != 0 ||
        zmq_socket_monitor(link->socket, name,
                           ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED |
                               ZMQ_EVENT_HANDSHAKE_SUCCEEDED)) {
        return ATTN_E_TRANSPORT;
    }
    link->monitor = zmq_socket(context, ZMQ_PAIR);
    if (!link->monitor) {
        return ATTN_E_TRANSPORT;
    }
    zmq_setsockopt(link->monitor, ZMQ_RCVHWM, &unbounded, sizeof unbounded);
    return zmq_connect(link->monitor, name) == 0 ? 0 : ATTN_E_TRANSPORT;
}

int link_open(struct link *ret_link, void *context, int type, const struct socket_option *options,
              size_t count, int64_t frame_bytes_max, const struct link_target *target)
{
    struct link link = {.target = *target, .connections = 1};
    int rc = socket_open(context, type, options, count, frame_bytes_max, &link.socket);
    if (rc) {
        return rc;
    }
    strcpy(link.endpoint, target->endpoint);
    if (!*target->endpoint || (target->tell && keys_are_for(&target->keys, target->endpoint))) {
        rc = watch_connections(&link, context);
    }
    if (!rc && *link.endpoint && keys_connect(link.socket, &target->keys, link.endpoint) != 0) {
        rc = ATTN_E_TRANSPORT;
    }
    if (rc) {
        int error = errno;
        link_close(&link);
        errno = error;
        return rc;
    }
    link_tend(&link);
    *ret_link = link;
    return 0;
}

int link_subscribe(struct link *ret_link, void *context, const char *topic, int64_t frame_bytes_max,
                   const struct link_target *target)
{
    static const struct socket_option options[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_TCP_KEEPALIVE_IDLE, 5},
        {ZMQ_TCP_KEEPALIVE_INTVL, 5},
        {ZMQ_TCP_KEEPALIVE_CNT, 2},
        {ZMQ_RECONNECT_IVL, 100},
        {ZMQ_RECONNECT_IVL_MAX, 2000},
    };
    int rc = link_open(ret_link, context, ZMQ_SUB, options, sizeof options / sizeof options[0],
                       frame_bytes_max, target);
    if (rc == 0 && zmq_setsockopt(ret_link->socket, ZMQ_SUBSCRIBE, topic, strlen(topic)) != 0) {
        rc = ATTN_E_TRANSPORT;
        link_close(ret_link);
    }
    return rc;
}

void link_close(struct link *link)
{
    if (link->monitor) {
        zmq_socket_monitor(link->socket, NULL, 0);
        zmq_close(link->monitor);
    }
    if (link->socket) {
        zmq_close(link->socket);
    }
    link->socket = link->monitor = NULL;
}

/* Tells, once each time, that attnd does not let the keys in, and that it does again. */
static void tell_of_keys(struct link *link, uint64_t now)
{
    const struct link_target *target = &link->target;
    char sentence[ADDRESS_REASON_MAX];
    if (!target->tell || !*target->endpoint || link->refused == !link->let_in) {
        return;
    }
    if (link->let_in) {
        snprintf(sentence, sizeof sentence, "attnd at %.255s lets this client in again",
                 target->endpoint);
    } else {
        if (now < link->knock_ms) {
            return;
        }
        link->knock_ms = now + target->look_every_ms;
        if (keys_try(&target->keys, target->which, target->endpoint, sentence) != KEYS_WRONG) {
            return;
        }
    }
    link->refused = !link->let_in;
    target->tell(target->data, sentence);
}

static bool has_unread(const struct link *link)
{
    int events = 0;
    size_t size = sizeof events;
    zmq_getsockopt(link->socket, ZMQ_EVENTS, &events, &size);
    return events & ZMQ_POLLIN;
}

void link_tend(struct link *link)
{
    char reason[ADDRESS_REASON_MAX];
    uint64_t now = socket_now_ms();
    if (!link->monitor) {
        return;
    }
    /* Events are reported for one connection at a time; all but a handshake's end it. */
    char frame[ADDRESS_MAX];
    while (zmq_recv(link->monitor, frame, sizeof frame, ZMQ_DONTWAIT) >= 0) {
        uint16_t event;
        memcpy(&event, frame, sizeof event);
        zmq_recv(link->monitor, frame, sizeof frame, 0); /* the address */
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            link->let_in = true;
            tell_of_keys(link, now);
            continue;
        }
        if (!link->ended && link->look_ms < now + SETTLE_MS) {
            link->look_ms = now + SETTLE_MS;
        }
        link->ended = true;
    }
    if (link_is_up(link) || now < link->look_ms || has_unread(link)) {
        return;
    }
    if (*link->endpoint) {
        zmq_disconnect(link->socket, link->endpoint);
    }
    if (!link->let_in) {
        tell_of_keys(link, now);
    }
    link->ended = link->let_in = false;
    link->look_ms =
        now + (*link->target.endpoint && !link->refused ? SETTLE_MS : link->target.look_every_ms);
    if (*link->target.endpoint) {
        keys_connect(link->socket, &link->target.keys, link->endpoint);
    } else if (address_search(link->target.runtime_dir, link->target.which, link->endpoint,
                              reason) != 0 ||
               zmq_connect(link->socket, link->endpoint) != 0) {
        *link->endpoint = '\0';
    }
    link->connections++;
}

bool link_is_up(const struct link *link)
{
    return *link->endpoint && !link->ended;
}

long link_idle_ms(const struct link *link)
{
    uint64_t now = socket_now_ms();
    if (!link->monitor || link_is_up(link)) {
        return -1;
    }
    return link->look_ms > now ? (long)(link->look_ms - now) : 0;
}

int link_items(const struct link *link, zmq_pollitem_t ret_items[2])
{
    ret_items[0] = (zmq_pollitem_t){.socket = link->socket, .events = ZMQ_POLLIN};
    ret_items[1] = (zmq_pollitem_t){.socket = link->monitor, .events = ZMQ_POLLIN};
    return link->monitor ? 2 : 1;
}

int link_wait(struct link *link, long timeout_ms)
{
    zmq_pollitem_t items[2];
    int count = link_items(link, items);
    link_tend(link);
    long idle_ms = link_idle_ms(link);
    if (idle_ms >= 0 && (timeout_ms < 0 || idle_ms < timeout_ms)) {
        timeout_ms = idle_ms;
    }
    if (zmq_poll(items, count, timeout_ms) < 0) {
        return errno == EINTR ? 0 : ATTN_E_TRANSPORT;
    }
    return (items[0].revents & ZMQ_POLLIN) != 0;
}
