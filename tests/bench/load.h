/* SPDX-License-Identifier: MIT */
/* load: sends one attention map again and again, as fast as attnd takes it, from one buffer
 * that is never copied. For benches: what goes wrong ends the process with a line on stderr. */
#ifndef TESTS_BENCH_LOAD_H
#define TESTS_BENCH_LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

/* Nothing is waited for longer. */
#define LOAD_PATIENCE_MS 60000

struct load {
    const char *job;
    uint8_t run[16];                /* random: no daemon knows it */
    uint32_t heads, length, layers; /* [1, heads, length, length] f32, the layers in turn */
    float *payload;                 /* owned */
    uint64_t sent;
};

/* Softmax rows of mild logits, so that no value is special. */
void load_init(struct load *load, const char *job, uint32_t heads, uint32_t length,
               uint32_t layers);
void load_clear(struct load *load);
/* The bytes of one message. */
size_t load_bytes(const struct load *load);

/* An XPUB connected to `endpoint` that has seen the subscription, with the settings of the wire
 * contract. */
void *load_connect(void *zmq, const char *endpoint);
/* The same with a key of its own, to a server of this public key (Z85). */
void *load_connect_secured(void *zmq, const char *endpoint, const char *server_key);
/* Sends one message; waits for room, a minute at most. */
void load_publish(struct load *load, void *socket);
/* The same with a frame in the place of the tensor's, which it takes. */
void load_send(struct load *load, void *socket, zmq_msg_t *payload);

/* Ends the process, naming what failed and ZeroMQ's reason. */
_Noreturn void load_die(const char *what);
void load_set(void *socket, int option, int value);
double load_seconds(void);

#endif
