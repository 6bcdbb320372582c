/* SPDX-License-Identifier: MIT */
#include "tests/bench/attnd.h"

#include "tests/bench/load.h"
#include "proto/mpk.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { ARGUMENTS_MAX = 64, AHEAD_BYTES = 224 << 20 };

static const unsigned char stats_request[] = {0x94, 0x00, 0x01, 0xa5, 's',
                                              't',  'a',  't',  's',  0x80};
static char root[48];
static pid_t running; /* what the end of this process ends, too */
static pid_t owner;

static int attnd_remove(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status, (void)type, (void)place;
    return remove(path);
}

static void attnd_clean(void)
{
    if (getpid() != owner) {
        return; /* a child of the bench */
    }
    if (running > 0 && kill(running, SIGKILL) == 0) {
        waitpid(running, NULL, 0);
    }
    nftw(root, attnd_remove, 16, FTW_DEPTH | FTW_PHYS);
}

const char *attnd_directory(void)
{
    if (!*root) {
        const char *parent = getenv("TMPDIR");
        /* Names of ipc sockets are short. */
        if (!parent || strlen(parent) > 24) {
            parent = "/tmp";
        }
        snprintf(root, sizeof root, "%s/attnd-bench-XXXXXX", parent);
        if (!mkdtemp(root)) {
            load_die("a temporary directory");
        }
        owner = getpid();
        atexit(attnd_clean);
    }
    return root;
}

void attnd_endpoint(const struct attnd *attnd, const char *name, char ret_text[128])
{
    snprintf(ret_text, 128, "ipc://%s/%s", attnd->directory, name);
}

static _Noreturn void attnd_exec(const struct attnd *attnd, const char *program, char **settings,
                                 int count)
{
    char history[160];
    snprintf(history, sizeof history, "history.path=%s/history.db", attnd->directory);
    const char *arguments[ARGUMENTS_MAX] = {program, "--address",       attnd->directory,
                                            "--set", "log.level=error", "--set",
                                            history, "--set",           "http.enabled=false"};
    int used = 9;
    for (int i = 0; i < count && used + 3 < ARGUMENTS_MAX; i++) {
        arguments[used++] = "--set";
        arguments[used++] = settings[i];
    }
    /* Whatever it comes to write beside its history is written here as well. */
    setenv("XDG_STATE_HOME", attnd->directory, 1);
    setenv("XDG_RUNTIME_DIR", attnd->directory, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(program, (char *const *)arguments);
    perror(program);
    _exit(127);
}

void *attnd_open_control(void *zmq, const char *endpoint)
{
    void *socket = zmq_socket(zmq, ZMQ_DEALER);
    load_set(socket, ZMQ_LINGER, 0);
    load_set(socket, ZMQ_SNDTIMEO, LOAD_PATIENCE_MS);
    load_set(socket, ZMQ_RCVTIMEO, LOAD_PATIENCE_MS);
    if (zmq_connect(socket, endpoint) != 0) {
        load_die("connect");
    }
    return socket;
}

static uint64_t attnd_read_processed(void *control)
{
    uint64_t processed = 0;
    zmq_msg_t reply;
    struct mpk_doc doc;
    zmq_msg_init(&reply);
    if (zmq_msg_recv(&reply, control, 0) < 0) {
        load_die("attnd does not answer");
    }
    if (mpk_parse(zmq_msg_data(&reply), zmq_msg_size(&reply), &mpk_header_limits, &doc) == 0) {
        const msgpack_object *stats = &doc.root->via.array.ptr[3];
        const msgpack_object *dropped = mpk_find(stats, "dropped");
        mpk_get_u64(mpk_find(stats, "processed"), UINT64_MAX, &processed);
        if (dropped && dropped->type == MSGPACK_OBJECT_MAP && dropped->via.map.size > 0) {
            const msgpack_object *reason = &dropped->via.map.ptr[0].key;
            fprintf(stderr, "bench: attnd dropped messages: %.*s\n", (int)reason->via.str.size,
                    reason->via.str.ptr);
            exit(1);
        }
        mpk_doc_clear(&doc);
    }
    zmq_msg_close(&reply);
    return processed;
}

static void attnd_nap(void)
{
    const struct timespec nap = {.tv_nsec = 2000000};
    nanosleep(&nap, NULL);
}

/* An attnd that ends has said why. */
static void attnd_wait_answer(struct attnd *attnd)
{
    double end = load_seconds() + 1e-3 * LOAD_PATIENCE_MS;
    zmq_pollitem_t item = {.socket = attnd->control, .events = ZMQ_POLLIN};
    if (zmq_send(attnd->control, stats_request, sizeof stats_request, 0) < 0) {
        load_die("attnd cannot be asked");
    }
    while (zmq_poll(&item, 1, 20) == 0) {
        if (waitpid(attnd->pid, NULL, WNOHANG) != 0) {
            running = 0;
            exit(1);
        }
        if (load_seconds() > end) {
            load_die("attnd does not answer");
        }
    }
    attnd_read_processed(attnd->control);
}

void attnd_start(struct attnd *attnd, void *zmq, const char *program, char **settings, int count)
{
    static int started;
    char endpoint[128];
    snprintf(attnd->directory, sizeof attnd->directory, "%s/%d", attnd_directory(), started++);
    if (mkdir(attnd->directory, 0700) != 0) {
        load_die(attnd->directory);
    }
    attnd->pid = fork();
    if (attnd->pid == 0) {
        attnd_exec(attnd, program, settings, count);
    }
    running = attnd->pid;
    attnd_endpoint(attnd, "control", endpoint);
    attnd->control = attnd_open_control(zmq, endpoint);
    attnd_wait_answer(attnd);
}

void attnd_stop(struct attnd *attnd)
{
    double end = load_seconds() + 1e-3 * LOAD_PATIENCE_MS;
    zmq_close(attnd->control);
    kill(attnd->pid, SIGTERM);
    while (waitpid(attnd->pid, NULL, WNOHANG) == 0) {
        if (load_seconds() > end) {
            errno = ETIMEDOUT;
            load_die("attnd does not end");
        }
        attnd_nap();
    }
    running = 0;
    nftw(attnd->directory, attnd_remove, 16, FTW_DEPTH | FTW_PHYS);
}

uint64_t attnd_processed(void *control)
{
    if (zmq_send(control, stats_request, sizeof stats_request, 0) < 0) {
        load_die("attnd cannot be asked");
    }
    return attnd_read_processed(control);
}

/* Waits until at most `ahead` messages are left to do. */
static void attnd_wait(const struct load *load, void *control, uint64_t ahead, uint64_t *processed)
{
    double end = load_seconds() + 1e-3 * LOAD_PATIENCE_MS;
    for (;;) {
        uint64_t before = *processed;
        *processed = attnd_processed(control);
        if (load->sent <= *processed + ahead) {
            return;
        }
        if (*processed != before) {
            end = load_seconds() + 1e-3 * LOAD_PATIENCE_MS;
        }
        if (load_seconds() > end) {
            fprintf(stderr, "bench: attnd processed %llu of %llu messages\n",
                    (unsigned long long)*processed, (unsigned long long)load->sent);
            exit(1);
        }
        attnd_nap();
    }
}

void attnd_pace(const struct load *load, void *control, uint64_t *processed)
{
    uint64_t ahead = AHEAD_BYTES / load_bytes(load) + 2;
    if (load->sent >= *processed + ahead) {
        attnd_wait(load, control, ahead - ahead / 4, processed);
    }
}

void attnd_settle(const struct load *load, void *control)
{
    uint64_t processed = 0;
    attnd_wait(load, control, 0, &processed);
}
