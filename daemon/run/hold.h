/* SPDX-License-Identifier: MIT */
/* hold: messages of the reliable lane that came before messages of the other lane which their rank
 * had sent first. Each rank's wait in their order: an event until the messages that its header
 * names have been taken, or for window.timeout, and the others behind it. Loop thread only. */
#ifndef DAEMON_RUN_HOLD_H
#define DAEMON_RUN_HOLD_H

#include "daemon/run/run.h"

/* Takes the message over, if it has to wait. Returns 1 when it does, 0 when not, or ERR_MEMORY: it
 * may not overtake the others. */
int hold_put(struct run *run, struct message *message, uint64_t now_ns);
/* The next message that need not wait any more at `now_ns`, UINT64_MAX: whatever it waits for;
 * NULL: there is none. */
struct message *hold_take(struct run *run, uint64_t now_ns);

#endif
