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
#include "mpk.h"
#include "load.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { HEADS = 12, LENGTH = 512, RAW_MESSAGES = 200, PAIRS_MAX = 99, ARGUMENTS_MAX = 64 };
#define PAYLOAD_BYTES ((double)HEADS * LENGTH * LENGTH * sizeof(float))
/* attnd is given about this much work per pair. */
#define ATTND_SECONDS 3.0

struct bench {
    char directory[64];
    const char *attnd;
    char **settings;
    int setting_count;
    struct load load;
    void *zmq;
};

static void endpoint(const struct bench *bench, const char *name, char ret_text[128])
{
    snprintf(ret_text, 128, "ipc://%s/%s", bench->directory, name);
}

static void *open_publisher(struct bench *bench, const char *name)
{
    char text[128];
    endpoint(bench, name, text);
    bench->load.sent = 0;
    return load_connect(bench->zmq, text);
}

/* The bare receiver, a process of its own: exits when it has all messages. */
static void receive_all(const struct bench *bench)
{
    char text[128];
    void *zmq = zmq_ctx_new();
    void *socket = zmq_socket(zmq, ZMQ_SUB);
    load_set(socket, ZMQ_RCVHWM, 4);
    zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    endpoint(bench, "raw", text);
    if (zmq_bind(socket, text) != 0)
        load_die("bind");
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

static double raw_rate(struct bench *bench)
{
    pid_t receiver = fork();
    if (receiver == 0)
        receive_all(bench);
    void *socket = open_publisher(bench, "raw");
    double start = load_seconds();
    while (bench->load.sent < RAW_MESSAGES)
        load_publish(&bench->load, socket);
    waitpid(receiver, NULL, 0);
    double elapsed = load_seconds() - start;
    zmq_close(socket);
    return RAW_MESSAGES * PAYLOAD_BYTES / elapsed;
}

static pid_t start_attnd(const struct bench *bench)
{
    static const char *const names[] = {"ingest", "publish", "control", "tap"};
    static char texts[4][192];
    const char *arguments[ARGUMENTS_MAX] = {bench->attnd, "--set", "log.level=error", "--set",
                                            "http.enabled=false"};
    int count = 5;
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
        load_die("attnd does not answer");
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
    load_set(socket, ZMQ_LINGER, 0);
    load_set(socket, ZMQ_RCVTIMEO, 60000);
    endpoint(bench, "control", text);
    if (zmq_connect(socket, text) != 0)
        load_die("connect");
    return socket;
}

static double attnd_rate(struct bench *bench)
{
    const struct timespec nap = {.tv_nsec = 2000000};
    pid_t pid = start_attnd(bench);
    void *socket = open_publisher(bench, "ingest");
    void *control = open_control(bench);
    double start = load_seconds();
    while (load_seconds() - start < ATTND_SECONDS)
        load_publish(&bench->load, socket);
    while (ask_processed(control) < bench->load.sent)
        nanosleep(&nap, NULL);
    double elapsed = load_seconds() - start;
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    zmq_close(control);
    zmq_close(socket);
    return (double)bench->load.sent * PAYLOAD_BYTES / elapsed;
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
    printf("{\"bench\": \"pipeline\", \"shape\": [1, %d, %d, %d], \"dtype\": \"f32\", "
           "\"transport\": \"ipc\", "
           "\"pairs\": %d, \"attnd_gb_per_s\": %.3f, \"raw_libzmq_gb_per_s\": %.3f, \"ratio\": "
           "%.4f, \"settings\": [",
           HEADS, LENGTH, LENGTH, pairs, median(attnd, pairs) / 1e9, median(raw, pairs) / 1e9,
           median(ratio, pairs));
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
    load_init(&bench.load, "bench", HEADS, LENGTH, 1);
    if (!mkdtemp(bench.directory))
        return 1;
    for (int i = 0; i < pairs; i++) {
        bench.zmq = zmq_ctx_new();
        raw[i] = raw_rate(&bench);
        attnd[i] = attnd_rate(&bench);
        ratio[i] = attnd[i] / raw[i];
        zmq_ctx_term(bench.zmq);
    }
    report(&bench, raw, attnd, ratio, pairs);
    load_clear(&bench.load);
    return 0;
}
