/* SPDX-License-Identifier: MIT */
/* rpc: a DEALER that is connected once and asks one thing at a time.
 *
 * ZeroMQ connects in the background and never reports that nobody is there; therefore every call
 * has a deadline, and only the deadline tells. A reply with another id is a late answer to an
 * earlier call and is skipped. */
#include "clients/cli/base/rpc.h"

#include "clients/c/src/listener.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum rpc_status rpc_open(const char *endpoint, const char *address, int timeout_ms,
                         struct rpc *ret_rpc)
{
    struct rpc rpc = {.timeout_ms = timeout_ms};
    enum rpc_status status = RPC_OK;
    if (!endpoint && address_find(address, ADDRESS_CONTROL, rpc.endpoint, rpc.reason) != 0) {
        *ret_rpc = rpc;
        return address ? RPC_ADDRESS : RPC_NOBODY;
    }
    rpc.found = !endpoint && !address;
    if (endpoint && snprintf(rpc.endpoint, ADDRESS_MAX, "%s", endpoint) >= ADDRESS_MAX) {
        *ret_rpc = rpc;
        return RPC_ENDPOINT;
    }
    if (strncmp(rpc.endpoint, "tcp://", 6) == 0 && key_find(&rpc.keys, rpc.reason) != 0) {
        *ret_rpc = rpc;
        return RPC_KEY;
    }
    rpc.context = zmq_ctx_new();
    if (!rpc.context) {
        return RPC_MEMORY;
    }
    rpc.socket = rpc_connect(&rpc, ZMQ_DEALER, NULL, 0, mpk_result_limits.bytes, rpc.endpoint);
    if (!rpc.socket) {
        status = errno == EMFILE || errno == ENOMEM ? RPC_MEMORY : RPC_ENDPOINT;
        rpc_close(&rpc);
    }
    *ret_rpc = rpc;
    return status;
}

void *rpc_connect(const struct rpc *rpc, int type, const struct socket_option *options,
                  size_t count, size_t frame_max, const char *endpoint)
{
    const int none = 0;
    void *socket = NULL;
    if (socket_open(rpc->context, type, options, count, (int64_t)frame_max, &socket) == 0 &&
        zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none) == 0 &&
        keys_connect(socket, &rpc->keys, endpoint) == 0) {
        return socket;
    }
    int error = errno;
    if (socket) {
        zmq_close(socket);
    }
    errno = error;
    return NULL;
}

void rpc_close(struct rpc *rpc)
{
    if (rpc->socket) {
        zmq_close(rpc->socket);
    }
    if (rpc->context) {
        zmq_ctx_term(rpc->context);
    }
    rpc->socket = rpc->context = NULL;
}

enum rpc_status rpc_send(struct rpc *rpc, const char *method, const struct mpk_writer *params,
                         uint64_t *ret_id)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_array(&writer, 4);
    mpk_put_u64(&writer, 0);
    mpk_put_u64(&writer, *ret_id = ++rpc->last_id);
    mpk_put_str(&writer, method);
    if (!params) {
        mpk_put_map(&writer, 0);
    } else if (msgpack_sbuffer_write(&writer.buffer, params->buffer.data, params->buffer.size) !=
               0) {
        writer.failed = true;
    }
    enum rpc_status status = RPC_MEMORY;
    if (mpk_writer_ok(&writer) && (!params || mpk_writer_ok(params))) {
        status = zmq_send(rpc->socket, writer.buffer.data, writer.buffer.size, ZMQ_DONTWAIT) < 0
                     ? RPC_UNREACHABLE
                     : RPC_OK;
    }
    mpk_writer_clear(&writer);
    return status;
}

/* Receives one frame into an initialised message, waiting until the deadline. */
static enum rpc_status rpc_receive(struct rpc *rpc, int64_t deadline_ms, zmq_msg_t *frame)
{
    zmq_pollitem_t item = {.socket = rpc->socket, .events = ZMQ_POLLIN};
    for (;;) {
        int64_t left_ms = deadline_ms - now_ms();
        int ready = zmq_poll(&item, 1, left_ms > 0 ? (long)left_ms : 0);
        if (ready < 0) {
            return errno == EINTR ? RPC_INTERRUPTED : RPC_BROKEN;
        }
        if (ready > 0 && zmq_msg_recv(frame, rpc->socket, ZMQ_DONTWAIT) >= 0) {
            return RPC_OK;
        }
        if (left_ms <= 0) {
            return RPC_UNREACHABLE;
        }
    }
}

/* Takes a parsed reply apart: RPC_OK, RPC_REFUSED or RPC_BROKEN. */
static enum rpc_status rpc_check_reply(struct rpc_reply *reply, uint64_t *ret_id)
{
    const msgpack_object *root = reply->doc.root;
    uint64_t type;
    if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size != 4) {
        return RPC_BROKEN;
    }
    const msgpack_object *part = root->via.array.ptr;
    if (mpk_get_u64(&part[0], 1, &type) != 0 || type != 1 ||
        mpk_get_u64(&part[1], UINT64_MAX, ret_id) != 0) {
        return RPC_BROKEN;
    }
    reply->result = &part[3];
    if (part[2].type == MSGPACK_OBJECT_NIL) {
        return RPC_OK;
    }
    if (part[2].type != MSGPACK_OBJECT_MAP) {
        return RPC_BROKEN;
    }
    const msgpack_object *error = &part[2];
    field_text(error, "code", reply->code, sizeof reply->code);
    field_text(error, "message", reply->message, sizeof reply->message);
    return RPC_REFUSED;
}

/* One frame, as far as it goes, in place: neither a ZeroMQ message nor a document may be moved.
 * RPC_UNREACHABLE also for an answer that is not `wanted`; 0: any is. Owns nothing but RPC_OK's. */
static enum rpc_status receive_reply(struct rpc *rpc, int64_t deadline_ms, uint64_t wanted,
                                     struct rpc_reply *reply, uint64_t *ret_id)
{
    zmq_msg_init(&reply->frame);
    enum rpc_status status = rpc_receive(rpc, deadline_ms, &reply->frame);
    bool parsed = false;
    if (status == RPC_OK) {
        parsed = !zmq_msg_more(&reply->frame) &&
                 mpk_parse(zmq_msg_data(&reply->frame), zmq_msg_size(&reply->frame),
                           &mpk_result_limits, &reply->doc) == 0;
        status = parsed ? rpc_check_reply(reply, ret_id) : RPC_BROKEN;
    }
    if (wanted != 0 && (status == RPC_OK || status == RPC_REFUSED) && *ret_id != wanted) {
        status = RPC_UNREACHABLE;
    }
    if (status == RPC_OK) {
        return RPC_OK;
    }
    if (parsed) {
        mpk_doc_clear(&reply->doc);
    }
    zmq_msg_close(&reply->frame);
    return status;
}

enum rpc_status rpc_call(struct rpc *rpc, const char *method, const struct mpk_writer *params,
                         struct rpc_reply *ret_reply)
{
    int64_t deadline_ms = now_ms() + rpc->timeout_ms;
    uint64_t wanted, id;
    enum rpc_status status = rpc_send(rpc, method, params, &wanted);
    if (status != RPC_OK) {
        return status;
    }
    int64_t look_ms = now_ms() + LISTENER_LOOK_MS;
    look_ms = look_ms < deadline_ms ? look_ms : deadline_ms;
    do {
        status = receive_reply(rpc, look_ms, wanted, ret_reply, &id);
        if (status == RPC_UNREACHABLE && now_ms() >= look_ms) {
            look_ms = deadline_ms;
            if (listener_try_keys(&rpc->keys, ADDRESS_CONTROL, rpc->endpoint, rpc->reason) ==
                KEYS_WRONG) {
                status = RPC_KEY;
            }
        }
    } while (status == RPC_UNREACHABLE && now_ms() < deadline_ms);
    return status;
}

enum rpc_status rpc_take(struct rpc *rpc, struct rpc_reply *ret_reply, uint64_t *ret_id)
{
    return receive_reply(rpc, 0, 0, ret_reply, ret_id);
}

void rpc_reply_clear(struct rpc_reply *reply)
{
    mpk_doc_clear(&reply->doc);
    zmq_msg_close(&reply->frame);
}
