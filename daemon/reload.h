/* SPDX-License-Identifier: MIT */
/* reload: reads the settings again while attnd runs. Only plans come into force; what else differs
 * is logged as needing a restart, and a mistake changes nothing. Loop thread only: it reads a
 * regular file of at most 1 MiB, on SIGHUP. */
#ifndef DAEMON_RELOAD_H
#define DAEMON_RELOAD_H

#include "config/config.h"
#include "daemon/ingest/plan.h"

/* The settings as they are now: the file that attnd was started with, read again. Returns 0, and
 * *ret_config is the caller's to clear; or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes).
 */
struct config_reader {
    int (*read)(void *data, struct config *ret_config, char *reterr);
    void *data;
};

struct reload {
    const struct config_reader *reader; /* NULL: there is no file */
    struct config given;                /* what attnd was started with */
    struct config plans;                /* what the plans in force are of */
    bool owned;                         /* whether those were read here */
};

/* Whether there is a file that can be read again. */
bool reload_possible(const struct reload *reload);
/* Reads it. Returns whether *plans has changed. */
bool reload_read(struct reload *reload, struct plans *plans);
void reload_clear(struct reload *reload);

#endif
