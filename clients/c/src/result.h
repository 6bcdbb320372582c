/* SPDX-License-Identifier: MIT */
/* result: a map that the daemon sent, in the frame it came in. */
#ifndef CLIENTS_C_SRC_RESULT_H
#define CLIENTS_C_SRC_RESULT_H

#include "clients/c/include/attn/attn.h"
#include "proto/mpk.h"

#include <zmq.h>

/* Longest topic with its NUL, and longest `kind`; what is longer is no result of ours. */
#define RESULT_TOPIC_MAX 256
#define KIND_MAX         16

struct attn_result {
    char topic[RESULT_TOPIC_MAX], kind[KIND_MAX];
    zmq_msg_t frame; /* doc points into it */
    struct mpk_doc doc;
    const msgpack_object *root; /* in doc: the map itself */
    char *json;                 /* owned; made on demand */
};

/* Takes the body. Returns 0, ATTN_E_MESSAGE or ATTN_E_MEMORY. */
int result_new(const void *topic, size_t topic_len, zmq_msg_t *body, attn_result **ret_result);

#endif
