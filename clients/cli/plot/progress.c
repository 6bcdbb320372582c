/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/progress.h"

#include "clients/cli/base/now.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_NS 500000000u
#define EVERY_NS    100000000u
#define WIDTH       30

void progress_begin(struct progress *progress, FILE *out)
{
    *progress = (struct progress){.out = isatty(fileno(out)) ? out : NULL, .begun_ns = now_ns()};
}

void progress_show(struct progress *progress, uint64_t done, uint64_t all)
{
    char bar[WIDTH + 1];
    uint64_t now = now_ns();
    if (!progress->out || now - progress->begun_ns < PATIENCE_NS ||
        now - progress->shown_ns < EVERY_NS)
        return;
    size_t full = (size_t)(done * WIDTH / (all ? all : 1));
    memset(bar, '.', WIDTH);
    memset(bar, '#', full < WIDTH ? full : WIDTH);
    bar[WIDTH] = '\0';
    fprintf(progress->out, "\r[%s] %" PRIu64 " of %" PRIu64, bar, done, all);
    fflush(progress->out);
    progress->shown_ns = now;
    progress->shown = true;
}

void progress_end(struct progress *progress)
{
    if (progress->shown)
        fputs("\r\033[K", progress->out);
    progress->shown = false;
}
