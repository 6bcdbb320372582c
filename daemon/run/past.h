/* SPDX-License-Identifier: MIT */
/* past: runs that attnd does not know any more, as the history has them. Something came of them:
 * begun anew, a run would overwrite what is known of it, and count again what comes again.
 *
 * A few are remembered: what comes of them while the limits leave no room for them asks once. And
 * the newest summaries of runs that came back at the start. */
#ifndef DAEMON_RUN_PAST_H
#define DAEMON_RUN_PAST_H

#include "daemon/run/run.h"

#define PASTS_MAX 8

/* A run that the history was asked for. */
struct past_run {
    struct run *run; /* not one of its job's; NULL: the history has none, or nothing that counts */
    char job[JOB_NAME_MAX + 1];
    uint8_t id[RUN_BYTES];
};

/* Zeroed it has none. */
struct pasts {
    struct past_run of[PASTS_MAX];
    uint32_t next;   /* the next place */
    uint64_t losses; /* of the store, when they were asked for */
};

void past_forget_all(struct pasts *pasts);

/* Asks the history for the run of a message, whichever lane it came by. *ret_run is NULL when it
 * has none; else it stays theirs. Returns 0, ERR_HISTORY_UNREAD or ERR_MEMORY: the next message
 * asks again. The others are those of run_new. */
int past_look(struct pasts *pasts, const struct header *header, const struct config *config,
              const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns,
              struct run **ret_run);
/* The run that was asked for goes on, or begins: it is the caller's. NULL when there is none. */
struct run *past_take(struct pasts *pasts, const struct header *header);

/* Gives the newest summary of each layer and track of a run that came back (restore.h), made again
 * from the newest windows of the history, to the sink's `recall`, which is not NULL: once, at the
 * start. Layers that have no window in the history are left out. Returns false when there is no
 * room for more. */
bool recall_run(struct run *run);

#endif
