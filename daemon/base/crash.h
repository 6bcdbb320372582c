/* SPDX-License-Identifier: MIT */
/* crash: named points at which attnd kills itself, or a thread of it stands still, so that tests
 * can see what survives and what is noticed.
 *
 * A testing aid: ATTND_CRASH_AT=NAME (or NAME:N) in the environment raises SIGKILL when the point
 * is passed for the first (the Nth) time. Without the variable a point costs one comparison.
 * The points, in the order of a message's life:
 *
 *   window_published      a window is out on the publish socket, nothing of it was submitted
 *   window_submitted      ... and its batch is with the store
 *   checkpoint_packed     open windows are packed, not submitted
 *   checkpoint_submitted  ... and their batch is with the store
 *   store_...             in the store's thread, see store.c
 *   outbox_..., uplink_...  in a node's thread that sends to hubs, see outbox.c and uplink.c
 *
 * ATTND_STALL_AT=NAME (or NAME:N) makes the thread that passes the point then wait for ever:
 *
 *   loop    at each tick of the timer that there is for a service manager
 *   ingest  at each turn of the thread
 *   store   each time that something is written, and once at the start */
#ifndef DAEMON_BASE_CRASH_H
#define DAEMON_BASE_CRASH_H

/* Any thread. */
void crash_point(const char *name);
void stall_point(const char *name);

#endif
