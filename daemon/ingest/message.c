/* SPDX-License-Identifier: MIT */
#include "daemon/ingest/message.h"

#include "daemon/base/unfinished.h"
#include "proto/err.h"
#include "proto/memory.h"
#include "proto/mpk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Takes the frame over: keeps it, or discards it when there are too many. */
static void take_frame(struct message *message, zmq_msg_t *frame)
{
    message->bytes += zmq_msg_size(frame);
    message->frames_seen++;
    if (message->frame_count == MESSAGE_FRAMES_MAX) {
        zmq_msg_close(frame);
        return;
    }
    zmq_msg_t *slot = &message->frames[message->frame_count++];
    zmq_msg_init(slot);
    zmq_msg_move(slot, frame);
    zmq_msg_close(frame);
}

int message_receive_frame(zmq_msg_t *frame, void *socket)
{
    int rc;
    do {
        rc = zmq_msg_recv(frame, socket, 0);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

/* Once the first frame is here the others are too: ZeroMQ delivers whole messages. */
static int receive_frames(void *socket, struct message *message, bool more)
{
    while (more) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        if (message_receive_frame(&frame, socket) < 0) {
            zmq_msg_close(&frame);
            return ERR_CLOSED;
        }
        more = zmq_msg_more(&frame);
        if (message) {
            take_frame(message, &frame);
        } else {
            zmq_msg_close(&frame);
        }
    }
    return 0;
}

/* `message` may be NULL: what comes is thrown away. */
static int receive_finish(void *socket, struct message *message, bool more,
                          struct message **ret_message)
{
    int code = receive_frames(socket, message, more);
    if (!message) {
        return code ? code : ERR_MEMORY;
    }
    if (code) {
        message_free(&message);
        return code;
    }
    message->cost = message->bytes + sizeof *message;
    *ret_message = message;
    return 0;
}

int message_receive(void *socket, struct message **ret_message)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) < 0) {
        int code = errno == EAGAIN || errno == EINTR ? ERR_AGAIN : ERR_CLOSED;
        zmq_msg_close(&frame);
        return code;
    }
    struct message *message = calloc(1, sizeof *message);
    bool more = zmq_msg_more(&frame);
    unfinished_taken(&frame);
    if (message) {
        take_frame(message, &frame);
    } else {
        zmq_msg_close(&frame);
    }
    return receive_finish(socket, message, more, ret_message);
}

int message_receive_rest(void *socket, struct message **ret_message)
{
    return receive_finish(socket, calloc(1, sizeof(struct message)), true, ret_message);
}

int message_copy(const struct recording_frame *frames, uint32_t count, struct message **ret_message)
{
    struct message *message = calloc(1, sizeof *message);
    for (uint32_t i = 0; message && i < count; i++) {
        zmq_msg_t frame;
        if (zmq_msg_init_size(&frame, frames[i].size) != 0) {
            message_free(&message);
            break;
        }
        memcpy(zmq_msg_data(&frame), frames[i].data, frames[i].size);
        take_frame(message, &frame);
    }
    if (!message) {
        return ERR_MEMORY;
    }
    message->cost = message->bytes + sizeof *message;
    *ret_message = message;
    return 0;
}

/* A message without a header frame, or with frames thrown away, has no header to believe in. */
static int check_frame_count(const struct message *message)
{
    if (message->frame_count < 2) {
        return ERR_FRAMES_MISSING;
    }
    return message->frames_seen > MESSAGE_FRAMES_MAX ? ERR_FRAMES_EXTRA : 0;
}

static int check_tensor_frames(const struct message *message)
{
    size_t bytes[MESSAGE_FRAMES_MAX];
    for (uint32_t i = 2; i < message->frame_count; i++) {
        bytes[i - 2] = zmq_msg_size(&message->frames[i]);
        if (i - 2 < message->header.tensor_count &&
            bytes[i - 2] == sizeof(struct memory_reference) &&
            message->header.tensors[i - 2].bytes >= MEMORY_TENSOR_MIN) {
            return ERR_BUFFER; /* it could not be resolved */
        }
    }
    return header_check_frames(&message->header, bytes, message->frame_count - 2);
}

/* The bytes of a message of queries and keys do not bound its computation. */
static int check_limits(const struct header *header, const struct config *config)
{
    double entries = (double)header->batch * header->heads * header->queries * header->keys;
    if (header->type == MESSAGE_EVENT) {
        return 0;
    }
    if (header->heads_total > config->limits_heads) {
        return ERR_HEADS_LIMIT;
    }
    if (header->type == MESSAGE_ROWS) {
        return 0; /* of which no pair is computed */
    }
    return entries > (double)config->limits_entries ? ERR_ENTRIES_LIMIT : 0;
}

/* 0 and 1 alone say whether a place of a sketch is held. */
static int check_held(struct message *message)
{
    uint32_t frame = header_frame_of(&message->header, TENSOR_HELD);
    const uint8_t *held = frame ? zmq_msg_data(&message->frames[frame]) : NULL;
    uint64_t count = frame ? message->header.tensors[frame - 2].bytes : 0;
    uint8_t all = 0;
    for (uint64_t i = 0; i < count; i++) {
        all |= held[i];
    }
    return all > 1 ? ERR_SKETCH : 0;
}

int message_check(struct message *message, const struct config *config, const char **reterr_key)
{
    struct header *header = &message->header;
    zmq_msg_t *frames = message->frames;
    *reterr_key = NULL;
    int code = check_frame_count(message);
    if (code) {
        return code;
    }
    code = header_decode(zmq_msg_data(&frames[1]), zmq_msg_size(&frames[1]), header, reterr_key);
    if (code) {
        return code;
    }
    code = topic_check(header, zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0]));
    if (code) {
        return code;
    }
    code = check_limits(header, config);
    if (!code && message->bytes > config->ingest_max_message) {
        code = ERR_TOO_LARGE;
    }
    if (!code) {
        code = check_tensor_frames(message);
    }
    if (code) {
        return code;
    }
    /* Copies what is validated (u8, i32) out of memory that the sender may still write to. */
    for (uint32_t i = 2; i < message->frame_count; i++) {
        enum dtype dtype = message->header.tensors[i - 2].dtype;
        zmq_msg_t own, *frame = &message->frames[i];
        if (!(message->borrowed & 1u << i) || (dtype != DTYPE_U8 && dtype != DTYPE_I32)) {
            continue;
        }
        if (zmq_msg_init_size(&own, zmq_msg_size(frame)) != 0) {
            return ERR_MEMORY;
        }
        memcpy(zmq_msg_data(&own), zmq_msg_data(frame), zmq_msg_size(frame));
        zmq_msg_move(frame, &own);
    }
    return check_held(message);
}

/* The tensor of a role as the kernels want it; `message` is NULL when only the shape is wanted. */
static const void *tensor_data(const struct header *header, struct message *message,
                               enum tensor_role role)
{
    uint32_t frame = header_frame_of(header, role);
    if (!frame) {
        return NULL;
    }
    return message ? zmq_msg_data(&message->frames[frame]) : &header->tensors[frame - 2];
}

static enum dtype tensor_dtype(const struct header *header, enum tensor_role role)
{
    uint32_t frame = header_frame_of(header, role);
    return frame ? header->tensors[frame - 2].dtype : DTYPE_F32;
}

static struct qk message_describe_qk(const struct header *header, struct message *message)
{
    uint32_t wo_r = header_frame_of(header, TENSOR_WO_R);
    return (struct qk){
        .q = tensor_data(header, message, TENSOR_Q),
        .k = tensor_data(header, message, TENSOR_K),
        .v = tensor_data(header, message, TENSOR_V),
        .dout = tensor_data(header, message, TENSOR_DOUT),
        .wo_r = tensor_data(header, message, TENSOR_WO_R),
        .x_norm = tensor_data(header, message, TENSOR_X_NORM),
        .q_dtype = tensor_dtype(header, TENSOR_Q),
        .k_dtype = tensor_dtype(header, TENSOR_K),
        .v_dtype = tensor_dtype(header, TENSOR_V),
        .dout_dtype = tensor_dtype(header, TENSOR_DOUT),
        .kv_heads = header->kv_heads,
        .head_dim = header->head_dim,
        .value_dim = header->value_dim,
        .written_dim = wo_r ? (uint32_t)header->tensors[wo_r - 2].shape[1] : 0,
        .scale = header->scale,
        .softcap = header->softcap,
    };
}

struct attention message_attention(const struct header *header, struct message *message)
{
    return (struct attention){
        .weights = tensor_data(header, message, TENSOR_WEIGHTS),
        .dtype = tensor_dtype(header, TENSOR_WEIGHTS),
        .qk = message_describe_qk(header, message),
        .grad = tensor_data(header, message, TENSOR_GRAD),
        .grad_dtype = tensor_dtype(header, TENSOR_GRAD),
        .batch = header->batch,
        .heads = header->heads,
        .queries = header->queries,
        .keys = header->keys,
        .self = header->layer.site == SITE_SELF,
        .q_offset = header->q_offset,
        .q_stride = header->q_stride,
        .causal = header->causal,
        .window = header->window,
        .q_len = header->q_len,
        .k_len = header->k_len,
        .mask = tensor_data(header, message, TENSOR_MASK),
        .documents = tensor_data(header, message, TENSOR_DOCUMENTS),
        .tokens = tensor_data(header, message, TENSOR_TOKENS),
        .dropout = header->dropout,
        .learned_sink = header->learned_sink,
    };
}

struct sent_sums message_rows(const struct header *header, struct message *message)
{
    uint32_t places = header_frame_of(header, TENSOR_PLACES);
    struct sent_sums rows = {
        .sums = tensor_data(header, message, TENSOR_SUMS),
        .places = tensor_data(header, message, TENSOR_PLACES),
        .places_shared = header->tensors[places - 2].shape[1] == 1,
        .key_lengths = tensor_data(header, message, TENSOR_KEY_LENGTHS),
        .sinks = tensor_data(header, message, TENSOR_SINKS),
        .k_len = header->k_len,
        .batch = header->batch,
        .heads = header->heads,
        .rows = header->queries,
        .queries = header->call_queries,
        .keys = header->keys,
        .kv_heads = header->kv_heads,
        .local_window = header->local_window,
        .self = header->layer.site == SITE_SELF,
        .of_weights = header->of_weights,
        .dtype = header->weights_dtype,
        .dropout = header->dropout,
        .learned_sink = header->learned_sink,
    };
    memcpy(rows.column, header->sum_column, sizeof rows.column);
    return rows;
}

struct head_maps message_brought(const struct header *header)
{
    const struct sent_maps *brought = &header->maps;
    return (struct head_maps){.heads = brought->heads,
                              .queries = brought->queries,
                              .keys = brought->keys,
                              .first_query = brought->first_query,
                              .first_key = brought->first_key,
                              .queries_sent = header->call_queries,
                              .keys_sent = header->keys,
                              .rows = brought->rows,
                              .columns = brought->columns};
}

const void *message_cells(struct message *message)
{
    return tensor_data(&message->header, message, TENSOR_MAPS);
}

struct sent_sketch message_sketch(struct message *message)
{
    const struct header *header = &message->header;
    const uint8_t *held = tensor_data(header, message, TENSOR_HELD);
    struct sent_sketch sketch = {.matrix = {NULL}};
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        uint32_t frame = header_frame_of(header, header_role_of((enum projection)p));
        if (frame) {
            sketch.matrix[p] = zmq_msg_data(&message->frames[frame]);
            sketch.held[p] = held;
            held = held ? held + header->tensors[frame - 2].shape[0] * SKETCH_PLACES : NULL;
        }
    }
    return sketch;
}

/* Matrices in parts are those that their messages are joined to (message_join). */
struct weights message_weights(const struct header *header, struct message *message)
{
    struct weights weights = {
        .heads = header->heads, .kv_heads = header->kv_heads, .head_dim = header->head_dim};
    size_t at = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct matrix_place *place = &header->matrix[p];
        struct projection_matrix *matrix = &weights.matrix[p];
        matrix->out = place->out;
        matrix->in = place->in;
        if (!header->in_parts) {
            matrix->data = tensor_data(header, message, header_role_of((enum projection)p));
            matrix->dtype = tensor_dtype(header, header_role_of((enum projection)p));
        } else if (place->out) {
            matrix->data = message ? message->joined + at : (const char *)place;
            matrix->dtype = message ? message->joined_dtype[p] : DTYPE_F64;
            at += (size_t)place->out * place->in * dtype_size(matrix->dtype);
        }
    }
    return weights;
}

int message_join(struct message *message, struct message *parts)
{
    const struct header *header = &message->header;
    size_t bytes = 0;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct message *has = message;
        for (const struct message *next = parts;
             next && !header_frame_of(&has->header, header_role_of((enum projection)p));
             next = next->queued_next) {
            has = next;
        }
        message->joined_dtype[p] = tensor_dtype(&has->header, header_role_of((enum projection)p));
        bytes += (size_t)header->matrix[p].out * header->matrix[p].in *
                 dtype_size(message->joined_dtype[p]);
    }
    message->joined = malloc(bytes);
    if (!message->joined) {
        return ERR_MEMORY;
    }
    message->parts = parts;
    return 0;
}

static void message_gather_block(struct message *into, struct message *from, enum projection p,
                                 char *whole)
{
    const struct matrix_place *place = &from->header.matrix[p];
    uint32_t frame = header_frame_of(&from->header, header_role_of(p));
    if (!frame) {
        return;
    }
    const struct tensor *tensor = &from->header.tensors[frame - 2];
    const char *data = zmq_msg_data(&from->frames[frame]);
    size_t size = dtype_size(into->joined_dtype[p]), width = tensor->shape[1] * size;
    for (uint64_t row = 0; row < tensor->shape[0]; row++) {
        memcpy(whole + ((place->row + row) * place->in + place->column) * size, data + row * width,
               width);
    }
}

void message_gather(struct message *message)
{
    char *whole = message->joined;
    for (int p = 0; p < PROJECTION_COUNT; p++) {
        const struct matrix_place *place = &message->header.matrix[p];
        message_gather_block(message, message, (enum projection)p, whole);
        for (struct message *part = message->parts; part; part = part->queued_next) {
            message_gather_block(message, part, (enum projection)p, whole);
        }
        whole += (size_t)place->out * place->in * dtype_size(message->joined_dtype[p]);
    }
    message_free_tensors(message);
    for (struct message *part = message->parts; part; part = part->queued_next) {
        message_free_tensors(part);
    }
}

/* The header was decoded before, so the list is one of texts; a text ends with its first NUL. */
char *message_labels(struct message *message, const char *key, uint32_t first, uint32_t most,
                     uint32_t *ret_count)
{
    struct mpk_doc doc;
    *ret_count = 0;
    if (mpk_parse(zmq_msg_data(&message->frames[1]), zmq_msg_size(&message->frames[1]),
                  &mpk_header_limits, &doc) != 0) {
        return NULL;
    }
    const msgpack_object *found = mpk_find(doc.root, key);
    uint32_t count = found && found->via.array.size > first ? found->via.array.size - first : 0;
    const msgpack_object *item = count > 0 ? found->via.array.ptr + first : NULL;
    size_t size = 0;
    count = count < most ? count : most;
    for (uint32_t i = 0; i < count; i++) {
        size += item[i].via.str.size + 1;
    }
    char *labels = count > 0 ? malloc(size) : NULL, *to = labels;
    for (uint32_t i = 0; labels && i < count; i++) {
        const msgpack_object_str *text = &item[i].via.str;
        size_t length = strnlen(text->ptr, text->size);
        memcpy(to, text->ptr, length);
        to[length] = '\0';
        to += length + 1;
    }
    *ret_count = labels ? count : 0;
    mpk_doc_clear(&doc);
    return labels;
}

void message_label_maps(struct message *message)
{
    const struct head_maps *maps = message->head_maps;
    if (maps && maps->sample == 0) {
        message->labels =
            message_labels(message, "labels", maps->first_key, maps->keys, &message->label_count);
        message->q_labels = message_labels(message, "q_labels", maps->first_query, maps->queries,
                                           &message->q_label_count);
    }
}

uint64_t message_free_tensors(struct message *message)
{
    uint64_t bytes = 0;
    while (message->frame_count > 2) {
        zmq_msg_t *frame = &message->frames[--message->frame_count];
        bytes += zmq_msg_size(frame);
        zmq_msg_close(frame);
    }
    return bytes;
}

void message_free(struct message **message_p)
{
    struct message *message = *message_p;
    if (!message) {
        return;
    }
    for (uint32_t i = 0; i < message->frame_count; i++) {
        zmq_msg_close(&message->frames[i]);
    }
    if (message_has_matrices(message)) {
        while (message->parts) {
            struct message *part = message->parts;
            message->parts = part->queued_next;
            message_free(&part);
        }
        free(message->joined);
    } else {
        head_maps_free(&message->head_maps);
        free(message->small_maps);
        free(message->labels);
        free(message->q_labels);
    }
    free(message->promise);
    header_clear(&message->header);
    free(message);
    *message_p = NULL;
}
