/* SPDX-License-Identifier: MIT */
/* unfinished: bounds the memory of messages that peers do not finish.
 *
 * libzmq keeps the parts of a message until its last one has come, however many, and tells nobody.
 * But it reads them by recv, which in attnd is the program's own, as accept4 is (../accept.c): it
 * counts the bytes of each connection since attnd last took a message of it. Beyond a limit for all
 * of them together nothing more is read, until messages are taken; and when one of those that hold
 * much has not finished for half a second, the one that has taken longest is ended. Its peer sees a
 * connection that breaks, and connects again. */
#ifndef DAEMON_BASE_UNFINISHED_H
#define DAEMON_BASE_UNFINISHED_H

#include "daemon/base/stats.h"

#include <zmq.h>

/* Descriptors from here on would not be counted: attnd has none. */
#define UNFINISHED_DESCRIPTORS 65536

/* From now on, and counted there. */
void unfinished_limit(uint64_t bytes, struct stats *stats);
/* Any thread: the descriptor is a connection that was accepted. It is libzmq's if this thread is.
 */
void unfinished_accepted(int fd);
/* Any thread: a message was taken, of which this is a frame. */
void unfinished_taken(zmq_msg_t *frame);

#endif
