/* SPDX-License-Identifier: MIT */
/* keys: who may do what over TCP, when the section `keys` is configured.
 *
 * TCP sockets are CURVE servers. A thread judges each connection by the list in force when it is
 * made (ZAP); what comes in later is judged message by message, by the list as it is then, because
 * ZeroMQ cannot end a connection. Unix sockets need no key: the permissions of their directory say
 * who may use them.
 *
 * Any thread, if nothing else is said. Functions accept NULL for keys: none are configured, and
 * everything is allowed. */
#ifndef DAEMON_BASE_KEYS_H
#define DAEMON_BASE_KEYS_H

#include "config/access.h"
#include "config/config.h"
#include "daemon/base/stats.h"

#include <zmq.h>

struct keyring;

/* Reads keys.server, keys.access and keys.next, and starts the handler in the context; before any
 * socket is bound. Leaves *ret_keys NULL when none are configured. Returns 0, or -1 with a sentence
 * in reterr (CONFIG_ERROR_MAX bytes). */
int keys_new(void *zmq_context, const struct config *config, struct stats *stats,
             struct keyring **ret_keys, char *reterr);
/* Ends the handler; when every socket of the context is closed, and before the context ends.
 * Accepts NULL. */
void keys_free(struct keyring **keys);

/* attnd's own keys: that of its address, and the next one, of its second address (keys.next). */
enum keys_own { KEYS_SERVER, KEYS_NEXT, KEYS_OWN_COUNT };

/* Makes the socket of this name ("ingest", "reliable", ...) ask for keys at what it is
 * bound to from now on, as the owner of that key. Returns 0, or -1 with zmq_errno(). */
int keys_secure(struct keyring *keys, void *socket, const char *name, enum keys_own own);
/* Connects to such a socket, of this type, with a key that nobody knows. Returns 0 when it is
 * refused; else -1 with a sentence in reterr. */
int keys_test(struct keyring *keys, const char *name, int type, const char *endpoint,
              enum keys_own own, char *reterr);
/* Writes where the socket of this name is bound with the next key, beside its own endpoint. Returns
 * whether there is a next key. */
bool keys_next_endpoint(const struct keyring *keys, const char *name,
                        char ret_endpoint[ENDPOINT_MAX]);

/* Whether the sender of this frame may do what the role says to the job; NULL: to all jobs. The
 * frame came from a socket that asks for keys: one without a key is nobody's. For other sockets
 * keys are NULL. */
bool keys_allow(struct keyring *keys, zmq_msg_t *frame, enum access_role role, const char *job);
/* Whether it is somebody that the list knows. */
bool keys_know(struct keyring *keys, zmq_msg_t *frame);

/* Somebody whose messages are refused. */
struct keys_sender {
    char key[KEY_LENGTH + 1];          /* the public key; "" = none */
    char name[ACCESS_COMMENT_MAX + 1]; /* in the list, else the start of the key */
    uint64_t refused;                  /* messages of this key, whenever it was listed */
};
/* The public key of this frame's sender, which lives as long as the frame, when it may publish some
 * jobs only; else NULL. */
const char *keys_bounded(struct keyring *keys, zmq_msg_t *frame);
/* Counts that a message of this frame's sender may not be sent by it. */
void keys_count_refused(struct keyring *keys, zmq_msg_t *frame, struct keys_sender *ret_sender);

/* Receives a frame of at most `size` bytes as zmq_recv does, without waiting, and notes whose it
 * is. *ret_fd: the descriptor of its connection; -1: none, or one that has ended. */
int keys_receive(struct keyring *keys, void *socket, void *buffer, size_t size, int *ret_fd);
/* Calls `visit` for each line of the list, with whether a connection goes on over which its key was
 * heard at each of attnd's addresses: by a message, a request or a subscription; and how many
 * messages of the key were refused, as of another job. */
void keys_each(struct keyring *keys,
               void (*visit)(void *data, const struct access_line *line,
                             const bool connected[KEYS_OWN_COUNT], uint64_t refused),
               void *data);

/* Reads keys.access again; a mistake changes nothing. Returns 0, or -1 with a sentence in reterr;
 * *ret_revoked: whether a line has gone, so that connections that only read must end. The loop. */
int keys_reload(struct keyring *keys, bool *ret_revoked, char *reterr);
/* Warns of a list without a line, which may have been cut short. It is in force all the same: whose
 * line has gone must stay outside. */
void keys_warn_if_empty(const struct access *access, const char *path);
/* Lines of the list. */
uint32_t keys_count(struct keyring *keys);

#endif
