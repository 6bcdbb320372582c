/* SPDX-License-Identifier: MIT */
/* inbox: the loop thread's letter box: any thread posts notes, the loop reads them in order.
 *
 * First in, first out over all posters, which the closing of windows relies on: a message's arrival
 * is posted before its completion, and before any event that was received after it. Not bounded
 * itself: what the ingest thread posts counts against its budget, and a message has at most one
 * note in here. */
#ifndef DAEMON_BASE_INBOX_H
#define DAEMON_BASE_INBOX_H

#include <pthread.h>
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
    struct note *next;
};

typedef void (*inbox_reader)(void *data, struct note *note);

struct inbox {
    pthread_mutex_t lock;
    struct note *first, **last; /* guarded by lock */
    struct note *reading;       /* the loop's: taken, and not read yet */
    _Atomic uint32_t depth;
    uv_async_t wake;
    inbox_reader read;
    void *data;
};

/* Returns 0 or libuv's error. `read` is called on the loop thread for each note and takes it over.
 */
int inbox_init(struct inbox *inbox, uv_loop_t *loop, inbox_reader read, void *data);
/* Any thread. */
void inbox_post(struct inbox *inbox, struct note *note);
uint32_t inbox_depth(struct inbox *inbox);
/* Loop thread, once every posting thread has been joined; unread notes are read first. The memory
 * is free once the loop has run the close callbacks. */
void inbox_close(struct inbox *inbox);

#endif
