/* SPDX-License-Identifier: MIT */
#include "message.h"

#include "attn/attn.h"
#include "mpk.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* A tensor's copy. ZeroMQ's thread frees it, at the latest in zmq_ctx_term: the publisher outlives
 * it. */
struct payload {
    _Atomic uint64_t *queued_bytes;
    uint64_t bytes;
    max_align_t data[];
};

static void free_payload(void *data, void *hint)
{
    struct payload *payload = hint;

    (void)data;
    atomic_fetch_sub(payload->queued_bytes, payload->bytes);
    free(payload);
}

static void message_close(struct message *message)
{
    for (unsigned i = 0; i < message->count; i++)
        zmq_msg_close(&message->frames[i]);
    message->count = 0;
}

static int message_add(struct message *message, const void *data, size_t len)
{
    zmq_msg_t *frame = &message->frames[message->count];

    if (zmq_msg_init_size(frame, len) != 0)
        return ATTN_E_MEMORY;
    memcpy(zmq_msg_data(frame), data, len);
    message->count++;
    return 0;
}

/* Reserves a frame for a tensor that is copied later. */
static int message_reserve(struct message *message, uint64_t bytes, const void *source,
                           _Atomic uint64_t *queued_bytes)
{
    struct payload *payload = malloc(sizeof(*payload) + bytes);

    if (!payload)
        return ATTN_E_MEMORY;
    payload->queued_bytes = queued_bytes;
    payload->bytes = bytes;
    if (zmq_msg_init_data(&message->frames[message->count], payload->data, bytes, free_payload,
                          payload) != 0) {
        free(payload);
        return ATTN_E_MEMORY;
    }
    atomic_fetch_add(queued_bytes, bytes);
    message->source[message->count - 2] = source;
    message->count++;
    return 0;
}

static int add_header(struct message *message, const struct header *header)
{
    struct mpk_writer writer;
    int rc = ATTN_E_MEMORY;

    mpk_writer_init(&writer);
    if (header_encode(header, &writer) == 0) {
        /* Too large, or too many elements: only long arrays from the caller do that. */
        rc = ATTN_E_ARGUMENT;
        if (mpk_check(writer.buffer.data, writer.buffer.size, &mpk_header_limits) == 0)
            rc = message_add(message, writer.buffer.data, writer.buffer.size);
    }
    mpk_writer_clear(&writer);
    return rc;
}

int message_make(const char *topic, const struct header *header, const void *const *sources,
                 _Atomic uint64_t *queued_bytes, struct message *ret_message)
{
    int rc;

    ret_message->count = 0;
    rc = message_add(ret_message, topic, strlen(topic));
    if (!rc)
        rc = add_header(ret_message, header);
    for (uint32_t i = 0; i < header->tensor_count && !rc; i++)
        rc = message_reserve(ret_message, header->tensors[i].bytes, sources[i], queued_bytes);
    if (rc)
        message_close(ret_message);
    return rc;
}

static int send_frame(void *socket, zmq_msg_t *frame, int more)
{
    int rc;

    do
        rc = zmq_msg_send(frame, socket, ZMQ_DONTWAIT | more);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -1 : 0;
}

int message_send(void *socket, struct message *message, bool *reterr_cut_short)
{
    unsigned sent = 0;
    int rc = 0;

    while (sent < message->count && !rc) {
        zmq_msg_t *frame = &message->frames[sent];

        if (sent >= 2)
            memcpy(zmq_msg_data(frame), message->source[sent - 2], zmq_msg_size(frame));
        rc = send_frame(socket, frame, sent + 1 < message->count ? ZMQ_SNDMORE : 0);
        if (!rc)
            sent++;
    }
    if (!rc)
        return 0;
    rc = errno == EAGAIN && sent == 0 ? ATTN_E_DROPPED : ATTN_E_TRANSPORT;
    for (unsigned i = sent; i < message->count; i++)
        zmq_msg_close(&message->frames[i]);
    *reterr_cut_short = sent > 0;
    return rc;
}
