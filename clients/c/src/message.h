/* SPDX-License-Identifier: MIT */
/* message: one message of a trainer, copied, on its way into a socket, all or nothing.
 *
 * Made by the thread that publishes and from then on the sender's; the tensors' memory is freed by
 * ZeroMQ's thread. */
#ifndef CLIENTS_C_SRC_MESSAGE_H
#define CLIENTS_C_SRC_MESSAGE_H

#include "clients/c/src/parcel.h"
#include "clients/c/src/topics.h"

#include <stdatomic.h>
#include <zmq.h>

struct wire_message {
    struct wire_message *next; /* of the queue */
    struct topic *topic;       /* whose counters it has; not owned */
    struct header
        header; /* owns its lengths, values and label texts; seq, dropped and time when sent */
    char *label_texts; /* owned */
    uint64_t bytes;    /* of all tensors */
    zmq_msg_t tensors[TENSORS_MAX];
};

/* Copies a parcel. *queued_bytes has parcel->bytes added already; they are taken off when the
 * copies are freed, here on failure. It must outlive the ZeroMQ context. Returns 0, ATTN_E_MEMORY,
 * or ATTN_E_ARGUMENT when the header would be too large; labels that make it so are left out. */
int message_new(const struct parcel *parcel, _Atomic uint64_t *queued_bytes,
                struct wire_message **ret_message);
void message_free(struct wire_message *message);

/* Sends, without waiting, under header.seq and .dropped. On success the tensors are ZeroMQ's;
 * message_free is still due. Returns 0, ATTN_E_DROPPED when there was no room (and may be called
 * again), ATTN_E_TOO_LARGE when all frames together have more than bytes_max, ATTN_E_MEMORY or
 * ATTN_E_TRANSPORT. *reterr_cut_short: whether frames went out that
 * nothing can follow any more, so that the socket must be replaced. */
int message_send(void *socket, struct wire_message *message, uint64_t bytes_max,
                 bool *reterr_cut_short);

/* The message's topic: TOPIC_MAX bytes. */
void message_topic(const struct header *header, char *ret_name);

#endif
