/* SPDX-License-Identifier: MIT */
/* bench publish: what the trainer's thread pays for libattn.
 *
 *     publish [pairs=51]
 *
 * Processor time of the calling thread. Prints a JSON line for the calls that lead to nothing
 * (nobody is there; somebody is, but it is not the plan's step), in nanoseconds each, and one per
 * size for a message that is queued: the call, a memcpy of the same bytes into memory that is in
 * use, and the median of their ratio, pair by pair. Between two pairs the message is taken by a
 * receiver, outside the measured time. */
#include "clients/c/include/attn/attn.h"
#include "tests/bench/attnd.h"
#include "tests/bench/bench.h"
#include "tests/bench/load.h"

#include <string.h>
#include <zmq.h>

enum { PAIRS_MAX = 1001, CALLS = 1000000 };

/* Takes everything that is published. */
struct receiver {
    void *context, *socket;
    char endpoint[64];
};

static struct receiver receive_from(const char *name)
{
    struct receiver receiver = {.context = zmq_ctx_new()};
    int patience_ms = 10000;

    snprintf(receiver.endpoint, sizeof receiver.endpoint, "ipc://%s/%s", attnd_directory(), name);
    receiver.socket = zmq_socket(receiver.context, ZMQ_SUB);
    zmq_setsockopt(receiver.socket, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
    bench_must(zmq_bind(receiver.socket, receiver.endpoint) == 0, "bind");
    return receiver;
}

static void publish_subscribe(const struct receiver *receiver, const char *prefix)
{
    zmq_setsockopt(receiver->socket, ZMQ_SUBSCRIBE, prefix, strlen(prefix));
}

/* One message. */
static void publish_take(const struct receiver *receiver)
{
    zmq_msg_t frame;
    int more = 1;

    zmq_msg_init(&frame);
    while (more) {
        bench_must(zmq_msg_recv(&frame, receiver->socket, 0) >= 0, "nothing came");
        more = zmq_msg_more(&frame);
    }
    zmq_msg_close(&frame);
}

static void publish_forget(struct receiver *receiver)
{
    zmq_close(receiver->socket);
    zmq_ctx_term(receiver->context);
}

/* A publisher that has heard of its receiver; NULL: without one. */
static attn_publisher *publish_to(const struct receiver *receiver)
{
    attn_publisher_options options;
    attn_publisher *publisher;

    attn_publisher_options_default(&options);
    options.endpoint = receiver ? receiver->endpoint : "tcp://127.0.0.1:1";
    options.job = "bench";
    options.linger_ms = 0;
    bench_must(attn_publisher_new(&options, &publisher) == 0, "no publisher");
    if (receiver) {
        zmq_pollitem_t item = {.socket = receiver->socket};
        double end = load_seconds() + 1e-3 * LOAD_PATIENCE_MS;

        while (attn_publisher_wait(publisher, 10) != 0) {
            bench_must(load_seconds() <= end, "nobody subscribes");
            zmq_poll(&item, 1, 0); /* a SUB that nobody polls passes no subscriptions on */
        }
    }
    return publisher;
}

static attn_attention publish_attention_of(const float *weights, uint32_t keys)
{
    attn_attention attention;

    attn_attention_default(&attention);
    attention.weights = weights;
    attention.batch = attention.heads = 1;
    attention.queries = attention.keys = keys;
    attention.causal = true;
    return attention;
}

static double wants_ns(attn_publisher *publisher)
{
    double start = 1e9 * bench_cpu_seconds();

    for (uint32_t i = 0; i < CALLS; i++) {
        bench_must(!attn_publisher_wants(publisher, ATTN_ENCODER, i % 32, ATTN_SELF),
                   "somebody wants it");
    }
    return (1e9 * bench_cpu_seconds() - start) / (double)CALLS;
}

static double publish_ns(attn_publisher *publisher)
{
    static const float weights[16];
    attn_attention attention = publish_attention_of(weights, 4);
    double start = 1e9 * bench_cpu_seconds();

    for (uint32_t i = 0; i < CALLS; i++) {
        attention.layer = i % 32;
        bench_must(attn_publish_attention(publisher, &attention) == ATTN_SKIPPED,
                   "somebody wants it");
    }
    return (1e9 * bench_cpu_seconds() - start) / (double)CALLS;
}

static void measure_unwanted(void)
{
    struct receiver receiver = receive_from("plan");
    attn_publisher *alone = publish_to(NULL), *watched;
    double off_plan;

    publish_subscribe(&receiver, "tensor/");
    publish_subscribe(&receiver, "plan/999999/*/every=50");
    watched = publish_to(&receiver);
    attn_set_position(watched, 0, 1);
    off_plan = wants_ns(watched);
    printf("{\"bench\": \"publish\", \"nobody_wants_ns\": %.1f, \"nobody_publish_ns\": %.1f, "
           "\"not_this_step_wants_ns\": %.1f}\n",
           wants_ns(alone), publish_ns(alone), off_plan);
    attn_publisher_free(&alone);
    attn_publisher_free(&watched);
    publish_forget(&receiver);
}

/* One pair: the call, then the copy alone. */
static void measure_pair(attn_publisher *publisher, const struct receiver *receiver,
                         const attn_attention *attention, void *copy, double ret_ns[2])
{
    size_t bytes = sizeof(float) * attention->queries * attention->keys;
    double start = 1e9 * bench_cpu_seconds();

    bench_must(attn_publish_attention(publisher, attention) == 0, "not queued");
    ret_ns[0] = 1e9 * bench_cpu_seconds() - start;
    publish_take(receiver);
    start = 1e9 * bench_cpu_seconds();
    memcpy(copy, attention->weights, bytes);
    __asm__ volatile("" : : "r"(copy) : "memory");
    ret_ns[1] = 1e9 * bench_cpu_seconds() - start;
}

static void measure_queued(uint32_t keys, int pairs)
{
    static double call[PAIRS_MAX], copying[PAIRS_MAX], ratio[PAIRS_MAX];
    size_t bytes = sizeof(float) * keys * keys;
    struct receiver receiver = receive_from("queue");
    float *weights = bench_have(malloc(bytes)), *copy = bench_have(malloc(bytes));
    attn_attention attention = publish_attention_of(weights, keys);
    attn_publisher *publisher;

    memset(weights, 1, bytes);
    memset(copy, 1, bytes);
    publish_subscribe(&receiver, "tensor/");
    publisher = publish_to(&receiver);
    for (int i = -3; i < pairs; i++) {
        double ns[2];

        measure_pair(publisher, &receiver, &attention, copy, ns);
        if (i < 0) {
            continue;
        }
        call[i] = ns[0];
        copying[i] = ns[1];
        ratio[i] = ns[0] / ns[1];
    }
    printf("{\"bench\": \"publish\", \"bytes\": %zu, \"call_ns\": %.0f, \"memcpy_ns\": %.0f, "
           "\"ratio\": %.2f}\n",
           bytes, bench_median(call, (size_t)pairs), bench_median(copying, (size_t)pairs),
           bench_median(ratio, (size_t)pairs));
    attn_publisher_free(&publisher);
    publish_forget(&receiver);
    free(weights);
    free(copy);
}

int main(int argc, char **argv)
{
    int pairs = 51;

    bench_must(argc < 2 || sscanf(argv[1], "pairs=%d", &pairs) == 1, "usage: publish [pairs=51]");
    bench_must(pairs >= 1 && pairs <= PAIRS_MAX, "pairs: 1 to 1001");
    measure_unwanted();
    for (uint32_t keys = 16; keys <= 2048; keys *= keys < 128 ? 8 : 4) {
        measure_queued(keys, pairs);
    }
    return 0;
}
