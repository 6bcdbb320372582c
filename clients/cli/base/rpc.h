/* SPDX-License-Identifier: MIT */
/* rpc: one question to attnd and its answer, over a ZeroMQ DEALER.
 *
 *   request [0, id, method, params]      reply [1, id, error, result]
 *
 * rpc_call waits for the answer; rpc_send and rpc_take are for several questions on their way at
 * once, with zmq_poll on rpc.socket.
 *
 * One thread per struct rpc. */
#ifndef CLIENTS_CLI_BASE_RPC_H
#define CLIENTS_CLI_BASE_RPC_H

#include "clients/c/src/keys.h"
#include "clients/c/src/socket.h"
#include "proto/mpk.h"

#include <zmq.h>

enum rpc_status {
    RPC_OK,
    RPC_REFUSED,     /* attnd answered with an error */
    RPC_UNREACHABLE, /* no answer in time */
    RPC_ENDPOINT,    /* the endpoint is not one */
    RPC_ADDRESS,     /* the address is not one: see the reason */
    RPC_KEY,         /* the keys are none, or not those of attnd: see the reason */
    RPC_NOBODY,      /* no attnd was found: see the reason */
    RPC_BROKEN,      /* something answered that is not attnd */
    RPC_INTERRUPTED, /* a signal came first */
    RPC_MEMORY,
};

struct rpc {
    int timeout_ms;
    void *context, *socket;
    struct key_client keys;
    uint64_t last_id;
    char endpoint[ADDRESS_MAX];      /* whom it asks */
    bool found;                      /* nobody named it: it may be found elsewhere next time */
    char reason[ADDRESS_REASON_MAX]; /* after RPC_ADDRESS, RPC_KEY, RPC_NOBODY */
};

/* With an endpoint exactly that socket is asked; otherwise (NULL) that of the address, or (NULL) of
 * the attnd that is found. Nothing is sent yet: an attnd that is named and not there shows at the
 * first call. On failure *ret_rpc has a reason, and needs no rpc_close. Returns RPC_OK,
 * RPC_ENDPOINT, RPC_ADDRESS, RPC_KEY, RPC_NOBODY or RPC_MEMORY. */
enum rpc_status rpc_open(const char *endpoint, const char *address, int timeout_ms,
                         struct rpc *ret_rpc);
void rpc_close(struct rpc *rpc);
/* Another socket with the same keys, connected, with these options, frames up to `frame_max` bytes
 * and no linger; the caller's to close. NULL with errno. */
void *rpc_connect(const struct rpc *rpc, int type, const struct socket_option *options,
                  size_t count, size_t frame_max, const char *endpoint);

#define RPC_TEXT_MAX 256

struct rpc_reply {
    zmq_msg_t frame;
    struct mpk_doc doc;
    const msgpack_object *result;                   /* points into frame and doc */
    char code[RPC_TEXT_MAX], message[RPC_TEXT_MAX]; /* of RPC_REFUSED; printable */
};

/* Calls `method` with a map of parameters (NULL = an empty one). With RPC_OK the reply owns memory
 * until rpc_reply_clear, and must not be moved; with RPC_REFUSED only code and message are set;
 * otherwise nothing is. */
enum rpc_status rpc_call(struct rpc *rpc, const char *method, const struct mpk_writer *params,
                         struct rpc_reply *ret_reply);
/* Sends a question without waiting, and returns RPC_OK with the id of its answer; or as
 * rpc_call. */
enum rpc_status rpc_send(struct rpc *rpc, const char *method, const struct mpk_writer *params,
                         uint64_t *ret_id);
/* Takes an answer that has come already, to whichever question: RPC_OK or RPC_REFUSED with its id;
 * RPC_UNREACHABLE: none has come; others as rpc_call, and what came is gone. */
enum rpc_status rpc_take(struct rpc *rpc, struct rpc_reply *ret_reply, uint64_t *ret_id);

void rpc_reply_clear(struct rpc_reply *reply);

#endif
