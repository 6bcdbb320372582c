/* SPDX-License-Identifier: MIT */
/* live: one message's numbers as a `live` result, in the model's order of heads. */
#ifndef DAEMON_RUN_LIVE_H
#define DAEMON_RUN_LIVE_H

#include "daemon/run/run.h"
#include "daemon/state/layer_state.h"

/* The track (publisher.h) of a result about projection matrices. A result about attention has
 * track 0: as last values of one topic neither takes the other's place, whichever comes first. */
#define LIVE_PROJECTIONS 1
/* Likewise, of one about a capture of sketches, whose numbers are of several messages. */
#define LIVE_SKETCHES 2

/* In the order in which messages came, so that the last value of a topic is the newest; those that
 * are computed in the background when they are done (queue_finish). A message with a slice of the
 * heads gives arrays of heads_total with null for the heads it does not have. Without memory there
 * is none. */
void live_publish(struct run *run, const struct message *message);
/* A finished capture of the layer's sketch, and the encoded map of its numbers. */
void live_publish_sketch(struct run *run, const struct stream *stream,
                         const struct sketch_capture *capture, const void *numbers, size_t size);

#endif
