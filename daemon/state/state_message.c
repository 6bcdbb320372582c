/* SPDX-License-Identifier: MIT */
/* Senders are strangers: layer_state_unpack has bounded every number, this bounds what they say. */
#include "daemon/state/state_message.h"

#include "daemon/state/detail.h"
#include "proto/pattern.h"
#include "workers/rows/map_pool.h"

#include <math.h>
#include <stdlib.h>

/* So that no number of messages makes a count wrap. */
#define SENT_ROWS_MOST     (UINT64_C(1) << 40)
#define SENT_MESSAGES_MOST (UINT64_C(1) << 20)

static bool has_losses(const struct tally *tally)
{
    bool any = tally->lost > 0 || tally->source > 0;
    for (int i = 0; i < ERR_COUNT && !any; i++) {
        any = tally->dropped[i] > 0;
    }
    return any;
}

static int state_message_check(const struct layer_state *state, const struct header *header)
{
    const struct position *newest = &state->newest;
    if (!position_exists(newest) || position_exists(&state->weights_newest) ||
        state->tier == MESSAGE_WEIGHTS || state->detail || state->weights ||
        has_losses(&state->tally) || state->messages == 0 || state->messages > SENT_MESSAGES_MOST ||
        state->rows_of > SENT_ROWS_MOST || state->invalid_rows > SENT_ROWS_MOST) {
        return ERR_STATE;
    }
    bool same = state->heads == header->heads && newest->epoch == header->epoch &&
                newest->step == header->step && state->time_ns <= COUNT_MAX;
    return same ? 0 : ERR_STATE_MISMATCH;
}

int state_message_read(struct message *message, struct layer_state **ret_state)
{
    zmq_msg_t *frame = &message->frames[header_frame_of(&message->header, TENSOR_STATE)];
    struct layer_state *state = NULL;
    int code = layer_state_unpack_sent(zmq_msg_data(frame), zmq_msg_size(frame),
                                       message->header.heads, &state);
    if (code) {
        return code == ERR_MEMORY ? code : ERR_STATE;
    }
    code = state_message_check(state, &message->header);
    if (code) {
        layer_state_free(&state);
        return code;
    }
    for (uint32_t h = 0; h < state->heads; h++) {
        if (state->head[h].pattern == PATTERN_NONE) {
            struct head_state *head = &state->head[h];
            double value[METRIC_COUNT];
            layer_state_newest(state, h, value);
            head->pattern = (uint8_t)pattern_of(value);
        }
    }
    *ret_state = state;
    return 0;
}

int state_message_maps(struct message *message, struct layer_state *state)
{
    struct header *header = &message->header;
    if (!message->wants_map && !message->wants_head_maps) {
        return 0;
    }
    struct head_maps shape = message_brought(header);
    int code = head_maps_given(&shape, message_cells(message), &message->head_maps);
    if (code) {
        return code;
    }
    /* The header of another message says these itself. */
    header->causal = state->causal;
    header->microbatch = state->newest.microbatch;
    message_label_maps(message);
    if (message->wants_map && message->small_maps_size) {
        message->small_maps = small_maps_new(message->head_maps, message->small_maps_size);
    }
    if (message->wants_map) {
        /* The mean over the heads is what is kept with the window. */
        const struct head_maps *maps = message->head_maps;
        uint16_t cells[STATE_MAPS_SIDE * STATE_MAPS_SIDE];
        struct layer_map map = {.queries = maps->queries,
                                .keys = maps->keys,
                                .rows = maps->rows,
                                .columns = maps->columns,
                                .values = cells};
        for (uint32_t i = 0; i < maps->rows * maps->columns; i++) {
            cells[i] = map_pool_half((double)maps->mean[i]);
        }
        state->map = detail_map_new(&map, message);
    }
    return message->wants_map && !state->map ? ERR_MEMORY : 0;
}

double *state_message_importance(const struct message *message, const struct layer_state *state)
{
    uint32_t heads = message->header.maps.heads;
    double *importance = heads == state->heads ? malloc(heads * sizeof *importance) : NULL;
    bool known = importance;
    for (uint32_t h = 0; known && h < heads; h++) {
        importance[h] = stat_find(&state->head[h].stats, METRIC_IMPORTANCE).last;
        known = isfinite(importance[h]);
    }
    if (!known) {
        free(importance);
        importance = NULL;
    }
    return importance;
}
