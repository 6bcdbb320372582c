/* SPDX-License-Identifier: MIT */
/* checkpoint: saves the state of runs, so that attnd comes back to the same runs, windows and
 * alerts after it was killed. restore.h reads it. A run that has ended keeps everything but its
 * parts for as long as attnd knows it: who asks about it gets the same answers after a restart.
 *
 * The keys of a run (batch_keep), in the order in which they come back:
 *
 *   about                     ranks, positions in every track, counts of what is no layer's
 *   alerts                    alerts_pack
 *   capture                   captures_pack: in each batch with `about`
 *   drift/TRACK/LAYER         drift_pack
 *   forgotten                 empty: the run is kept only for what may come of it again, until it
 *                             goes on
 *   layer/TRACK/LAYER         sequence numbers, counts, what waits for the next window
 *   open/LAYER                captures_pack_layer, with the layer in the primary track
 *   part/TRACK/INDEX/LAYER    layer_state_pack
 *   sketch/LAYER              sketch_pack, with the layer in the primary track
 *
 * TRACK is the rule's name, so that rules may change places in the config; LAYER is
 * header_layer_key.
 *
 * A layer in a track is the unit of consistency: its sequence numbers and its parts are saved in
 * one batch, between two messages, so whatever is saved when, each restored layer has exactly the
 * messages up to its numbers, and the gap to the next one that comes is what was lost. That is why
 * a round may take its time and save layer by layer, between other work. `about` may be newer than
 * a layer: ranks that have moved on since only let its parts close. */
#ifndef DAEMON_RUN_CHECKPOINT_H
#define DAEMON_RUN_CHECKPOINT_H

#include "daemon/run/run.h"

/* The mark of a run that is forgotten. */
#define CHECKPOINT_FORGOTTEN "forgotten"
/* Room for any key. */
#define CHECKPOINT_KEY_MAX 96

void checkpoint_drift_key(const struct track *track, const struct stream *stream,
                          char ret_key[CHECKPOINT_KEY_MAX]);

/* A batch for this run; NULL when nothing is kept, or no memory is left. The functions below accept
 * that. */
struct store_batch *checkpoint_begin(const struct run *run);

/* Saves what has changed of a layer in a track since it was last saved. Before checkpoint_track,
 * which says that it could not be. Returns 0 or ERR_MEMORY. */
int checkpoint_layer(struct run *run, const struct track *track, struct stream *stream,
                     struct store_batch *batch);
/* Saves what is known of the run, and submits the batch with the track's layers and what else is in
 * it. Parts that no window needs any more are left out, and what was saved of them is forgotten.
 * `code` is why the batch is not whole. Returns 0, or ERR_MEMORY: nothing was submitted. */
int checkpoint_track(struct run *run, const struct track *track, struct store_batch **batch,
                     int code, uint64_t now_ns);

/* Adds the alerts, and which captures they have judged, to a batch of alerts: a kill after it tells
 * nothing twice. Layers that are saved older than they are lack nothing, because what was judged is
 * left out of their captures. */
void checkpoint_alerts(struct run *run, struct store_batch *batch);

/* A round saves all layers of a run that have changed. Steps save one layer each and collect;
 * checkpoint_submit hands over what they have collected, and belongs behind them before any message
 * is taken. Returns whether there is more to do. */
bool checkpoint_step(struct run *run);
void checkpoint_submit(struct run *run, uint64_t now_ns);

/* The run has ended: its parts are forgotten and all else is saved, in one batch with what is in it
 * already. Before its states are freed. */
void checkpoint_ended(struct run *run, struct store_batch **batch, uint64_t now_ns);
/* The run is forgotten: it does not come back by itself. One that has used the reliable lane leaves
 * `about`, its layers and a mark behind: past.h looks there when something of it comes again.
 */
void checkpoint_forget(struct run *run, uint64_t now_ns);
/* A message that came again of a run that attnd does not know any more: it is answered when what is
 * on its way to the history is there. Takes the promise over, or sets its code when out of memory.
 * *promise may be NULL. */
void checkpoint_promise(struct run *run, struct promise **promise);
/* Grows when what the store took was not written after all. */
uint64_t checkpoint_losses(const struct result_sink *sink);
/* Nothing is kept any more: answers what was promised of the run. */
void checkpoint_give_up(struct run *run);
/* Forgets the parts that were freed because the run is idle. */
void checkpoint_forget_parts(struct run *run);

#endif
