/* SPDX-License-Identifier: MIT */
/* recording: what record and replay are made of. */
#ifndef CLIENTS_CLI_RECORDING_INTERNAL_H
#define CLIENTS_CLI_RECORDING_INTERNAL_H

#include "clients/cli/base/cli.h"
#include "proto/recording.h"

/* recorder: appends messages to a file of recorded messages (proto/recording.h). One thread. */

#define RECORDER_ERROR_MAX 512

struct recorder {
    const char *path; /* borrowed */
    int fd;
    bool pack;         /* compress what gets smaller by it */
    uint64_t messages; /* written */
    uint64_t bytes;    /* of the file */
    uint64_t payload;  /* bytes of their frames */
};

/* Creates the file and writes its header. A file that is there is refused unless `replace`. Returns
 * 0, or -1 with a sentence (RECORDER_ERROR_MAX bytes). `path` outlives the recorder. */
int recorder_open(const char *path, bool replace, uint64_t now_ns, struct recorder *ret_recorder,
                  char *reterr);

/* Appends one message. On failure the file ends with the message before it. Returns 0, or -1 with a
 * sentence. */
int recorder_write(struct recorder *recorder, uint64_t received_ns,
                   const struct recording_frame *frames, uint32_t count, char *reterr);

/* Returns 0, or -1 with a sentence: then the last messages may not be on the disk. */
int recorder_close(struct recorder *recorder, char *reterr);

/* replay: gives a recording to attnd, and says what became of it. */

/* "late 2, shape 1", or as the inside of a JSON map: by how much the counts of dropped messages
 * have grown. */
void replay_print_dropped(const msgpack_object *before, const msgpack_object *now, bool json,
                          FILE *out);

#endif
