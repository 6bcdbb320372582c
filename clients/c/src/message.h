/* SPDX-License-Identifier: MIT */
/* message: one multipart message of a trainer on its way into a socket, all or nothing.
 *
 * message_make does everything that can fail for lack of memory; the tensors are copied while it is
 * sent, after the first frame was accepted, because a message that is refused need not be copied.
 * One thread; only the copies are freed by ZeroMQ's. */
#ifndef ATTN_MESSAGE_H
#define ATTN_MESSAGE_H

#include "header.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <zmq.h>

struct message {
    zmq_msg_t frames[2 + TENSORS_MAX];
    const void *source[TENSORS_MAX]; /* what frame 2 + i is a copy of */
    unsigned count;                  /* frames initialised */
};

/* sources[i] belongs to header->tensors[i] and is read by message_send. *queued_bytes counts the
 * copies that are not freed yet, and must outlive the ZeroMQ context. Returns 0, ATTN_E_MEMORY, or
 * ATTN_E_ARGUMENT when the header would be too large. */
int message_make(const char *topic, const struct header *header, const void *const *sources,
                 _Atomic uint64_t *queued_bytes, struct message *ret_message);

/* Sends and closes a message, without waiting. Returns 0, ATTN_E_DROPPED when there was no room, or
 * ATTN_E_TRANSPORT. *reterr_cut_short: whether frames went out that nothing can follow any more, so
 * that the socket must be replaced. */
int message_send(void *socket, struct message *message, bool *reterr_cut_short);

#endif
