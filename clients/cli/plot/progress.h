/* SPDX-License-Identifier: MIT */
/* progress: how far long work has come, on a terminal. */
#ifndef CLIENTS_CLI_PLOT_PROGRESS_H
#define CLIENTS_CLI_PLOT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out; /* NULL: nobody looks */
    uint64_t begun_ns, shown_ns;
    bool shown;
};

/* Shows nothing unless `out` is a terminal, and nothing in the first half second. */
void progress_begin(struct progress *progress, FILE *out);
/* `done` of `all`. */
void progress_show(struct progress *progress, uint64_t done, uint64_t all);
/* Takes the line away again. */
void progress_end(struct progress *progress);

#endif
