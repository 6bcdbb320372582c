/* SPDX-License-Identifier: MIT */
/* queue: the messages of a run, in the order in which they were received. Each is taken in its turn
 * once it is computed; everything the run knows follows from the messages taken so far. Time comes
 * in as an argument. Loop thread only. */
#ifndef DAEMON_RUN_QUEUE_H
#define DAEMON_RUN_QUEUE_H

#include "daemon/run/run.h"

/* A message in the order of reception. Returns whether it must be computed: then queue_finish
 * follows. Call queue_take after either. */
bool queue_put(struct run *run, struct message *message, uint64_t now_ns);
/* The head, of the message's, that its spectra begin with. */
uint32_t queue_spectrum_turn(const struct run *run, const struct message *message);
/* Its `measured` or `code` is set, in whatever order. The numbers of a detached message go out as
 * `live`, unless those of a newer one of its layer have, which was computed faster. */
void queue_finish(struct run *run, struct message *message);
/* Takes the oldest message if it is finished: adds its numbers to their windows, and closes the
 * windows that may close. The message is then the caller's, to be accounted for by its `code`: 0,
 * or why it was refused. NULL when there is none, or while a window is on its way, with which it
 * goes on instead: a message comes back when all that it closed is out. One of tier weights, which
 * may take seconds, is taken unfinished: later messages do not wait for it, its windows do. One
 * that comes back detached completes matrices that came in parts: it is to be computed now, then
 * queue_finish and queue_join follow. One that waits for other parts (STAGE_PART) stays the run's
 * (assembly.h). */
struct message *queue_take(struct run *run);
/* A message that was taken unfinished (STAGE_DETACHED) and is finished now: adds its numbers to its
 * windows. It is then the caller's, as after queue_take. */
void queue_join(struct run *run, struct message *message, uint64_t now_ns);
/* Lets go of the messages that are not computed yet, which stay with whoever computes them: at a
 * stop that cannot wait. They are then gaps in the sequences of later ones. */
void queue_skip_unfinished(struct run *run);
/* Counts a message to the run that belongs to no layer, or was refused before it came so far.
 * Returns the code. */
int queue_refuse(struct run *run, int code);
/* Whether it is a message of the reliable lane that the run has taken before: it changes nothing at
 * all. */
bool queue_is_repeated(struct run *run, const struct header *header);
/* Shows the open windows (closing_show) once every message received so far is taken. Returns
 * whether it has to wait. */
bool queue_flush(struct run *run);

#endif
