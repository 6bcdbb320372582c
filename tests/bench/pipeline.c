/* SPDX-License-Identifier: MIT */
/* How fast attention maps go through the whole daemon, against what raw libzmq does with the same
 * messages.
 *
 * Both run in pairs, one after the other, over ipc:// with the socket settings of the wire
 * contract: a process that publishes [1,12,512,512] f32 from one buffer without copying, and either
 * a bare receiver or attnd, for which a message counts when its numbers are done. Prints one JSON
 * line with the medians.
 *
 *   pipeline ATTND [PAIRS [SECTION.KEY=VALUE...]]      the settings go to attnd */
#include "header.h"
#include "mpk.h"

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
    BATCH = 1,
    HEADS = 12,
    LENGTH = 512,
    RAW_MESSAGES = 200,
    PAIRS_MAX = 99,
    ARGUMENTS_MAX = 64
};
#define PAYLOAD_BYTES ((size_t)BATCH * HEADS * LENGTH * LENGTH * sizeof(float))
/* attnd is given about this much work per pair. */
#define ATTND_SECONDS 3.0

struct bench {
    char directory[64];
    const char *attnd;
    char **settings;
    int setting_count;
    float *payload;
    void *zmq;
};

static void die(const char *what)
{
    fprintf(stderr, "pipeline: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Softmax rows of mild logits, so that no value is special. */
static float *make_payload(void)
{
    float *payload = malloc(PAYLOAD_BYTES);
    uint32_t random = 1;
    for (size_t row = 0; payload && row < (size_t)BATCH * HEADS * LENGTH; row++) {
        double sum = 0;
        for (size_t j = 0; j < LENGTH; j++) {
            random = random * 1664525u + 1013904223u;
            sum += payload[row * LENGTH + j] = expf((float)(random >> 8) / 8388608.0f);
        }
        for (size_t j = 0; j < LENGTH; j++)
            payload[row * LENGTH + j] = (float)(payload[row * LENGTH + j] / sum);
    }
    return payload;
}

static void set(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

static void endpoint(const struct bench *bench, const char *name, char ret_text[128])
{
    snprintf(ret_text, 128, "ipc://%s/%s", bench->directory, name);
}

/* An XPUB that has seen the subscription. */
static void *open_publisher(const struct bench *bench, const char *name)
{
    char text[128], frame[64];
    void *socket = zmq_socket(bench->zmq, ZMQ_XPUB);
    set(socket, ZMQ_IMMEDIATE, 1);
    set(socket, ZMQ_XPUB_NODROP, 1);
    set(socket, ZMQ_SNDHWM, 4);
    set(socket, ZMQ_LINGER, 0);
    set(socket, ZMQ_RCVTIMEO, 10000); /* nobody subscribes: the receiver did not start */
    endpoint(bench, name, text);
    if (zmq_connect(socket, text) != 0 || zmq_recv(socket, frame, sizeof frame, 0) < 1)
        die("connect");
    return socket;
}

static void encode_header(uint64_t seq, struct mpk_writer *writer)
{
    struct header header = {
        .type = MESSAGE_ATTENTION,
        .job = "bench",
        .run = {1},
        .world = 1,
        .seq = seq,
        .step = seq,
        .layer = {STACK_DECODER, 0, SITE_SELF},
        .tensor_count = 1,
        .batch = BATCH,
        .heads = HEADS,
        .queries = LENGTH,
        .keys = LENGTH,
        .heads_total = HEADS,
    };
    header.tensors[0] = (struct tensor){.role = TENSOR_WEIGHTS,
                                        .dtype = DTYPE_F32,
                                        .rank = 4,
                                        .shape = {BATCH, HEADS, LENGTH, LENGTH},
                                        .bytes = PAYLOAD_BYTES};
    mpk_writer_init(writer);
    header_encode(&header, writer);
}

/* The payload is one buffer for all messages: nothing is to be freed. */
static void keep(void *data, void *hint)
{
    (void)data, (void)hint;
}

static void publish(const struct bench *bench, void *socket, uint64_t seq)
{
    static const char topic[] = "tensor/bench/decoder/0/self/";
    struct mpk_writer writer;
    zmq_msg_t payload;
    encode_header(seq, &writer);
    zmq_msg_init_data(&payload, bench->payload, PAYLOAD_BYTES, keep, NULL);
    zmq_send(socket, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(socket, writer.buffer.data, writer.buffer.size, ZMQ_SNDMORE);
    if (zmq_msg_send(&payload, socket, 0) < 0)
        die("send");
    mpk_writer_clear(&writer);
}

/* The bare receiver, a process of its own: exits when it has all messages. */
static void receive_all(const struct bench *bench)
{
    char text[128];
    void *zmq = zmq_ctx_new();
    void *socket = zmq_socket(zmq, ZMQ_SUB);
    set(socket, ZMQ_RCVHWM, 4);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    endpoint(bench, "raw", text);
    if (zmq_bind(socket, text) != 0)
        die("bind");
    for (int frames = 0; frames < 3 * RAW_MESSAGES; frames++) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        zmq_msg_recv(&frame, socket, 0);
        zmq_msg_close(&frame);
    }
    zmq_close(socket);
    zmq_ctx_term(zmq);
    _exit(0);
}

static double raw_rate(const struct bench *bench)
{
    pid_t receiver = fork();
    if (receiver == 0)
        receive_all(bench);
    void *socket = open_publisher(bench, "raw");
    double start = seconds();
    for (uint64_t seq = 0; seq < RAW_MESSAGES; seq++)
        publish(bench, socket, seq);
    waitpid(receiver, NULL, 0);
    double elapsed = seconds() - start;
    zmq_close(socket);
    return RAW_MESSAGES * (double)PAYLOAD_BYTES / elapsed;
}

static pid_t start_attnd(const struct bench *bench)
{
    static const char *const names[] = {"ingest", "publish", "control", "tap"};
    static char texts[4][192];
    const char *arguments[ARGUMENTS_MAX] = {bench->attnd, "--set", "log.level=error"};
    int count = 3;
    for (int i = 0; i < 4; i++) {
        snprintf(texts[i], sizeof texts[i], "%s.endpoint=ipc://%s/%s", names[i], bench->directory,
                 names[i]);
        arguments[count++] = "--set";
        arguments[count++] = texts[i];
    }
    for (int i = 0; i < bench->setting_count; i++) {
        arguments[count++] = "--set";
        arguments[count++] = bench->settings[i];
    }
    pid_t pid = fork();
    if (pid == 0) {
        execv(bench->attnd, (char *const *)arguments);
        _exit(127);
    }
    return pid;
}

static uint64_t ask_processed(void *control)
{
    static const unsigned char request[] = {0x94, 0x00, 0x01, 0xa5, 's', 't', 'a', 't', 's', 0x80};
    uint64_t processed = 0;
    zmq_msg_t reply;
    struct mpk_doc doc;
    zmq_msg_init(&reply);
    zmq_send(control, request, sizeof request, 0);
    if (zmq_msg_recv(&reply, control, 0) < 0)
        die("attnd does not answer");
    if (mpk_parse(zmq_msg_data(&reply), zmq_msg_size(&reply), &mpk_header_limits, &doc) == 0) {
        mpk_get_u64(mpk_find(&doc.root->via.array.ptr[3], "processed"), UINT64_MAX, &processed);
        mpk_doc_clear(&doc);
    }
    zmq_msg_close(&reply);
    return processed;
}

static void *open_control(const struct bench *bench)
{
    char text[128];
    void *socket = zmq_socket(bench->zmq, ZMQ_DEALER);
    set(socket, ZMQ_LINGER, 0);
    set(socket, ZMQ_RCVTIMEO, 60000);
    endpoint(bench, "control", text);
    if (zmq_connect(socket, text) != 0)
        die("connect");
    return socket;
}

static double attnd_rate(const struct bench *bench)
{
    const struct timespec nap = {.tv_nsec = 2000000};
    pid_t pid = start_attnd(bench);
    void *socket = open_publisher(bench, "ingest");
    void *control = open_control(bench);
    uint64_t sent = 0;
    double start = seconds();
    while (seconds() - start < ATTND_SECONDS)
        publish(bench, socket, sent++);
    while (ask_processed(control) < sent)
        nanosleep(&nap, NULL);
    double elapsed = seconds() - start;
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    zmq_close(control);
    zmq_close(socket);
    return (double)sent * (double)PAYLOAD_BYTES / elapsed;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *numbers, int count)
{
    qsort(numbers, (size_t)count, sizeof *numbers, ascending);
    return count % 2 ? numbers[count / 2] : 0.5 * (numbers[count / 2 - 1] + numbers[count / 2]);
}

static void report(const struct bench *bench, double *raw, double *attnd, double *ratio, int pairs)
{
    printf("{\"bench\": \"pipeline\", \"shape\": [%d, %d, %d, %d], \"dtype\": \"f32\", "
           "\"transport\": \"ipc\", "
           "\"pairs\": %d, \"attnd_gb_per_s\": %.3f, \"raw_libzmq_gb_per_s\": %.3f, \"ratio\": "
           "%.4f, \"settings\": [",
           BATCH, HEADS, LENGTH, LENGTH, pairs, median(attnd, pairs) / 1e9,
           median(raw, pairs) / 1e9, median(ratio, pairs));
    for (int i = 0; i < bench->setting_count; i++)
        printf("%s\"%s\"", i ? ", " : "", bench->settings[i]);
    puts("]}");
}

int main(int argc, char **argv)
{
    struct bench bench = {.directory = "/tmp/attnd-bench-XXXXXX"};
    double raw[PAIRS_MAX], attnd[PAIRS_MAX], ratio[PAIRS_MAX];
    int pairs = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 5;
    if (argc < 2 || pairs < 1 || pairs > PAIRS_MAX || argc > 3 + 20) {
        fputs("usage: pipeline ATTND [PAIRS [SECTION.KEY=VALUE...]]\n", stderr);
        return 2;
    }
    bench.attnd = argv[1];
    bench.settings = argv + 3;
    bench.setting_count = argc > 3 ? argc - 3 : 0;
    bench.payload = make_payload();
    if (!mkdtemp(bench.directory) || !bench.payload)
        return 1;
    for (int i = 0; i < pairs; i++) {
        bench.zmq = zmq_ctx_new();
        raw[i] = raw_rate(&bench);
        attnd[i] = attnd_rate(&bench);
        ratio[i] = attnd[i] / raw[i];
        zmq_ctx_term(bench.zmq);
    }
    report(&bench, raw, attnd, ratio, pairs);
    free(bench.payload);
    return 0;
}
