/* SPDX-License-Identifier: MIT */
/* kept: a message of the reliable lane until attnd has answered it, with its frames in memory or in
 * the spool. The sending thread's. */
#ifndef CLIENTS_C_SRC_KEPT_H
#define CLIENTS_C_SRC_KEPT_H

#include "clients/c/src/spool.h"

#include <stdbool.h>
#include <stdint.h>
#include <zmq.h>

struct topic;

struct kept {
    struct kept *next, *previous; /* of its list, in order of the numbers */
    struct kept *next_sent;       /* of its bucket, while it is sent */
    bool sent;                    /* on this connection */
    bool went;                    /* by one that has ended: attnd may have it */
    bool repeated;                /* attnd has said so */
    uint64_t number, bytes;
    struct topic *topic; /* NULL: another process has left it */
    uint64_t payload;    /* bytes of tensors */
    bool counted;        /* among what was published */
    bool spooled;        /* in `place`, else in `frames` */
    struct spool_message place;
    zmq_msg_t *frames; /* owned */
    uint32_t frame_count;
};

/* Shares the frames, to be kept in memory. Returns 0 or ATTN_E_MEMORY: kept_free gives back what it
 * has. */
int kept_hold(struct kept *entry, zmq_msg_t *const *frames, uint32_t count);

/* The frames to be sent, of which there is room for SPOOL_FRAMES_MAX; the caller closes them.
 * Returns 0, or -1 with errno when they cannot be read, or there is no memory. */
int kept_frames(const struct kept *entry, zmq_msg_t *ret_frames, uint32_t *ret_count);

/* The job that its topic names; "?" when that cannot be read. */
void kept_job(const struct kept *entry, char ret_job[JOB_NAME_MAX + 1]);

void kept_free(struct kept *entry);

#endif
