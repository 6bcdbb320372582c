/* SPDX-License-Identifier: MIT */
/* playback: reads a file of recorded messages (proto/recording.h), one after the other. Memory
 * holds one message. One thread. */
#ifndef PROTO_PLAYBACK_H
#define PROTO_PLAYBACK_H

#include "proto/recording.h"

#define PLAYBACK_ERROR_MAX 512

/* Borrowed from the playback until the next call. */
struct recorded {
    uint64_t received_ns; /* since 1970 */
    uint32_t frame_count;
    struct recording_frame frames[RECORDING_FRAMES_MAX];
};

struct playback {
    const char *path; /* borrowed */
    int fd;
    uint64_t size, at;   /* of the file when it was opened; bytes read */
    uint64_t messages;   /* read */
    uint64_t created_ns; /* since 1970 */
    uint8_t *body;       /* owned */
    size_t body_capacity;
    void *unpacked; /* owned; the newest message's frames, when they were packed */
};

enum playback_status {
    PLAYBACK_MESSAGE,
    PLAYBACK_END,
    PLAYBACK_CUT,     /* the last record is not whole: the recorder was killed, or is still at it */
    PLAYBACK_DAMAGED, /* what follows cannot be read */
    PLAYBACK_FAILED,  /* the file could not be read, or out of memory */
};

/* Returns 0, or -1 with a sentence (PLAYBACK_ERROR_MAX bytes). `path` outlives the playback. */
int playback_open(const char *path, struct playback *ret_playback, char *reterr);

/* The next message. CUT, DAMAGED and FAILED give a sentence, and are the end. */
enum playback_status playback_next(struct playback *playback, struct recorded *ret_recorded,
                                   char *reterr);

/* The same, but of a message that is not packed only the first two frames, topic and header, are
 * read; of the others the data is NULL, and the checksum of all is not compared. */
enum playback_status playback_skim(struct playback *playback, struct recorded *ret_recorded,
                                   char *reterr);

/* Goes to where a message begins: what playback->at was before it was read. */
void playback_seek(struct playback *playback, uint64_t at);

void playback_close(struct playback *playback);

#endif
