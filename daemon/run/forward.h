/* SPDX-License-Identifier: MIT */
/* forward: what a node sends to hubs of a run (proto/FLEET.md): rows of the outbox, in the batches
 * that have the same for the history. Without effect on an attnd that is no node, and of windows in
 * seconds, which cannot be merged. Loop thread. */
#ifndef DAEMON_RUN_FORWARD_H
#define DAEMON_RUN_FORWARD_H

#include "daemon/run/run.h"

/* Begins with a part that was closed. */
void forward_begin(struct run *run, struct track *track);
/* The state of a layer in it is packed already. Returns 0 or ERR_MEMORY. */
int forward_packed(struct run *run, struct track *track, const struct window_part *part,
                   struct stream *stream, const void *state, size_t size,
                   struct store_batch *batch);
/* Packs it when it was not. `batch` NULL: nothing is kept. Returns 0 or ERR_MEMORY. */
int forward_layer(struct run *run, struct track *track, const struct window_part *part,
                  struct stream *stream, struct store_batch *batch);
/* All layers are there: says that the part is closed. Returns 0 or ERR_MEMORY. */
int forward_closed(struct run *run, struct track *track, const struct window_part *part,
                   struct store_batch *batch);
/* The part is through: its batch was submitted. */
void forward_done(const struct run *run, struct track *track);

/* The run as it is now, with settings that are new, an encoded map. Returns 0 or ERR_MEMORY. */
int forward_settings(const struct run *run, const void *settings, size_t size,
                     struct store_batch *batch);
/* ... with the values that an event logs. */
int forward_log(const struct run *run, const struct header *header, struct store_batch *batch);
/* ... as it is. `batch` may be NULL. */
int forward_state(const struct run *run, struct store_batch *batch);
/* ... in a batch of its own: its state is another one now. */
void forward_new_state(const struct run *run);

#endif
