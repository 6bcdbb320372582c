/* SPDX-License-Identifier: MIT */
#include "clients/c/src/keys.h"

#include "clients/c/src/socket.h"

#include <stdio.h>
#include <string.h>
#include <zmq.h>

#define TRY_MS 1000

bool keys_are_for(const struct key_client *keys, const char *endpoint)
{
    return *keys->secret && strncmp(endpoint, "tcp://", strlen("tcp://")) == 0;
}

int keys_connect(void *socket, const struct key_client *keys, const char *endpoint)
{
    char public[KEY_LENGTH + 1];
    if (keys_are_for(keys, endpoint) &&
        (zmq_curve_public(public, keys->secret) != 0 ||
         zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, keys->server, sizeof keys->server) != 0 ||
         zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public, sizeof public) != 0 ||
         zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys->secret, sizeof keys->secret) != 0)) {
        return -1;
    }
    return zmq_connect(socket, endpoint);
}

bool keys_refusal(const struct key_client *keys, const char *endpoint, const char *job,
                  char ret_prefix[KEYS_REFUSAL_MAX])
{
    char public[KEY_LENGTH + 1];
    if (!keys_are_for(keys, endpoint) || zmq_curve_public(public, keys->secret) != 0) {
        return false;
    }
    snprintf(ret_prefix, KEYS_REFUSAL_MAX, "refused/%s/%s", public, job);
    return true;
}

void keys_deny(const struct key_client *keys, const char *endpoint, const char *job,
               char ret_sentence[KEYS_DENIED_MAX])
{
    char public[KEY_LENGTH + 1] = "";
    (void)zmq_curve_public(public, keys->secret);
    snprintf(
        ret_sentence, KEYS_DENIED_MAX,
        "attnd at %.255s refuses the messages of job %s: its access list (keys.access) does "
        "not let the key %s publish this job. Remedy: the line '%s  publish  %s' in that list, "
        "and SIGHUP for attnd",
        endpoint, job, public, public, job);
}

/* The event that ends a handshake; 0 when there was none. One that says no more than
 * that the peer hung up counts only if the next ones, as ZeroMQ tries again, say no more. */
static uint16_t keys_watch(void *monitor)
{
    uint64_t deadline = socket_now_ms() + TRY_MS, now;
    zmq_pollitem_t item = {.socket = monitor, .events = ZMQ_POLLIN};
    uint16_t last = 0;
    while ((now = socket_now_ms()) < deadline) {
        unsigned char frame[6];
        char address[ADDRESS_MAX];
        uint16_t event;
        if (zmq_poll(&item, 1, (long)(deadline - now)) <= 0 ||
            zmq_recv(monitor, frame, sizeof frame, 0) != sizeof frame) {
            continue;
        }
        zmq_recv(monitor, address, sizeof address, 0);
        memcpy(&event, frame, sizeof event);
        if (event != ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
            return event;
        }
        last = event;
    }
    return last;
}

static uint16_t keys_shake_hands(const struct key_client *keys, enum address_socket which,
                                 const char *endpoint)
{
    static const int types[ADDRESS_COUNT] = {ZMQ_PUB, ZMQ_SUB, ZMQ_DEALER, ZMQ_SUB, ZMQ_DEALER};
    const int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                       ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_CLOSED;
    static const struct socket_option options[] = {{ZMQ_LINGER, 0}};
    void *context = socket_context_new(), *socket = NULL, *monitor = NULL;
    uint16_t event = 0;
    if (!context || socket_open(context, types[which], options, 1, 4096, &socket) != 0) {
        goto done;
    }
    monitor = zmq_socket(context, ZMQ_PAIR);
    if (monitor && zmq_socket_monitor(socket, "inproc://handshake", events) == 0 &&
        zmq_connect(monitor, "inproc://handshake") == 0 &&
        keys_connect(socket, keys, endpoint) == 0) {
        event = keys_watch(monitor);
    }
done:
    if (monitor) {
        zmq_close(monitor);
    }
    if (socket) {
        zmq_close(socket);
    }
    socket_context_free(context);
    return event;
}

/* Whether attnd's control socket, which every listed key may use, is where its address has it, and
 * takes the key. */
static bool keys_is_listed(const struct key_client *keys, const char *ingest)
{
    char control[ADDRESS_MAX], reason[ADDRESS_REASON_MAX];
    return address_endpoint(ingest, ADDRESS_CONTROL, control, reason) == 0 &&
           keys_shake_hands(keys, ADDRESS_CONTROL, control) == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
}

/* Why the key was refused. */
static void keys_say_refused(const struct key_client *keys, enum address_socket which,
                             const char *endpoint, char ret_sentence[ADDRESS_REASON_MAX])
{
    char public[KEY_LENGTH + 1] = "";
    (void)zmq_curve_public(public, keys->secret);
    if (which == ADDRESS_INGEST && keys_is_listed(keys, endpoint)) {
        snprintf(
            ret_sentence, ADDRESS_REASON_MAX,
            "attnd at %.255s does not let this client publish: by keys.access its public key "
            "%s has no role publish. Remedy: a line with that role for it, and SIGHUP for attnd",
            endpoint, public);
        return;
    }
    snprintf(ret_sentence, ADDRESS_REASON_MAX,
             "attnd at %.255s does not let this client in: keys.access has no line for its public "
             "key %s with a role for the %s socket%s",
             endpoint, public, address_socket_name[which],
             which == ADDRESS_CONTROL ? ""
             : which == ADDRESS_INGEST || which == ADDRESS_RELIABLE
                 ? " (publish)"
                 : " (read, with the pattern *)");
}

enum keys_verdict keys_try(const struct key_client *keys, enum address_socket which,
                           const char *endpoint, char ret_sentence[ADDRESS_REASON_MAX])
{
    switch (keys_shake_hands(keys, which, endpoint)) {
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        return KEYS_FIT;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        keys_say_refused(keys, which, endpoint, ret_sentence);
        return KEYS_WRONG;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        snprintf(
            ret_sentence, ADDRESS_REASON_MAX,
            "attnd at %.255s has another key than ATTND_SERVER_KEY. Remedy: the public half of "
            "the key that attnd has now (attnctl key show FILE, of its keys.server)",
            endpoint);
        return KEYS_WRONG;
    default:
        return KEYS_UNKNOWN;
    }
}
