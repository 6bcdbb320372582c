/* SPDX-License-Identifier: MIT */
/* reload: reads the settings again while attnd runs. Only plans come into force; what else differs
 * is logged as needing a restart, and a mistake changes nothing. Loop thread only: it reads a
 * regular file of at most 1 MiB, on SIGHUP. */
#ifndef DAEMON_RELOAD_H
#define DAEMON_RELOAD_H

#include "config/config.h"
#include "daemon/ingest/plan.h"

struct reload {
    int argc; /* the command line, which names the file; 0: there is none to be read again */
    char **argv;
    struct config given; /* what attnd was started with */
    struct config plans; /* what the plans in force are of */
    bool owned;          /* whether those were read here */
};

/* Reads it. Returns whether *plans has changed. */
bool reload_read(struct reload *reload, struct plans *plans);
void reload_clear(struct reload *reload);

#endif
