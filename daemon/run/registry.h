/* SPDX-License-Identifier: MIT */
/* registry: every job and its runs, found by name and run id, within limits. Loop thread only.
 *
 * A job comes to exist with its first message that passed ingest. When limits.runs is reached the
 * longest silent run makes room, if it is idle, ended, or silent for window.timeout; when
 * limits.jobs is reached the longest silent job does, if it is idle or ended; else the newcomer is
 * refused. A key that may publish some jobs only is refused at half of what other keys leave of
 * limits.jobs.
 *
 * Jobs and runs that have sent no tensors are nobody's loss: they make room first, whatever their
 * state, and never take the place of one that has. When all have, a hello may make one more than
 * the limit known, whose tensors then find room or not. */
#ifndef DAEMON_RUN_REGISTRY_H
#define DAEMON_RUN_REGISTRY_H

#include "daemon/run/run.h"
#include "daemon/state/merged.h"

struct registry;

/* `forget` is called with a job's name when it makes room. Returns NULL when out of memory. */
struct registry *registry_new(const struct config *config, const struct result_sink *sink,
                              void (*forget)(void *data, const char *job), void *data);
void registry_free(struct registry **registry);

/* Finds or makes the run of a message, and queues it there: sets *ret_compute as queue_put does; or
 * it is held (hold.h). Returns 0, or why there is no such run: the message is then not queued. */
int registry_arrive(struct registry *registry, struct message *message, uint64_t now_ns,
                    bool *ret_compute);
/* Finds or makes the run of news of a fleet, and says there what is known of it: its ranks, where
 * it is, its counts. Trainers that have sent of
 * it to this attnd themselves count no more. Returns 0, or why there is no such run now. */
int registry_merge(struct registry *registry, const struct merged *merged, uint64_t now_ns,
                   struct run **ret_run);
/* A message that ingest refused: counted to the run that the job's name means, if it is known. */
void registry_refused(struct registry *registry, const char *job, int code);

/* Brings the runs back that the sink's store has kept: at the start, before any message. */
void registry_restore(struct registry *registry, uint64_t now_ns);

/* A round saves what has changed in all runs (checkpoint.h), in steps of one layer; after some
 * steps comes a submit, before any message. Steps return whether there is more to do. A run with a
 * window on its way is left out, as the window brings what it saves. */
void registry_begin_round(struct registry *registry);
bool registry_step(struct registry *registry);
/* The bytes that steps have collected and no submit has taken yet. */
uint64_t registry_collected(const struct registry *registry);
void registry_submit(struct registry *registry, uint64_t now_ns);

/* tick_run for every run. Returns whether any run wants another one. */
bool registry_tick(struct registry *registry, uint64_t now_ns);
/* queue_flush for every run of the job (NULL: of all jobs). Returns how many runs have to wait, or
 * ERR_JOB_UNKNOWN. */
int registry_flush(struct registry *registry, const char *job);
/* The history has deleted a run that is not busy: forgets it, with the last values of its job where
 * its name means this run. */
void registry_drop_run(struct registry *registry, struct run *run);
/* Runs that still have to show their windows after a flush. */
uint32_t registry_flushing(const struct registry *registry);

/* Messages that wait for other parts of their matrices: assembly.h. */
uint64_t registry_waiting(const struct registry *registry);

bool registry_knows(const struct registry *registry, const char *job);
/* The run that a job's name and the first digits of a run mean: of those that begin so the newest
 * one that is active, or else the one that was heard of last; NULL when there is none. */
struct run *registry_find(const struct registry *registry, const char *job, const char *prefix);
/* The run of a job with this id; NULL when there is none. */
const struct run *registry_get(const struct registry *registry, const char *job, const uint8_t *id);
uint32_t registry_jobs(const struct registry *registry);
/* The cost of capturing a job under its plan: that of the rank that pays most, of its runs that
 * have not ended and whose code asks for no interval of its own; NULL when none has told. Borrowed
 * until the next message. */
const struct capture_cost *registry_cost(const struct registry *registry, const char *job);
/* The run behind this one, NULL: the first; NULL behind the last. Jobs come in the order of their
 * first message, the newest run of each first. */
struct run *registry_next(const struct registry *registry, const struct run *run);

#endif
