/* SPDX-License-Identifier: MIT */
/* live: one message's numbers as a `live` result, in the model's order of heads. */
#ifndef DAEMON_RUN_LIVE_H
#define DAEMON_RUN_LIVE_H

#include "daemon/ingest/message.h"
#include "workers/measure.h"

/* Writes the map into an empty writer. A message with a slice of the heads gives arrays of
 * heads_total with null for the heads it does not have. Returns 0 or ERR_MEMORY. */
int live_write(const struct message *message, const struct measured *measured,
               struct mpk_writer *writer);

#endif
