/* SPDX-License-Identifier: MIT */
/* peer: a socket that plays the daemon. Endpoints are ephemeral; every wait has a bound. */
#ifndef TESTS_UNIT_CLIENTS_C_PEER_H
#define TESTS_UNIT_CLIENTS_C_PEER_H

#include "proto/header.h"
#include <stddef.h>
#include <zmq.h>

/* No test waits longer for anything that must happen. */
#define PEER_WAIT_MS 60000

struct peer {
    void *context, *socket;
    char endpoint[128];
};

/* Binds a SUB (or PUB) socket to `endpoint`, or to a free port when it is NULL. receive_hwm 0 =
 * default. */
struct peer peer_open(int type, const char *endpoint, int receive_hwm);
void peer_close(struct peer *peer);
void peer_subscribe(const struct peer *peer, const char *prefix);
void peer_unsubscribe(const struct peer *peer, const char *prefix);

/* Lets the socket do its work: a SUB that nobody polls passes no subscriptions on. */
void peer_service(const struct peer *peer);

#define PEER_FRAMES_MAX 8

/* A message as the daemon would see it. */
struct received {
    zmq_msg_t frames[PEER_FRAMES_MAX];
    unsigned count;
    struct header header;
};

/* Receives and checks one message: header, topic and frames must be sound. Returns false when
 * nothing came within wait_ms. */
bool peer_receive(const struct peer *peer, int wait_ms, struct received *ret_received);
void received_free(struct received *received);

/* Sends frames given as pointer and length, the last one with pointer NULL. */
struct frame {
    const void *data;
    size_t len;
};
void peer_send(const struct peer *peer, const struct frame *frames);

#endif
