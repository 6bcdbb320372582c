/* SPDX-License-Identifier: MIT */
/* spool_file: the locks and the bytes of files of a spool. */
#ifndef CLIENTS_C_SRC_SPOOL_FILE_H
#define CLIENTS_C_SRC_SPOOL_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* A file that this process has locked, and no child of it. */
struct spool_lock;

/* Makes and locks a file. NULL with EWOULDBLOCK when it is another's, or another errno. */
struct spool_lock *spool_lock_new(const char *path);
/* Accepts NULL. */
void spool_lock_free(struct spool_lock **lock);

/* Return 0, or -1 with errno; the pieces are changed. */
int spool_write_all(int fd, uint64_t at, struct iovec *pieces, int count);
int spool_read_all(int fd, uint64_t at, void *to, size_t size);

#endif
