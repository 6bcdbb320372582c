/* SPDX-License-Identifier: MIT */
/* state_message: the state that a message of type `state` brings. Loop thread only. */
#ifndef DAEMON_STATE_STATE_MESSAGE_H
#define DAEMON_STATE_STATE_MESSAGE_H

#include "daemon/state/layer_state.h"

/* Reads it, and names the patterns of heads that have none. Returns 0, ERR_MEMORY, ERR_STATE for
 * what is no state, or holds what only an attnd can know (losses, details, judgements), or
 * ERR_STATE_MISMATCH when it says something else than the header. */
int state_message_read(struct message *message, struct layer_state **ret_state);

#endif
