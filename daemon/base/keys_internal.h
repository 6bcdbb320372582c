/* SPDX-License-Identifier: MIT */
/* keys_internal: how attnd tests the sockets that ask for keys (keys_test). */
#ifndef DAEMON_BASE_KEYS_INTERNAL_H
#define DAEMON_BASE_KEYS_INTERNAL_H

/* Connects to a socket of this type, bound to this endpoint by the owner of the key `server`, as
 * the owner of the other two, in a context of its own. Returns the event that ended the handshake:
 * ZMQ_EVENT_HANDSHAKE_FAILED_AUTH or ZMQ_EVENT_HANDSHAKE_SUCCEEDED; 0 when none came in 30 s. */
int keys_knock(int type, const char *endpoint, const char *server, const char *public,
               const char *secret);

#endif
