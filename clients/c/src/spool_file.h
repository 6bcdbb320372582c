/* SPDX-License-Identifier: MIT */
/* spool_file: the locks and the bytes of files of a spool, which a stranger may have put there. */
#ifndef CLIENTS_C_SRC_SPOOL_FILE_H
#define CLIENTS_C_SRC_SPOOL_FILE_H

#include "proto/header.h"
#include "proto/recording.h"

#include <sys/uio.h>

#define SPOOL_FRAMES_MAX (TENSORS_MAX + 2)
/* Bytes of a message; a file is read as a whole, and one that is larger than its last message can
 * make it is not ours. */
#define SPOOL_MESSAGE_MAX (UINT64_C(1) << 30)

struct spool_segment;

/* A message in a file: its frames follow each other. */
struct spool_message {
    struct spool_segment *segment; /* not owned; there until spool_release of its last message */
    uint64_t at;                   /* of the first frame */
    uint32_t frame_count;
    uint64_t sizes[SPOOL_FRAMES_MAX];
};

/* A file that this process has locked, and no child of it. */
struct spool_lock;

/* Makes and locks a file. NULL with EWOULDBLOCK when it is another's, or another errno. */
struct spool_lock *spool_lock_new(const char *path);
/* Accepts NULL. */
void spool_lock_free(struct spool_lock **lock);

/* Return 0, or -1 with errno; the pieces are changed. */
int spool_write_all(int fd, uint64_t at, struct iovec *pieces, int count);
int spool_read_all(int fd, uint64_t at, void *to, size_t size);

/* The messages in the bytes of a segment, owned by the caller; *ret_damaged as spool_next. Returns
 * 0; ERR_RECORDING_FORMAT or ERR_RECORDING_VERSION when it is none of ours; or ERR_MEMORY. */
int spool_find_messages(const uint8_t *data, uint64_t size, struct spool_message **ret_messages,
                        size_t *ret_count, bool *ret_damaged);

#endif
