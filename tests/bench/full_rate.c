/* SPDX-License-Identifier: MIT */
/* Publishes attention maps as fast as attnd takes them, for a while, and prints how many.
 *
 *   full_rate INGEST CONTROL SECONDS [HEADS LENGTH LAYERS]      [1, HEADS, LENGTH, LENGTH] f32 */
#include "tests/bench/attnd.h"
#include "tests/bench/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

static uint32_t full_rate_number(int argc, char **argv, int i, uint32_t fallback)
{
    return argc > i ? (uint32_t)strtoul(argv[i], NULL, 10) : fallback;
}

int main(int argc, char **argv)
{
    struct load load;
    uint32_t layers = full_rate_number(argc, argv, 6, 12);
    if (argc < 4 || layers == 0) {
        fputs("usage: full_rate INGEST CONTROL SECONDS [HEADS LENGTH LAYERS]\n", stderr);
        return 2;
    }
    load_init(&load, "bench", full_rate_number(argc, argv, 4, 12),
              full_rate_number(argc, argv, 5, 512), layers);
    void *zmq = zmq_ctx_new();
    void *socket = load_connect(zmq, argv[1]), *control = attnd_open_control(zmq, argv[2]);
    uint64_t processed = 0;
    double start = load_seconds(), end = start + strtod(argv[3], NULL);
    while (load_seconds() < end) {
        load_publish(&load, socket);
        attnd_pace(&load, control, &processed);
    }
    attnd_settle(&load, control);
    printf("{\"sent\": %llu, \"bytes_each\": %zu, \"seconds\": %.6f}\n",
           (unsigned long long)load.sent, load_bytes(&load), load_seconds() - start);
    zmq_close(control);
    zmq_close(socket);
    zmq_ctx_term(zmq);
    load_clear(&load);
    return 0;
}
