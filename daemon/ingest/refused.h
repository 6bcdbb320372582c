/* SPDX-License-Identifier: MIT */
/* refused: tells of messages that are refused: the log; and trainers whose key may not publish for
 * their job, by prefixes that no message ever has (PROTOCOL.md, "Whom the daemon refuses").
 *
 * The ingest thread. */
#ifndef DAEMON_INGEST_REFUSED_H
#define DAEMON_INGEST_REFUSED_H

#include "daemon/base/keys.h"
#include "daemon/ingest/message.h"

#define REFUSED_MAX     256
#define REFUSED_KEY_MAX 4

/* Pairs of a key and a job, "refused/<public key>/<job>", which are subscribed to. A key that tries
 * many jobs gets no more than its part of the room, and none of it is taken from others. */
struct refused {
    char text[REFUSED_MAX][sizeof "refused/" + KEY_LENGTH + 1 + JOB_NAME_MAX];
    uint32_t count;
};

/* A message was refused; `before` have been for this reason. `key`: of the header, at fault; NULL =
 * none. The message may be NULL: its frames are gone. */
void refused_log(const struct message *message, int code, const char *key, uint64_t before);

/* Logs the refusal of any message; `socket` tells its trainer when its key was the reason. Each
 * key has counts of its own then. */
void refused_tell(struct refused *refused, void *socket, struct keyring *keys,
                  struct message *message, int code, const char *key, uint64_t before);

/* The list of keys is another one: nobody is refused until a message says so again. */
void refused_forget(struct refused *refused, void *socket);

#endif
