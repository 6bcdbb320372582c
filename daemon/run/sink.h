/* SPDX-License-Identifier: MIT */
/* sink: the receiver of the results of runs; the daemon has one for all runs. Loop thread only. */
#ifndef DAEMON_RUN_SINK_H
#define DAEMON_RUN_SINK_H

#include "proto/mpk.h"

struct map_shelf;
struct merged;
struct promises;
struct run;
struct stats;
struct store;
struct stream;

/* RESULT_CORRECTION: a summary of a window of which a newer one has gone out: no last value. */
enum result_kind { RESULT_OTHER, RESULT_SUMMARY, RESULT_CORRECTION, RESULT_ALERT };

struct result_sink {
    /* Takes the writer's buffer; `track` is the window rule of a summary, else 0. */
    void (*put)(void *data, const struct run *run, const char *topic, uint32_t track,
                struct mpk_writer *writer, enum result_kind kind);
    /* A summary that went out before a restart: kept as a last value and sent to nobody; NULL:
     * nobody wants to know. Takes the writer's buffer. Returns false when there is no room for more
     * last values. */
    bool (*recall)(void *data, const struct run *run, const char *topic, uint32_t track,
                   struct mpk_writer *writer);
    /* A layer has begun to learn a baseline; NULL: nobody wants to know. */
    void (*learning)(void *data, const struct run *run, const struct stream *stream,
                     uint32_t track);
    /* Whether this run, which has a window on its way, lets others have their turns now: it gets
     * one of its own soon, for closing_go_on; NULL: it never does. */
    bool (*pause)(void *data, struct run *run);
    /* A window that closing_merged took is out, or `code` says why it is to be tried again. Takes
     * it over. */
    void (*merged)(void *data, struct run *run, struct merged *merged, int code);
    /* These were promised, and the history has gone off: they are answered, as without one. Takes
     * them over; NULL: nobody makes promises. */
    void (*settle)(void *data, struct promises *promises);
    struct store *store; /* NULL: nothing is kept */
    struct stats *stats;
    struct map_shelf *maps;  /* NULL: none are kept */
    uint64_t wall_offset_ns; /* the wall clock less the monotonic one */
    bool is_replay; /* messages come as fast as they are read: the clock says nothing of them */
    void *data;
};

#endif
