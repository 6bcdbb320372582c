/* SPDX-License-Identifier: MIT */
/* spool: files of messages that attnd has not acknowledged yet, in a directory that several
 * processes may share.
 *
 * A publisher has a name of 16 random digits there, and
 *
 *     NAME.lock           which it has locked (flock) as long as it lives
 *     NAME-00000001.rec   its messages, in segments that are appended to: each is a recording
 *                         (proto/recording.h)
 *
 * A segment goes when all of its messages are acknowledged. Whose lock is free was killed: another
 * process takes its files over. Nothing is synced to the disk: the files outlive the process, not
 * the machine. The same files as those of the Python client (lane/spool.py).
 *
 * However many there are, few files are open: the locks of some others, our own, and the segment
 * that is appended to.
 *
 * One thread; a fork's child lets go of the locks. */
#ifndef CLIENTS_C_SRC_SPOOL_H
#define CLIENTS_C_SRC_SPOOL_H

#include "clients/c/src/spool_file.h"

struct spool;

/* All of these return 0, or -1 with errno: EPERM of spool_open when others own the directory, or
 * can write to it. */
int spool_open(const char *directory, struct spool **ret_spool);
/* Writes a message behind the others; on failure it is as if nothing had been written. */
int spool_append(struct spool *spool, uint64_t now_ns, const struct recording_frame *frames,
                 uint32_t count, struct spool_message *ret_message);
/* Whether an errno of these says nothing about a file: too much is open, or in memory. */
bool spool_is_passing(int error);
/* Reads the frames one after the other into `to`, which has all their bytes. */
int spool_read(const struct spool_message *message, void *to);
/* Takes over the files of processes that have ended, some at a time: spool_next looks again. */
int spool_look(struct spool *spool);

/* The message is acknowledged. */
void spool_release(struct spool *spool, const struct spool_message *message);

/* The message is another's: leaves all files of its owner where they are, to whoever comes next.
 * Nothing of them may be used after that. */
void spool_leave(struct spool *spool, const struct spool_message *message);
/* Whether one process has left both. */
bool spool_same_owner(const struct spool_message *a, const struct spool_message *b);

/* The messages of the next segment that was taken over, owned by the caller. 1: there may be more;
 * 0: there is none for now; -1: one cannot be read, and stays where it is, or not now (errno, see
 * spool_is_passing). *ret_damaged: whether bytes at its end were no whole messages. */
int spool_next(struct spool *spool, struct spool_message **ret_messages, size_t *ret_count,
               bool *ret_damaged);

/* Whether spool_next has some left. */
bool spool_has_left(const struct spool *spool);

/* Leaves the messages that are not acknowledged to whoever comes next. */
void spool_close(struct spool *spool);

#endif
