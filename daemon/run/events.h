/* SPDX-License-Identifier: MIT */
/* events: applies events to a run, in their turn (queue.c). Loop thread only. */
#ifndef DAEMON_RUN_EVENTS_H
#define DAEMON_RUN_EVENTS_H

#include "daemon/run/run.h"

/* Takes an event of a rank that is known. The drops that it tells of show at once; without
 * tensors no window would judge it. Returns 0, or why it is refused. */
int events_take(struct run *run, struct message *message);

/* Before any message of a rank is taken. After the rank's bye a number that was seen before is of a
 * run id that is used again: returns ERR_ENDED. One that goes on shows that the bye was not the
 * rank's last word, and takes it back: returns 0, as without a bye. */
int events_heed_bye(struct run *run, const struct message *message);

#endif
