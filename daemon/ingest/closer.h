/* SPDX-License-Identifier: MIT */
/* closer: a thread that closes descriptors which came from outside. Closing may take as long as it
 * likes for a socket that lingers, a file of FUSE, or a connection in which such a thing may still
 * be. */
#ifndef DAEMON_INGEST_CLOSER_H
#define DAEMON_INGEST_CLOSER_H

/* Starts the thread; *ret_closer is the pipe to it. Returns 0 or an errno. */
int closer_start(int *ret_closer);
/* Any thread: the descriptor is closed soon. */
void closer_close(int closer, int fd);
/* The thread ends when it has closed all of them; nobody waits for it. */
void closer_stop(int closer);

#endif
