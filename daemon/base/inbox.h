/* SPDX-License-Identifier: MIT */
/* inbox: the loop thread's letter box: any thread posts notes to a line, the loop reads them.
 *
 * A line is first in, first out, which the closing of windows relies on: the messages of a job are
 * in one line. Lines with notes take turns of a millisecond, so that a job that sends tens of
 * thousands of small messages delays itself only. Not bounded itself: the notes of the ingest
 * thread count against its budget, and a message has at most one note in here. */
#ifndef DAEMON_BASE_INBOX_H
#define DAEMON_BASE_INBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum note_kind {
    NOTE_ARRIVED, /* a valid message: struct message */
    NOTE_REFUSED, /* a message refused by ingest, of a known job: struct refusal */
    NOTE_DONE,    /* the workers are through with a message: struct message */
    NOTE_MERGED,  /* news of a run from the hub: struct merged (state/merged.h) */
    NOTE_STOPPED, /* the ingest thread has drained its socket and posts no more */
};

/* Embed as the first member. */
struct note {
    enum note_kind kind;
    uint64_t posted_ns; /* monotonic clock; inbox_post sets it */
    struct note *next;
};

/* All zero at first; stays where it is while it has notes. The inbox's lock guards it. */
struct inbox_line {
    struct note *first, **last; /* `last` counts while there is a first */
    struct inbox_line *next;    /* the line whose turn comes after it */
};

typedef void (*inbox_reader)(void *data, struct note *note);

struct inbox {
    pthread_mutex_t lock;
    struct inbox_line *lines, **last_line; /* those with notes, in turn; guarded by lock */
    struct inbox_line own;                 /* of the notes without another line */
    uint64_t turn_ends_ns;                 /* of the first line */
    uint64_t oldest_ns; /* when the oldest note was posted, as the loop last woke up; the loop's */
    _Atomic uint32_t depth;
    uv_async_t wake;
    inbox_reader read;
    void *data;
};

/* Returns 0 or libuv's error. `read` is called on the loop thread for each note and takes it over.
 */
int inbox_init(struct inbox *inbox, uv_loop_t *loop, inbox_reader read, void *data);
/* Any thread. `line`: NULL = the inbox's own. */
void inbox_post(struct inbox *inbox, struct inbox_line *line, struct note *note);
uint32_t inbox_depth(struct inbox *inbox);
/* Whether all notes of a line have been read: then it may go, if nobody posts to it meanwhile. */
bool inbox_is_read(struct inbox *inbox, const struct inbox_line *line);
/* The time as notes see it: while some wait it is not later than these. Loop thread. */
uint64_t inbox_now_ns(struct inbox *inbox);
/* Loop thread, once every posting thread has been joined; unread notes are read first. The memory
 * is free once the loop has run the close callbacks. */
void inbox_close(struct inbox *inbox);

#endif
