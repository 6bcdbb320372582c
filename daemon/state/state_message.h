/* SPDX-License-Identifier: MIT */
/* state_message: the state that a message of type `state` brings. Any thread, one at a time. */
#ifndef DAEMON_STATE_STATE_MESSAGE_H
#define DAEMON_STATE_STATE_MESSAGE_H

#include "daemon/state/layer_state.h"

/* Reads it, and names the patterns of heads that have none. Returns 0, ERR_MEMORY, ERR_STATE for
 * what is no state, or holds what only an attnd can know (losses, details, judgements), or
 * ERR_STATE_MISMATCH when it says something else than the header. */
int state_message_read(struct message *message, struct layer_state **ret_state);

/* Reads the maps that it brings, as far as message->wants_map and wants_head_maps say: those of the
 * heads into the message, as if they had been made of it, and the one of the window into the state.
 * Returns 0 or ERR_MEMORY. */
int state_message_maps(struct message *message, struct layer_state *state);
/* The newest importance of the heads of these maps, [header.maps.heads], to be freed; NULL when a
 * head has none, they are not all heads of the layer, or there is no memory. */
double *state_message_importance(const struct message *message, const struct layer_state *state);

#endif
