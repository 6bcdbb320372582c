/* SPDX-License-Identifier: MIT */
/* arenas: keeps malloc from holding on to memory that was freed. Any thread. */
#ifndef DAEMON_ARENAS_H
#define DAEMON_ARENAS_H

/* Bounds how many arenas there are. Before the first thread. */
void arenas_limit(void);
/* Gives the pages back to the kernel that hold nothing. Takes milliseconds. */
void arenas_trim(void);

#endif
