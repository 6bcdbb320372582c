/* SPDX-License-Identifier: MIT */
/* warner: tells the trainer's people what they should know, each thing once, by the function that
 * the options of a publisher name. The same sentences as those of the Python client.
 *
 * The sending thread, without any lock. */
#ifndef CLIENTS_C_SRC_WARNER_H
#define CLIENTS_C_SRC_WARNER_H

#include "proto/header.h"

enum warning {
    WARNING_KEY, /* it may not publish the job */
    WARNING_STALLED,
    WARNING_GONE,
};

struct warner {
    void (*say)(void *context, const char *sentence); /* NULL: nobody listens */
    void *context;
    char job[JOB_NAME_MAX + 1];
    unsigned said; /* a bit for each warning */
};

void warner_say(struct warner *warner, enum warning warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Also when nobody listens. */
bool warner_has_said(const struct warner *warner, enum warning warning);
/* Tells that what was warned of has ended, if it was; the warning may then come again. */
void warner_end(struct warner *warner, enum warning warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
