/* SPDX-License-Identifier: MIT */
/* sketches: messages of type `sketch` of a run. A capture of a layer is finished when it is whole,
 * when a message of a later one comes, when its window closes, and when the run ends or goes idle;
 * then its numbers are published as `live` and go to the history. Loop thread only. */
#ifndef DAEMON_RUN_SKETCHES_H
#define DAEMON_RUN_SKETCHES_H

#include "daemon/run/run.h"

/* Takes a message in its turn. Returns 0, ERR_STATE_LIMIT: the budget has no room for the layer's;
 * ERR_HEADS_CHANGED or ERR_MEMORY. */
int sketches_take(struct run *run, struct stream *stream, struct message *message);
/* A part of the primary window closes: finishes the layer's capture in it, or before. */
void sketches_close(struct run *run, struct stream *stream, const struct window_part *part);
/* Finishes the captures of all layers. */
void sketches_finish_all(struct run *run);

#endif
