/* SPDX-License-Identifier: MIT */
/* activation: listening sockets that a service manager opened and handed over when it started attnd
 * (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES: descriptors from 3 on).
 *
 * Their names distinguish them: each is that of the section whose endpoint the socket replaces.
 * attnd binds the sockets that are not handed over. Nothing is kept here: the environment is read
 * each time, and each socket belongs to its taker. */
#ifndef DAEMON_BASE_ACTIVATION_H
#define DAEMON_BASE_ACTIVATION_H

#include <stdbool.h>

/* Whether the sockets can be used: every one listens, for TCP or for ipc, and has a unique name;
 * TCP must be allowed, except for http. They are made non-blocking, and closed in programs that
 * attnd starts. Once, at the start. Returns 0, or -1 with a sentence in reterr (CONFIG_ERROR_MAX
 * bytes). */
int activation_check(bool tcp_allowed, char *reterr);

/* The socket of this name, whose address ("tcp://127.0.0.1:5570") replaces `endpoint`
 * (ENDPOINT_MAX bytes); the caller's to close. -1 when there is none. After activation_check. */
int activation_take(const char *name, char *endpoint);

#endif
