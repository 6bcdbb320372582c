/* SPDX-License-Identifier: MIT */
/* restart: attnd begins again at once when something in the process calls abort, as an assert of a
 * library does (base/README.md, "Asserts of libzmq").
 *
 * The same process executes its program anew, with the arguments and the environment that it was
 * started with: who waits for it, a service manager too, sees the same process id. As after a kill
 * it takes up its history; the reliable lane loses nothing, and what was not saved of the other
 * lane shows as gaps. One that has run for less than a second ends: something else is wrong then.
 */
#ifndef DAEMON_RESTART_H
#define DAEMON_RESTART_H

/* From now on. Says in the log if it has begun again now. Call it once, before the first thread and
 * before the environment changes; `argv` stays the caller's, and outlives the process. */
void restart_on_abort(char **argv);

#endif
