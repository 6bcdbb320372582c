/* SPDX-License-Identifier: MIT */
/* closing: the work when a window of a run closes, or is shown before. Per layer: its summary with
 * the drift since the baseline is judged by the rules, is published, and goes to the history; so
 * alerts are published before the summary that they are about. Then the run is judged, and
 * everything that has become known is submitted as one batch: the windows, the alerts, the end of
 * the checkpoints of what has closed, and the new position.
 *
 * Acknowledged messages may not be lost any more: a window that there is no memory to keep stays
 * open, in the checkpoints, and closes again a second later (window_reopen). Loop thread only. */
#ifndef DAEMON_RUN_CLOSING_H
#define DAEMON_RUN_CLOSING_H

#include "daemon/run/run.h"
#include "daemon/state/merged.h"

/* Closes and publishes what may be, and ends the run when all its ranks have said bye. After every
 * message, and on a timer. */
void closing_settle(struct run *run, uint64_t now_ns);
/* A window of this track that a hub has merged: as if it had closed here, or, when it has, once
 * more as it is now: rules do not judge it and drift does not learn a second time. Returns 0, or
 * why nothing of it is in the history: it is to be tried again. */
int closing_merged(struct run *run, struct track *track, const struct merged *merged,
                   uint64_t now_ns);
/* Publishes every open window as partial, without closing it. Returns 0, or ERR_MEMORY: not all of
 * it is in the history. */
int closing_show(struct run *run);
/* Shows the windows that have gone quiet. */
void closing_show_quiet(struct run *run, uint64_t now_ns);
/* Nothing has been heard of it for limits.idle: shows its open windows, frees them, and tells the
 * alerts that fire. It goes on with its next message. Returns 0, or ERR_MEMORY: it stays as it is,
 * to be tried again. */
int closing_go_idle(struct run *run);
/* Judges what the run has lost since it was last judged, without a window: none will close. */
void closing_judge(struct run *run);
/* Asks the rules about silence, and once more when something has come again. On a timer. */
void closing_judge_silence(struct run *run, uint64_t now_ns);

#endif
