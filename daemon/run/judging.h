/* SPDX-License-Identifier: MIT */
/* judging: the questions of a run to the alert rules, and what becomes of the events: they are
 * published, told, kept in the batch of `closing`, and logged. Loop thread only. */
#ifndef DAEMON_RUN_JUDGING_H
#define DAEMON_RUN_JUDGING_H

#include "daemon/ingest/plan.h"
#include "daemon/run/run.h"

/* A message has come to its turn: its rank is so far, unless it overtakes others of the rank. */
void judging_hear(struct run *run, const struct message *message, bool overtakes);
/* The numbers of one that was taken go to its capture. */
void judging_of_message(struct run *run, const struct stream *stream,
                        const struct message *message);
/* Judges the captures that are due. Between two messages, before windows close. */
void judging_settle(struct run *run);
/* Judges those that are open as they are: the run ends, or goes idle. */
void judging_rest(struct run *run);
/* Lets the rules judge a layer, when its window closes and is one of the primary track. A failure
 * costs the judgement, not the summary. */
void judging_of_layer(struct closing *closing, const struct layer_state *state,
                      struct summary_result *summary);
/* Lets the rules judge the fate of the run's messages since it was judged last. */
void judging_of_run(struct closing *closing);
/* All that fires now fired at the end, or before the run went idle. */
void judging_end(struct closing *closing);
/* Outside of a closing window events make a batch of their own. */
void judging_submit(struct closing *closing);

/* Calls `visit`, unless it is NULL, for each layer that the plan takes and no number came of
 * (alerts_measured). Returns how many there are. */
uint32_t judging_unmeasured(const struct run *run, const struct plan *plan,
                            void (*visit)(void *data, const char *layer), void *data);

/* Judges what the run has lost since it was last judged, without a window: none will close. */
void judging_of_losses(struct run *run);
/* Lets the rules judge the loss, where a rank has logged it. Their alerts go into `batch`,
 * beside what was logged (NULL: nothing is kept). */
void judging_of_log(struct run *run, const struct log_result *log, uint32_t rank,
                    struct store_batch *batch);
/* Asks the rules about silence, and once more when something has come again. On a timer. */
void judging_of_silence(struct run *run, uint64_t now_ns);

/* The sketch of a layer is finished; its numbers go to the rules. */
void judging_of_sketch(struct run *run, const struct stream *stream,
                       const struct sketch_judged *sketch);

#endif
