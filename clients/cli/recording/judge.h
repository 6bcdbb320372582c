/* SPDX-License-Identifier: MIT */
/* judge: an attnd within this process, on sockets in a directory that nobody else can enter. It
 * keeps no history and notifies nobody. One at a time; one thread. */
#ifndef CLIENTS_CLI_RECORDING_JUDGE_H
#define CLIENTS_CLI_RECORDING_JUDGE_H

#include "config/config.h"

#include <pthread.h>

struct daemon;

struct judge {
    struct config config; /* owned */
    char directory[ENDPOINT_MAX];
    struct daemon *daemon;
    pthread_t thread;
};

/* The settings of a judge: those of a file (NULL = defaults), except those that a judge decides
 * itself. Returns 0, or -1 with a sentence (CONFIG_ERROR_MAX bytes). */
int judge_configure(const char *path, struct config *ret_config, char *reterr);

/* Takes the config over, also on failure. Returns 0, or -1 with a sentence. */
int judge_start(struct config *config, struct judge *ret_judge, char *reterr);

/* Ends it and waits until it has ended. */
void judge_stop(struct judge *judge);

#endif
