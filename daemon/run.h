/* SPDX-License-Identifier: MIT */
/* run: one start of a training job: its ranks, its attention layers (streams), and their windows.
 *
 * Takes arrivals and completions in order and publishes what follows from them. Time comes in as an
 * argument. Loop thread only. */
#ifndef DAEMON_RUN_H
#define DAEMON_RUN_H

#include "config.h"
#include "err.h"
#include "hash.h"
#include "header.h"
#include "message.h"
#include "result.h"
#include "sequence.h"
#include "state_table.h"
#include "tally.h"
#include "window.h"
#include "work.h"

#include <stdbool.h>
#include <stdint.h>

/* Where results go; the sink takes the writer's buffer. */
struct result_sink {
    void (*put)(void *data, const char *topic, struct mpk_writer *writer, bool is_summary);
    void *data;
};

/* One attention layer. */
struct stream {
    uint32_t key; /* packed layer_id */
    uint32_t index;
    struct layer_id id;
    uint32_t heads; /* of the model; fixed with the first tensor, a hello only announces it */
    bool measured;  /* a tensor has come */
    uint32_t *spectrum_next; /* [heads] by head_offset of a message: the one of its heads that the
                                next one's spectra begin with; owned, NULL until there is one */
    struct tally pending;    /* since its last message, for the window of its next one */
    struct sequences sequences;
    UT_hash_handle hh;
};

struct run {
    uint8_t id[RUN_BYTES];
    char job[JOB_NAME_MAX + 1];
    const struct config *config;
    struct config job_config; /* what to measure: with the overrides for this job */
    const struct result_sink *sink;
    struct state_budget budget; /* a quarter of all there is */
    enum job_state state;
    bool dirty; /* the job map should be published again */
    struct window window;
    struct stream *streams; /* by key, in order of appearance */
    uint32_t stream_count;
    struct sequences events;
    uint64_t last_ns;
    uint64_t epoch, step, time_ns; /* newest seen */
    uint64_t received, processed;
    struct tally tally;
    uint32_t in_flight;
    uint64_t flush_arrival; /* show the windows once the messages up to this one are processed */
    uint32_t flush_left;    /* how many of them are still in flight */
    struct run *next;       /* the job's list */
};

/* What became of an arrival besides an error: the caller computes it, or it was an event and is
 * done. */
enum { RUN_COMPUTE = 0, RUN_HANDLED = 1 };

/* `config`, `sink` and `budget` (of all runs) outlive the run. Returns NULL when out of memory. */
struct run *run_new(const struct header *header, const struct config *config,
                    const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns);
/* Frees the state of windows; the run itself stays known. Nothing may be in flight. */
void run_free_windows(struct run *run);
void run_free(struct run **run);

/* A message in the order of reception. Returns RUN_COMPUTE (the message's run, stream and part are
 * set, and run_complete or run_abandon must follow), RUN_HANDLED, or the reason to refuse it. */
int run_arrive(struct run *run, struct message *message, uint64_t now_ns);
/* Its numbers: adds them to its window and publishes them as `live`. Returns 0 or ERR_MEMORY; the
 * message is accounted for either way. */
int run_complete(struct run *run, struct message *message, const struct measured *measured);
/* It could not be computed, because of `code`. */
void run_abandon(struct run *run, struct message *message, int code);
/* A message of this run was refused. */
void run_refused(struct run *run, int code);

/* The head, of the message's, that its spectra begin with. */
uint32_t run_spectrum_turn(const struct message *message);

/* Closes and publishes what may be. Call after any of the above, and on a timer. */
void run_settle(struct run *run, uint64_t now_ns);
/* Shows windows that have gone quiet, publishes the job map when dirty, and goes idle or ended. */
void run_tick(struct run *run, uint64_t now_ns);
/* Publishes every open window as partial, without closing it. Returns how many summaries. */
uint32_t run_show(struct run *run);
/* run_show once every message up to this arrival is processed. Returns whether it has to wait. */
bool run_flush(struct run *run, uint64_t arrival);

/* Appends the job map. */
void run_encode(const struct run *run, struct mpk_writer *writer);

#endif
