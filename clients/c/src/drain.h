/* SPDX-License-Identifier: MIT */
/* drain: a thread that reads a reader's socket all the time, and passes its messages on.
 *
 * A receive queue without a limit (socket.h says why it has none) must always be read, but the user
 * of the messages may take its time. So the thread hands them over through a queue within the
 * process, which may have a limit: no connection ends there. Beyond it messages are dropped and
 * counted. */
#ifndef CLIENTS_C_SRC_DRAIN_H
#define CLIENTS_C_SRC_DRAIN_H

#include "clients/c/src/link.h"

#include <pthread.h>
#include <stdatomic.h>

struct drain {
    void *socket; /* to receive from; NULL: not started */
    void *inner;  /* the thread's end */
    struct link *link;
    pthread_t thread;
    uint64_t bytes_max;
    _Atomic uint64_t waiting; /* bytes passed on and not taken */
    _Atomic uint64_t dropped; /* messages */
};

/* The link, whose socket has subscribed, is the thread's from here on, until drain_stop; both
 * outlive it. About `messages` are kept (0: any number), and bytes_max bytes and one message.
 * Returns 0 or an error of attn.h, and then nothing is to be stopped. */
int drain_start(struct drain *ret_drain, void *context, struct link *link, int messages,
                uint64_t bytes_max);
/* Takes a message from drain->socket: its first `most` frames, which are the caller's to close.
 * Returns how many it has; 0: none is there. */
uint32_t drain_receive(struct drain *drain, zmq_msg_t *ret_frames, uint32_t most);
/* Ends the thread, and closes what drain_start made. Accepts one that was not started. */
void drain_stop(struct drain *drain);

#endif
