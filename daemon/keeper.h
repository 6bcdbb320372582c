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

/* From now on it looks: `look` is called now and then, once the directory is there, looks for the
 * files by what *config says now, and makes those again that have gone. */
void keeper_start(struct keeper *keeper, void (*look)(void *data), void *data);
/* Looks no more; the loop runs its close callback. Accepts NULL. */
void keeper_close(struct keeper *keeper);
/* Lets go of the directory: another attnd may have it. After the loop has ended and the sockets are
 * closed. Accepts NULL. */
void keeper_free(struct keeper **keeper);

#endif
