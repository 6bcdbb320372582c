/* SPDX-License-Identifier: MIT */
/* daemon: the object that owns the loop, the sockets, the pool and everything known about jobs. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "config/config.h"

struct daemon;

/* Binds everything and starts the threads. `config` is copied; `argv` is the command line, to be
 * read again, and outlives the daemon; `argc` is 0 when it names no file. Returns 0, or -1 with a
 * sentence in reterr (CONFIG_ERROR_MAX bytes). */
int daemon_new(const struct config *config, int argc, char **argv, struct daemon **ret_daemon,
               char *reterr);

/* Serves until SIGTERM or SIGINT (or SIGHUP, when there is no file to be read again), or until
 * nobody has used it for shutdown.idle, then finishes
 * what was received, shows open windows as partial and returns. A second signal ends the process at
 * once with status 1. */
void daemon_run(struct daemon *daemon);

/* Frees everything. Accepts NULL and a daemon that was never run. */
void daemon_free(struct daemon **daemon);

#endif
