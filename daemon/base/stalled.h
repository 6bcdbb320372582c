/* SPDX-License-Identifier: MIT */
/* stalled: the subscribers that do not read, seen from the kernel: what was sent to them fills
 * their connection whenever one looks. ZeroMQ tells neither who they are nor what it keeps for
 * them. Loop thread only. */
#ifndef DAEMON_BASE_STALLED_H
#define DAEMON_BASE_STALLED_H

#include <stdbool.h>
#include <stdint.h>

/* Any thread: the kernel's number of a connection; 0: the descriptor is none. */
uint64_t connection_cookie(int fd);
/* Any thread: ends the connection. False: the descriptor is another one by now. */
bool connection_end(int fd, uint64_t cookie);

/* Connections that were full at every look so far. Begins as NULL. */
struct stalled;

/* Looks at all connections that were accepted at one of the endpoints; one of these may be "". */
void stalled_look(struct stalled **stalled, const char *endpoint, const char *other);
/* Ends those that have been full for at least `least_ns`, and for half as long as the longest:
 * whoever is only behind for a moment stays. Returns how many. */
unsigned stalled_cut(struct stalled **stalled, uint64_t least_ns);
void stalled_clear(struct stalled **stalled);

#endif
