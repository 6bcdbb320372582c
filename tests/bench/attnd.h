/* SPDX-License-Identifier: MIT */
/* attnd: the daemon that a bench starts, on ipc sockets and with a history in a temporary
 * directory, so that it meets nothing that the user has and leaves nothing behind. For benches:
 * what goes wrong, or takes longer than a minute, ends the process with a line on stderr. */
#ifndef TESTS_BENCH_ATTND_H
#define TESTS_BENCH_ATTND_H

#include <stdint.h>
#include <sys/types.h>

struct load;

struct attnd {
    pid_t pid;
    char directory[64];
    void *control; /* its control socket */
};

/* A directory of this process, removed at its end. */
const char *attnd_directory(void);
/* `settings`: SECTION.KEY=VALUE. */
void attnd_start(struct attnd *attnd, void *zmq, const char *program, char **settings, int count);
/* Ends it and removes what it wrote. */
void attnd_stop(struct attnd *attnd);
/* The endpoint of one of its sockets. */
void attnd_endpoint(const struct attnd *attnd, const char *name, char ret_text[128]);

/* A socket for `attnd_processed`. */
void *attnd_open_control(void *zmq, const char *endpoint);
/* How many messages it has processed; ends the process when it dropped one. */
uint64_t attnd_processed(void *control);
/* Waits while attnd has more than 224 MiB of `load` before it, less than half of ingest.budget,
 * over which it drops. */
void attnd_pace(const struct load *load, void *control, uint64_t *processed);
/* Waits until all of `load` is processed. */
void attnd_settle(const struct load *load, void *control);

#endif
