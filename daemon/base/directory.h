/* SPDX-License-Identifier: MIT */
/* directory: makes the directory of attnd's sockets, and ensures that it is this attnd's alone.
 *
 * Others with write access could put their own sockets there, so it must be a directory, no link,
 * of this user or root, and writable by nobody else. Any thread; no state. */
#ifndef DAEMON_BASE_DIRECTORY_H
#define DAEMON_BASE_DIRECTORY_H

#include <stdbool.h>

/* Makes the directory if it is not there (its parent must be), and locks it against a second attnd
 * until the descriptor is closed. One that attnd chooses itself (`is_default`) must be closed to
 * others altogether. Returns the descriptor, -ENOENT when it cannot be made there, or -1 when it
 * must not be used, both with a sentence in reterr (CONFIG_ERROR_MAX bytes). */
int directory_take(const char *path, bool is_default, char *reterr);

/* Whether the path still names what was taken. */
bool directory_is_here(const char *path, int fd);

#endif
