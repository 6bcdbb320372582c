/* SPDX-License-Identifier: MIT */
/* keeper: keeps attnd where clients look for it, in a directory of its own.
 *
 * A logout removes /run/user/UID, and cleaners remove old files. The directory and its sockets are
 * made again within KEEPER_MS: in the same place, or, if it cannot be made there, in the last one
 * that clients of this user look at. Connections that exist do not notice. Loop thread only. */
#ifndef DAEMON_KEEPER_H
#define DAEMON_KEEPER_H

#include "config/config.h"

#include <uv.h>

#define KEEPER_MS 2000

struct keeper;

/* Takes config->directory, if there is one; when it is the default and cannot be made, the last
 * place, and *config then says so. Before any socket is bound. Returns 0, or -1 with a sentence in
 * reterr (CONFIG_ERROR_MAX bytes). */
int keeper_new(uv_loop_t *loop, struct config *config, struct keeper **ret_keeper, char *reterr);

/* Asked now and then, once the directory is there: looks for its own file by what *config says now,
 * and makes it again if it has gone. At most KEEPER_FILES_MAX. */
typedef void keeper_look(void *owner);
#define KEEPER_FILES_MAX 8
void keeper_add(struct keeper *keeper, keeper_look *look, void *owner);

/* From now on it looks. */
void keeper_start(struct keeper *keeper);

/* Looks no more; the loop runs its close callback. Accepts NULL. */
void keeper_close(struct keeper *keeper);
/* Lets go of the directory: another attnd may have it. After the loop has ended and the sockets are
 * closed. Accepts NULL. */
void keeper_free(struct keeper **keeper);

#endif
