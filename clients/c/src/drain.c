/* SPDX-License-Identifier: MIT */
#include "clients/c/src/drain.h"

#include "clients/c/include/attn/attn.h"

#include <errno.h>
#include <stdio.h>

/* Taken in between two looks at whether to stop. */
#define MESSAGES_AT_ONCE 256

/* A frame takes this much besides its bytes. */
#define FRAME_BYTES 128

static uint64_t frame_cost(const zmq_msg_t *frame)
{
    return FRAME_BYTES + zmq_msg_size(frame);
}

/* Passes a message on, or drops all of it. Returns whether there was one. */
static bool pass_message(struct drain *drain)
{
    bool drop = atomic_load(&drain->waiting) >= drain->bytes_max, more = true;
    for (bool first = true; more; first = false) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, drain->link->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frame);
            return !first;
        }
        more = zmq_msg_more(&frame);
        /* On with it, unless its message is to be dropped, or is from here on. */
        uint64_t cost = frame_cost(&frame);
        int flags = ZMQ_DONTWAIT | (zmq_msg_more(&frame) ? ZMQ_SNDMORE : 0);
        if (!drop) {
            atomic_fetch_add(&drain->waiting, cost); /* before it can be taken */
            drop = zmq_msg_send(&frame, drain->inner, flags) < 0;
            if (drop) {
                atomic_fetch_sub(&drain->waiting, cost);
            }
        }
        zmq_msg_close(&frame);
    }
    if (drop) {
        atomic_fetch_add(&drain->dropped, 1);
    }
    return true;
}

static void *drain_run(void *data)
{
    struct drain *drain = data;
    zmq_pollitem_t items[3] = {{.socket = drain->inner, .events = ZMQ_POLLIN}};
    int count = 1 + link_items(drain->link, &items[1]);
    for (;;) {
        link_tend(drain->link);
        if (zmq_poll(items, count, link_idle_ms(drain->link)) < 0 && errno != EINTR) {
            return NULL;
        }
        if (items[0].revents) {
            return NULL;
        }
        for (int i = 0; i < MESSAGES_AT_ONCE && pass_message(drain); i++) {
            continue;
        }
    }
}

/* An end of the queue, with half of it: no use when it is closed. */
static int open_end(void *context, int messages, void **ret_socket)
{
    const struct socket_option options[] = {
        {ZMQ_LINGER, 0}, {ZMQ_SNDHWM, messages}, {ZMQ_RCVHWM, messages}};
    return socket_open(context, ZMQ_PAIR, options, 3, -1, ret_socket);
}

static void close_ends(struct drain *drain)
{
    if (drain->inner) {
        zmq_close(drain->inner);
    }
    if (drain->socket) {
        zmq_close(drain->socket);
    }
    drain->inner = drain->socket = NULL;
}

int drain_start(struct drain *ret_drain, void *context, struct link *link, int messages,
                uint64_t bytes_max)
{
    char name[64];
    *ret_drain = (struct drain){.link = link, .bytes_max = bytes_max};
    snprintf(name, sizeof name, "inproc://drain-%p", (void *)ret_drain);
    if (open_end(context, (messages + 1) / 2, &ret_drain->inner) == 0 &&
        open_end(context, (messages + 1) / 2, &ret_drain->socket) == 0 &&
        zmq_bind(ret_drain->inner, name) == 0 && zmq_connect(ret_drain->socket, name) == 0 &&
        socket_thread(&ret_drain->thread, drain_run, ret_drain) == 0) {
        return 0;
    }
    close_ends(ret_drain);
    return ATTN_E_TRANSPORT;
}

uint32_t drain_receive(struct drain *drain, zmq_msg_t *ret_frames, uint32_t most)
{
    uint32_t count = 0;
    bool more = true;
    while (more) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, drain->socket, ZMQ_DONTWAIT) < 0) {
            int error = errno;
            zmq_msg_close(&frame);
            if (error == EINTR) {
                continue;
            }
            return 0; /* the frames of a message come together */
        }
        atomic_fetch_sub(&drain->waiting, frame_cost(&frame));
        more = zmq_msg_more(&frame);
        if (count < most) {
            zmq_msg_init(&ret_frames[count]);
            zmq_msg_move(&ret_frames[count], &frame);
        }
        count++;
        zmq_msg_close(&frame);
    }
    return count;
}

void drain_stop(struct drain *drain)
{
    if (!drain->socket) {
        return;
    }
    zmq_send(drain->socket, "", 0, 0);
    pthread_join(drain->thread, NULL);
    close_ends(drain);
}
