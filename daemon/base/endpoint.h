/* SPDX-License-Identifier: MIT */
/* endpoint: opens and binds a ZeroMQ socket with limits on everything, or says why not in one line.
 * A socket that a service manager handed over (activation.h) is taken instead of bound. */
#ifndef DAEMON_BASE_ENDPOINT_H
#define DAEMON_BASE_ENDPOINT_H

#include "daemon/base/keys.h"

#include <stdatomic.h>
#include <sys/types.h>

/* A context for endpoint_bind, or NULL with zmq_errno(). Receiving and sending have an I/O thread
 * each: thousands of subscribers never hold up what trainers send. zmq_ctx_term is the caller's. */
void *endpoint_context_new(void);

/* The file of an ipc:// socket, by which its loss is noticed. */
struct endpoint_file {
    const char *key;
    _Atomic uint64_t inode; /* 0: TCP, or somebody else looks after it */
    uint64_t failures;      /* to bind again; of the socket's thread */
};

struct endpoint_options {
    const char *key;                /* the config key, for the message */
    char *endpoint;                 /* tcp://host:port or ipc://path; ENDPOINT_MAX bytes */
    int type;                       /* ZMQ_SUB, ... */
    int send_queue;                 /* messages; 0 = ZeroMQ's default */
    int64_t max_message;            /* bytes of one frame */
    bool answers;                   /* sends answers, whatever its type */
    int linger_ms;                  /* how long closing may go on sending */
    struct keyring *keys;           /* that TCP asks for; NULL = none */
    bool again;                     /* a socket of ours had the endpoint until a moment ago */
    struct endpoint_file *ret_file; /* outlives the socket */
};

/* Returns the bound socket and replaces options->endpoint by the address it has
 * ("tcp://127.0.0.1:41234" for port *), or NULL with a sentence in reterr (CONFIG_ERROR_MAX bytes):
 * the key, the endpoint, the reason, and what to do. The file of an ipc:// socket is for this user,
 * and for the group if its directory is (0750), whatever the umask. A TCP socket that asks for keys
 * has refused an unknown one when it is returned. */
void *endpoint_bind(void *zmq_context, const struct endpoint_options *options, char *reterr);

/* Whether somebody listens at an ipc:// endpoint. */
bool endpoint_answers(const char *endpoint);
/* The mode of a Unix socket's file: for the group as well where nobody but the group gets as far as
 * the file. */
mode_t endpoint_mode(const char *path);

/* Whether a socket with these keys asks for them there: over TCP. */
bool endpoint_is_secured(const struct keyring *keys, const char *endpoint);

/* Any thread: whether clients no longer find the socket, because its file has gone, or the endpoint
 * is another one than it was. */
bool endpoint_is_lost(const char *endpoint, const struct endpoint_file *file);
/* The socket's thread: binds a lost one once more, and logs that, or why not. Connections that
 * exist go on. */
void endpoint_keep(void *socket, const char *endpoint, struct endpoint_file *file);

#endif
