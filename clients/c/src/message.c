/* SPDX-License-Identifier: MIT */
/* ZeroMQ decides at the first frame whether a pipe has room, and then takes the whole message. So
 * everything that can fail happens before the first frame. Should a later one fail all the same,
 * the socket is replaced: closing it discards the half message.
 *
 * All tensors of a message are one piece of memory, which its frames share. */
#include "clients/c/src/message.h"

#include "proto/mpk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A tensor begins at a multiple of this within the piece. */
#define ALIGNMENT 64

/* ---- the copies ---- */

/* Freed by whoever lets go of it last: ZeroMQ's thread, at the latest in zmq_ctx_term. */
struct payload {
    _Atomic unsigned holders;
    _Atomic uint64_t *queued_bytes;
    uint64_t bytes;
    _Alignas(ALIGNMENT) char data[];
};

static void payload_release(void *data, void *hint)
{
    struct payload *payload = hint;
    (void)data;
    if (atomic_fetch_sub(&payload->holders, 1) > 1) {
        return;
    }
    atomic_fetch_sub(payload->queued_bytes, payload->bytes);
    free(payload);
}

static uint64_t message_aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* A frame that holds its part of the payload. */
static int add_frame(struct wire_message *message, struct payload *payload, char *data,
                     uint64_t bytes)
{
    zmq_msg_t *frame = &message->tensors[message->header.tensor_count];
    atomic_fetch_add(&payload->holders, 1);
    if (zmq_msg_init_data(frame, data, bytes, payload_release, payload) != 0) {
        atomic_fetch_sub(&payload->holders, 1);
        return ATTN_E_MEMORY;
    }
    message->header.tensor_count++;
    return 0;
}

static int copy_tensors(const struct parcel *parcel, _Atomic uint64_t *queued_bytes,
                        struct wire_message *message)
{
    uint64_t bytes = sizeof(struct payload);
    for (uint32_t i = 0; i < parcel->header.tensor_count; i++) {
        bytes += message_aligned(parcel->header.tensors[i].bytes);
    }
    struct payload *payload = aligned_alloc(ALIGNMENT, (size_t)message_aligned(bytes));
    if (!payload) {
        atomic_fetch_sub(queued_bytes, parcel->bytes);
        return ATTN_E_MEMORY;
    }
    payload->holders = 1;
    payload->queued_bytes = queued_bytes;
    payload->bytes = parcel->bytes;
    uint64_t at = 0;
    int rc = 0;
    for (uint32_t i = 0; i < parcel->header.tensor_count && !rc; i++) {
        parcel_copy(parcel, i, payload->data + at);
        rc = add_frame(message, payload, payload->data + at, parcel->header.tensors[i].bytes);
        at += message_aligned(parcel->header.tensors[i].bytes);
    }
    payload_release(NULL, payload);
    return rc;
}

/* ---- the header ---- */

/* On success the writer holds the map. */
static int message_encode(const struct header *header, struct mpk_writer *writer)
{
    if (header_encode(header, writer) != 0) {
        return ATTN_E_MEMORY;
    }
    /* Too large, or too many elements: only long arrays from the caller do that. */
    return mpk_check(writer->buffer.data, writer->buffer.size, &mpk_header_limits) == 0
               ? 0
               : ATTN_E_ARGUMENT;
}

/* With the longest numbers that may be written into it later. */
static int check_size(const struct header *header)
{
    struct header longest = *header;
    struct mpk_writer writer;
    longest.seq = longest.dropped = longest.time_ns = COUNT_MAX;
    mpk_writer_init(&writer);
    int rc = message_encode(&longest, &writer);
    mpk_writer_clear(&writer);
    return rc;
}

/* Without arrays a header is a few hundred bytes. Labels that cannot fit are not looked at. */
static int fit_header(const struct header *from, struct header *ret_header)
{
    *ret_header = *from;
    if (from->label_count > HEADER_BYTES_MAX) {
        ret_header->label_count = 0;
    }
    if (!from->q_len && !from->k_len && ret_header->label_count == 0) {
        return 0;
    }
    int rc = check_size(ret_header);
    if (rc == ATTN_E_ARGUMENT && ret_header->label_count > 0) {
        ret_header->label_count = 0;
        rc = check_size(ret_header);
    }
    return rc;
}

static int copy_header(const struct parcel *parcel, struct wire_message *message)
{
    struct header *copy = &message->header, fitting;
    int rc = fit_header(&parcel->header, &fitting);
    size_t lengths = fitting.batch * sizeof *copy->q_len;
    *copy = fitting;
    copy->tensor_count = 0; /* until they are there */
    copy->label_count = 0;
    copy->q_len = !rc && fitting.q_len ? malloc(lengths) : NULL;
    copy->k_len = !rc && fitting.k_len ? malloc(lengths) : NULL;
    if (rc) {
        return rc;
    }
    if ((fitting.q_len && !copy->q_len) || (fitting.k_len && !copy->k_len)) {
        return ATTN_E_MEMORY;
    }
    /* Valid lengths of the rows that are taken. */
    for (uint32_t i = 0; copy->q_len && i < fitting.batch; i++) {
        int64_t left = (int64_t)fitting.q_len[i] - parcel->row;
        int64_t rows = left < 0 ? 0 : (left + parcel->stride - 1) / parcel->stride;
        copy->q_len[i] = (int32_t)(rows > fitting.queries ? fitting.queries : rows);
    }
    if (copy->k_len) {
        memcpy(copy->k_len, fitting.k_len, lengths);
    }
    /* One piece: pointers, then what they point to. */
    size_t bytes = fitting.label_count * sizeof(char *);
    const char **labels;
    char *text;
    if (fitting.label_count == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < fitting.label_count; i++) {
        bytes += strlen(fitting.labels[i]) + 1;
    }
    message->label_texts = malloc(bytes);
    if (!message->label_texts) {
        return ATTN_E_MEMORY;
    }
    labels = (const char **)(void *)message->label_texts;
    text = message->label_texts + fitting.label_count * sizeof(char *);
    for (uint32_t i = 0; i < fitting.label_count; i++) {
        labels[i] = strcpy(text, fitting.labels[i]);
        text += strlen(text) + 1;
    }
    message->header.labels = labels;
    message->header.label_count = fitting.label_count;
    return 0;
}

/* ---- life ---- */

int message_new(const struct parcel *parcel, _Atomic uint64_t *queued_bytes,
                struct wire_message **ret_message)
{
    struct wire_message *message = calloc(1, sizeof *message);
    int rc = message ? copy_header(parcel, message) : ATTN_E_MEMORY;
    if (rc) {
        atomic_fetch_sub(queued_bytes, parcel->bytes);
    } else if (parcel->header.tensor_count > 0) {
        rc = copy_tensors(parcel, queued_bytes, message);
    }
    if (rc) {
        message_free(message);
        return rc;
    }
    message->bytes = parcel->bytes;
    *ret_message = message;
    return 0;
}

void message_free(struct wire_message *message)
{
    if (!message) {
        return;
    }
    for (uint32_t i = 0; i < message->header.tensor_count; i++) {
        zmq_msg_close(&message->tensors[i]);
    }
    free(message->header.q_len);
    free(message->header.k_len);
    named_clear(&message->header.values);
    free(message->label_texts);
    free(message);
}

/* ---- sending ---- */

void message_topic(const struct header *header, char *ret_name)
{
    if (header->type == MESSAGE_EVENT) {
        topic_job("event", header->job, ret_name);
    } else {
        topic_layer("tensor", header->job, header->layer, ret_name);
    }
}

static int message_send_frame(void *socket, zmq_msg_t *frame, bool more)
{
    int rc;
    do {
        rc = zmq_msg_send(frame, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -1 : 0;
}

static int make_frame(zmq_msg_t *ret_frame, const void *data, size_t len)
{
    if (zmq_msg_init_size(ret_frame, len) != 0) {
        return ATTN_E_MEMORY;
    }
    memcpy(zmq_msg_data(ret_frame), data, len);
    return 0;
}

/* The frames before the tensors, owned by the caller. Returns 0, ATTN_E_MEMORY or ATTN_E_ARGUMENT.
 */
static int message_head(const struct header *header, zmq_msg_t *ret_topic, zmq_msg_t *ret_header)
{
    struct mpk_writer writer;
    char name[TOPIC_MAX];
    mpk_writer_init(&writer);
    int rc = message_encode(header, &writer);
    if (!rc) {
        rc = make_frame(ret_header, writer.buffer.data, writer.buffer.size);
    }
    mpk_writer_clear(&writer);
    if (rc) {
        return rc;
    }
    message_topic(header, name);
    rc = make_frame(ret_topic, name, strlen(name));
    if (rc) {
        zmq_msg_close(ret_header);
    }
    return rc;
}

int message_send(void *socket, struct wire_message *message, uint64_t bytes_max,
                 bool *reterr_cut_short)
{
    uint32_t tensors = message->header.tensor_count, sent = 0;
    zmq_msg_t topic, header;
    int rc = message_head(&message->header, &topic, &header);
    bool begun = false;
    if (rc) {
        return rc;
    }
    if (zmq_msg_size(&topic) + zmq_msg_size(&header) + message->bytes > bytes_max) {
        rc = ATTN_E_TOO_LARGE;
    } else if (message_send_frame(socket, &topic, true) != 0) {
        rc = errno == EAGAIN ? ATTN_E_DROPPED : ATTN_E_TRANSPORT;
    } else {
        begun = true;
        rc = message_send_frame(socket, &header, tensors > 0);
        for (; sent < tensors && !rc; sent++) {
            rc = message_send_frame(socket, &message->tensors[sent], sent + 1 < tensors);
        }
    }
    zmq_msg_close(&topic); /* empty once sent */
    zmq_msg_close(&header);
    if (rc && begun) {
        *reterr_cut_short = true;
        rc = ATTN_E_TRANSPORT;
    }
    return rc;
}
