/* SPDX-License-Identifier: MIT */
/* Senders are strangers: layer_state_unpack has bounded every number, this bounds what they say. */
#include "daemon/state/state_message.h"

#include "proto/pattern.h"

#include <math.h>

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
        state->tier == MESSAGE_WEIGHTS || state->detail || state->weights || state->trouble ||
        has_losses(&state->tally) || state->messages == 0 || state->messages > SENT_MESSAGES_MOST ||
        state->rows > SENT_ROWS_MOST || state->invalid_rows > SENT_ROWS_MOST) {
        return ERR_STATE;
    }
    bool same = state->heads == header->heads && newest->epoch == header->epoch &&
                newest->step == header->step && state->time_ns <= COUNT_MAX;
    return same ? 0 : ERR_STATE_MISMATCH;
}

static void state_message_name_pattern(struct head_state *head)
{
    double value[METRIC_COUNT];
    struct stat_reader reader;
    struct stat_record record;
    uint32_t slot;
    for (int m = 0; m < METRIC_COUNT; m++) {
        value[m] = NAN;
    }
    stat_reader_init(&reader, &head->stats);
    while (stat_read(&reader, &slot, &record)) {
        if (slot < METRIC_MATRIX_FIRST) {
            value[slot] = record.last;
        }
    }
    head->pattern = (uint8_t)pattern_of(value);
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
            state_message_name_pattern(&state->head[h]);
        }
    }
    *ret_state = state;
    return 0;
}
