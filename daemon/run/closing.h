/* SPDX-License-Identifier: MIT */
/* closing: the work when a window of a run closes, or is shown before. Per layer: its summary with
 * the drift since the baseline is judged by the rules, is published, and goes to the history; so
 * alerts are published before the summary that they are about. Then the run is judged, and
 * everything that has become known is submitted as one batch: the windows, the alerts, the end of
 * the checkpoints of what has closed, and the new position.
 *
 * Acknowledged messages may not be lost any more: a window that there is no memory to keep stays
 * open, in the checkpoints, and closes again a second later (window_reopen).
 *
 * A wide window takes seconds. So it goes out layer by layer, until sink->pause says that others
 * wait, and closing_go_on continues. Meanwhile nothing else happens to the run: it takes no
 * message, begins no other window, and is not saved by rounds; its checkpoints are of before. Loop
 * thread only. */
#ifndef DAEMON_RUN_CLOSING_H
#define DAEMON_RUN_CLOSING_H

#include "daemon/run/run.h"
#include "daemon/state/merged.h"

/* Closes and publishes what may be, and ends the run when all its ranks have said bye. After every
 * message, and on a timer. */
void closing_settle(struct run *run, uint64_t now_ns);
/* Goes on with what run_closes tells, and then with what that held up. */
void closing_go_on(struct run *run);
/* A window of this track that a hub has merged: as if it had closed here, or, when it has, once
 * more as it is now: rules do not judge it and drift does not learn a second time. Not while
 * another window is on its way. Returns 0: then it is on its way, or out, and sink->merged tells
 * what has become of it; or why it is not: it is to be tried again. */
int closing_merged(struct run *run, struct track *track, struct merged *merged, uint64_t now_ns);
/* Publishes every open window as partial, without closing it: `shows` until they are out, and then
 * `show_code` says whether all of it is in the history. */
void closing_show(struct run *run);
/* Shows the windows that have gone quiet. */
void closing_show_quiet(struct run *run, uint64_t now_ns);
/* Nothing has been heard of it for limits.idle: shows its open windows, frees them, and tells the
 * alerts that fire. It goes on with its next message. Returns 0; ERR_AGAIN: its windows are on
 * their way, and it goes idle then; or ERR_MEMORY: it stays as it is, to be tried again. */
int closing_go_idle(struct run *run);

#endif
