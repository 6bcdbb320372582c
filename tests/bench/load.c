/* SPDX-License-Identifier: MIT */
#include "tests/bench/load.h"

#include "proto/header.h"
#include "proto/mpk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <zmq.h>

void load_die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

double load_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void load_set(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

size_t load_bytes(const struct load *load)
{
    return (size_t)load->heads * load->length * load->length * sizeof(float);
}

static void load_fill_row(float *row, uint32_t length, uint32_t *random)
{
    double sum = 0;
    for (uint32_t j = 0; j < length; j++) {
        *random = *random * 1664525u + 1013904223u;
        sum += row[j] = expf((float)(*random >> 8) / 8388608.0f);
    }
    for (uint32_t j = 0; j < length; j++) {
        row[j] = (float)(row[j] / sum);
    }
}

void load_init(struct load *load, const char *job, uint32_t heads, uint32_t length, uint32_t layers)
{
    uint32_t random = 1;
    *load = (struct load){.job = job, .heads = heads, .length = length, .layers = layers};
    load->payload = malloc(load_bytes(load));
    if (!load->payload || getrandom(load->run, sizeof load->run, 0) != sizeof load->run) {
        load_die("memory");
    }
    for (size_t row = 0; row < (size_t)heads * length; row++) {
        load_fill_row(load->payload + row * length, length, &random);
    }
}

void load_clear(struct load *load)
{
    free(load->payload);
    load->payload = NULL;
}

static void load_secure(void *socket, const char *server_key)
{
    char public_key[41], secret_key[41];
    if (zmq_curve_keypair(public_key, secret_key) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server_key, 41) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 41) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 41) != 0) {
        load_die("curve");
    }
}

void *load_connect_secured(void *zmq, const char *endpoint, const char *server_key)
{
    char frame[64];
    void *socket = zmq_socket(zmq, ZMQ_XPUB);
    if (server_key) {
        load_secure(socket, server_key);
    }
    load_set(socket, ZMQ_IMMEDIATE, 1);
    load_set(socket, ZMQ_XPUB_NODROP, 1);
    load_set(socket, ZMQ_SNDHWM, 4);
    load_set(socket, ZMQ_LINGER, 0);
    load_set(socket, ZMQ_RCVHWM, 0);
    load_set(socket, ZMQ_SNDTIMEO, LOAD_PATIENCE_MS);
    load_set(socket, ZMQ_RCVTIMEO,
             LOAD_PATIENCE_MS); /* nobody subscribes: the receiver did not start */
    if (zmq_connect(socket, endpoint) != 0 || zmq_recv(socket, frame, sizeof frame, 0) < 1) {
        load_die("connect");
    }
    return socket;
}

void *load_connect(void *zmq, const char *endpoint)
{
    return load_connect_secured(zmq, endpoint, NULL);
}

static void encode_header(const struct load *load, struct mpk_writer *writer)
{
    struct header header = {
        .type = MESSAGE_ATTENTION,
        .world = 1,
        .seq = load->sent / load->layers,
        .step = load->sent / load->layers,
        .layer = {STACK_DECODER, (uint32_t)(load->sent % load->layers), SITE_SELF},
        .tensor_count = 1,
        .batch = 1,
        .heads = load->heads,
        .queries = load->length,
        .keys = load->length,
        .heads_total = load->heads,
    };
    snprintf(header.job, sizeof header.job, "%s", load->job);
    memcpy(header.run, load->run, sizeof load->run);
    header.tensors[0] = (struct tensor){.role = TENSOR_WEIGHTS,
                                        .dtype = DTYPE_F32,
                                        .rank = 4,
                                        .shape = {1, load->heads, load->length, load->length},
                                        .bytes = load_bytes(load)};
    mpk_writer_init(writer);
    header_encode(&header, writer);
}

/* The payload is one buffer for all messages: nothing is to be freed. */
static void load_keep(void *data, void *hint)
{
    (void)data, (void)hint;
}

void load_publish(struct load *load, void *socket)
{
    zmq_msg_t payload;
    zmq_msg_init_data(&payload, load->payload, load_bytes(load), load_keep, NULL);
    load_send(load, socket, &payload);
}

void load_send(struct load *load, void *socket, zmq_msg_t *payload)
{
    char topic[160];
    struct mpk_writer writer;
    snprintf(topic, sizeof topic, "tensor/%s/decoder/%u/self/", load->job,
             (unsigned)(load->sent % load->layers));
    encode_header(load, &writer);
    if (zmq_send(socket, topic, strlen(topic), ZMQ_SNDMORE) < 0 ||
        zmq_send(socket, writer.buffer.data, writer.buffer.size, ZMQ_SNDMORE) < 0 ||
        zmq_msg_send(payload, socket, 0) < 0) {
        load_die("send");
    }
    mpk_writer_clear(&writer);
    load->sent++;
}
