/* SPDX-License-Identifier: MIT */
/* keys: comes to an attnd on TCP with the keys of this client, and says why it is not let in.
 *
 * ZeroMQ only connects again and again when its keys are refused. So a second connection is made,
 * which is watched: who knows how the handshake ends knows which key is wrong. The same sentences
 * as keys.py of the Python client. Any thread; no state. */
#ifndef CLIENTS_C_SRC_KEYS_H
#define CLIENTS_C_SRC_KEYS_H

#include "proto/address.h"
#include "proto/header.h"
#include "proto/key.h"

/* Whether there are keys, and they are shown there: over TCP. */
bool keys_are_for(const struct key_client *keys, const char *endpoint);
/* Connects; over TCP with the keys, if there are any. Returns 0, or -1 with zmq_errno(). */
int keys_connect(void *socket, const struct key_client *keys, const char *endpoint);

enum keys_verdict {
    KEYS_UNKNOWN, /* not TCP, without keys on either side, or nobody is there */
    KEYS_FIT,
    KEYS_WRONG,
};
/* Whether one comes to this endpoint with keys; then the prefix that attnd subscribes to when it
 * refuses the messages of the job that come with them. */
#define KEYS_REFUSAL_MAX (sizeof "refused/" + KEY_LENGTH + 1 + JOB_NAME_MAX)
bool keys_refusal(const struct key_client *keys, const char *endpoint, const char *job,
                  char ret_prefix[KEYS_REFUSAL_MAX]);
/* Writes that attnd lets the key in, but not as a publisher of this job, and what mends it. */
#define KEYS_DENIED_MAX 1024
void keys_deny(const struct key_client *keys, const char *endpoint, const char *job,
               char ret_sentence[KEYS_DENIED_MAX]);
/* Tries keys at one of attnd's sockets, for a second at most. KEYS_WRONG with a sentence.
 * listener_try_keys knows also what the other side says without them. */
enum keys_verdict keys_try(const struct key_client *keys, enum address_socket which,
                           const char *endpoint, char ret_sentence[ADDRESS_REASON_MAX]);

#endif
