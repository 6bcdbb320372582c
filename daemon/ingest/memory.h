/* SPDX-License-Identifier: MIT */
/* memory: the buffers that trainers of this machine lend, and the tensors in them.
 *
 * A trainer connects to the Unix socket `memory` beside `ingest` and passes sealed memfds; frames
 * of its messages then stand for tensors in them (proto/memory.h). They are read in place: a frame
 * is replaced by one that points into the mapping, and when its last reference is closed, on
 * whatever thread and for whatever reason, the trainer is told that the buffer is free again.
 *
 * The sender can write to a buffer while it is read. message_check copies what is validated; the
 * rest are numbers, and no reader derives an index or a size from one twice.
 *
 * The ingest thread's, but for the closing of frames. */
#ifndef DAEMON_INGEST_MEMORY_H
#define DAEMON_INGEST_MEMORY_H

#include "daemon/base/stats.h"
#include "daemon/ingest/message.h"

struct memory;

/* Connections at once; further ones are closed. */
#define MEMORY_CONNECTIONS_MAX 256

/* Binds the socket. Without one (TCP, a kernel that refuses) trainers send frames: returns NULL,
 * and logs why when that is worth knowing. `stats` outlives the last frame. */
struct memory *memory_new(const struct config *config, struct stats *stats);
/* Closes all connections. Buffers stay mapped until the last message that is in them is freed.
 * Accepts NULL. */
void memory_free(struct memory **memory);

/* The rest accepts NULL, and then does nothing: there is no lane. */

/* A descriptor that is readable when memory_turn has something to do, or -1. */
int memory_fd(const struct memory *memory);
/* Milliseconds until memory_turn has something to do by itself, `most_ms` at most; -1 is for ever.
 */
int memory_idle_ms(const struct memory *memory, int most_ms);
/* Takes connections and reads records. Never blocks. */
void memory_turn(struct memory *memory);
/* Binds once more when the socket's file has gone. */
void memory_keep(struct memory *memory);
/* Any thread: whether it has. */
bool memory_is_lost(const struct memory *memory);

/* Takes a connected socket of a peer that is trusted; closes it when there are too many. */
void memory_adopt(struct memory *memory, int fd);

/* Replaces the frames of a message that has just come and that name buffers of their sender by ones
 * that point into them, and adjusts message->bytes and ->cost. A frame that names anything else
 * stays as it is. */
void memory_borrow(struct memory *memory, struct message *message);
#endif
