/* SPDX-License-Identifier: MIT */
/* warner: tells the trainer's people what they should know, each thing once, by the function that
 * the options of a publisher name. The same sentences as those of the Python client.
 *
 * The sending thread, or after its end whoever frees the publisher; without any lock. */
#ifndef CLIENTS_C_SRC_WARNER_H
#define CLIENTS_C_SRC_WARNER_H

#include "proto/header.h"

enum warning {
    WARNING_KEY, /* it may not publish the job */
    WARNING_STALLED,
    WARNING_GONE,
    WARNING_WAITS, /* attnd's history cannot be written */
    WARNING_NO_LANE,
    WARNING_REFUSED,
    WARNING_REPEATED, /* another process has the same run and rank */
    WARNING_NO_ROOM,  /* at attnd */
    WARNING_LARGE,
    WARNING_FULL,
    WARNING_SPOOL_OPEN,
    WARNING_SPOOL_WRITE,
    WARNING_SPOOL_READ,
    WARNING_SPOOL_TAKEN,   /* what others left is sent */
    WARNING_SPOOL_REFUSED, /* it is not taken of us */
    WARNING_LATE,          /* at the end */
    WARNING_KEPT,
    WARNING_LEFT,
};

/* So many jobs of others are remembered; that of a later one takes the place of the oldest. */
#define WARNED_JOBS_MAX 64

struct warner {
    void (*say)(void *context, const char *sentence); /* NULL: nobody listens */
    void *context;
    char job[JOB_NAME_MAX + 1];
    unsigned said;                     /* a bit for each warning */
    uint64_t said_of[WARNED_JOBS_MAX]; /* hashes of warnings and jobs of others */
    unsigned said_of_count;
};

void warner_say(struct warner *warner, enum warning warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Tells of another job than the publisher's: once for each job. */
void warner_say_of(struct warner *warner, enum warning warning, const char *job, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));
/* Also when nobody listens. */
bool warner_has_said(const struct warner *warner, enum warning warning);
/* Tells that what was warned of has ended, if it was; the warning may then come again. */
void warner_end(struct warner *warner, enum warning warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
