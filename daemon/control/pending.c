/* SPDX-License-Identifier: MIT */
/* Where answers go. A request is answered at once, or deferred: its envelope then moves to a
 * `struct pending`, which whoever knows the answer later gives back. Every pending is answered
 * before the socket is closed; a thread that still works on an answer keeps it, and may give it
 * back later. */
#include "daemon/control/internal.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct pending {
    struct answers *answers; /* NULL: answered when control was closed */
    struct envelope envelope;
    struct pending *next, *previous; /* of those that wait */
};

void envelope_clear(struct envelope *envelope)
{
    for (int i = 0; i < envelope->count; i++) {
        zmq_msg_close(&envelope->frames[i]);
    }
    envelope->count = 0;
}

/* Without the result, which stands at the end. */
static void put_reply(struct mpk_writer *reply, uint64_t id, int code, const char *detail)
{
    mpk_put_array(reply, 4);
    mpk_put_u64(reply, 1);
    mpk_put_u64(reply, id);
    if (code) {
        mpk_put_map(reply, 2);
        mpk_pair_str(reply, "code", err_slug(code));
        mpk_pair_str(reply, "message", detail && *detail ? detail : err_text(code));
    }
    mpk_put_nil(reply); /* no result, or no error */
}

void envelope_answer(struct answers *answers, struct envelope *envelope, int code,
                     const char *detail, const struct mpk_writer *result)
{
    stats_add(answers->stats, code ? COUNT_REQUEST_ERRORS : COUNT_REQUESTS, 1);
    if (envelope->answered) {
        envelope->answered(envelope->data, code, detail, result);
    } else {
        /* Without room for it the answer is a short error. */
        struct mpk_writer reply;
        zmq_msg_t body;
        mpk_writer_init(&reply);
        put_reply(&reply, envelope->id, code, detail);
        struct unread_piece pieces[2] = {{reply.buffer.data, reply.buffer.size}};
        if (!code) {
            pieces[1] = (struct unread_piece){result->buffer.data, result->buffer.size};
        }
        bool made = mpk_writer_ok(&reply) &&
                    unread_make(&answers->unread, pieces, code ? 1 : 2, &body) == 0;
        if (!made) {
            mpk_writer_clear(&reply);
            mpk_writer_init(&reply);
            put_reply(
                &reply, envelope->id, ERR_AGAIN,
                "there is no room for the answer, as clients do not read theirs: ask again later");
            stats_add(answers->stats, COUNT_REQUEST_ERRORS, 1);
            made = mpk_writer_ok(&reply) && zmq_msg_init_size(&body, reply.buffer.size) == 0;
            if (made) {
                memcpy(zmq_msg_data(&body), reply.buffer.data, reply.buffer.size);
            }
        }
        if (made) {
            /* Sends envelope and body, the latter by moving it, and empties the envelope. A peer
             * that has gone or is full loses its answer. The body is made first: once a frame has
             * been sent the others must follow. */
            bool sent = true;
            for (int i = 0; i < envelope->count && sent; i++) {
                sent = zmq_msg_send(&envelope->frames[i], answers->socket,
                                    ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0;
            }
            if (sent) {
                zmq_msg_send(&body, answers->socket, ZMQ_DONTWAIT);
            }
            zmq_msg_close(&body);
        }
        envelope_clear(envelope);
        mpk_writer_clear(&reply);
    }
}

struct pending *request_defer(struct control_request *request)
{
    struct envelope *envelope = request->envelope;
    struct pending *pending = calloc(1, sizeof *pending);
    if (!pending) {
        return NULL;
    }
    pending->answers = request->answers;
    pending->envelope.id = envelope->id;
    pending->envelope.answered = envelope->answered;
    pending->envelope.data = envelope->data;
    pending->envelope.count = envelope->count;
    for (int i = 0; i < envelope->count; i++) {
        zmq_msg_init(&pending->envelope.frames[i]);
        zmq_msg_move(&pending->envelope.frames[i], &envelope->frames[i]);
    }
    envelope_clear(envelope);
    DL_PREPEND2(pending->answers->waiting, pending, previous, next);
    return pending;
}

void pending_answer(struct pending **pending_p, int code, const char *detail,
                    const struct mpk_writer *result)
{
    struct pending *pending = *pending_p;
    if (pending->answers) {
        DL_DELETE2(pending->answers->waiting, pending, previous, next);
        envelope_answer(pending->answers, &pending->envelope, code, detail, result);
    }
    free(pending);
    *pending_p = NULL;
}

void answers_close(struct answers *answers)
{
    while (answers->waiting) {
        struct pending *pending = answers->waiting;
        DL_DELETE2(answers->waiting, pending, previous, next);
        envelope_answer(answers, &pending->envelope, ERR_CLOSED, NULL, NULL);
        pending->answers = NULL;
    }
}
