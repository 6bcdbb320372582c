/* SPDX-License-Identifier: MIT */
/* run: one start of a training job: its ranks, its attention layers (streams), and their windows.
 *
 * Messages queue here in the order in which they were received, and are taken one by one once they
 * are computed; everything the run knows follows from the messages taken so far. Time comes in as
 * an argument. Loop thread only. */
#ifndef DAEMON_RUN_RUN_H
#define DAEMON_RUN_RUN_H

#include "daemon/alerts/alerts.h"
#include "config/config.h"
#include "proto/err.h"
#include "proto/header.h"
#include "daemon/ingest/message.h"
#include "proto/result.h"
#include "daemon/ingest/drop_totals.h"
#include "daemon/base/stats.h"
#include "daemon/run/sink.h"
#include "daemon/run/track.h"
#include "daemon/store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct run {
    uint8_t id[RUN_BYTES];
    char job[JOB_NAME_MAX + 1];
    const struct config *config;
    struct config job_config; /* what to measure: with the overrides for this job */
    const struct result_sink *sink;
    struct state_budget budget;       /* a quarter of all there is */
    struct state_budget drift_budget; /* half of that: baselines give way to windows */
    enum job_state state;
    bool dirty;   /* the job map should be published again */
    bool unsaved; /* something has changed since the last round of checkpoints began */
    bool alerts_unsaved;
    struct track tracks[TRACKS_MAX];
    uint32_t track_count;
    struct stream *streams; /* by key, in order of appearance */
    struct sequences events;
    struct drop_totals drop_totals;
    bool judge_losses;     /* no tensors came between two events: no window judges what is lost */
    struct alerts *alerts; /* NULL: none */
    uint64_t last_ns;      /* when it was last heard of */
    uint64_t epoch, step, time_ns; /* newest seen */
    uint64_t maps_epoch,
        maps_step; /* the step whose messages are asked for the maps of their heads */
    uint64_t queued_epoch, queued_step; /* of the last message with tensors that was queued */
    uint64_t maps_ns;                   /* when that step began; 0 = there was none yet */
    struct counts counts; /* of what is no layer's: events, what ingest refused; see run_counts */
    struct counts judged; /* run_counts when the alerts were last asked about the run */
    uint64_t found;       /* messages that were lost, and came after all */
    uint64_t taken;       /* messages: their order for the states */
    struct message *queue, **queue_last; /* received and not taken, oldest first */
    uint32_t queued;
    uint32_t detached;       /* taken, and still computed: tier weights */
    bool flushing;           /* show the windows once all up to flush_arrival are taken, */
    uint64_t flush_arrival;  /* and joined if they were taken unfinished */
    uint32_t flush_detached; /* so many of those are still computed */
    /* the round of checkpoints that is going on, see checkpoint.h */
    struct store_batch *saving; /* what the steps have collected */
    uint64_t store_losses;      /* of the store, when a round last began */
    uint64_t saving_bytes;
    int saving_code; /* why it cannot be submitted */
    bool in_round, round_goes_on;
    struct stream *round_next; /* where the next step begins */
    struct run *next;          /* the job's list */
};

/* `config`, `sink` and `budget` (of all runs) outlive the run. Returns NULL when out of memory. */
struct run *run_new(const char *job, const uint8_t *id, const struct config *config,
                    const struct result_sink *sink, struct state_budget *budget, uint64_t now_ns);
/* Whether it waits for messages to be computed. */
bool run_busy(const struct run *run);
/* It may not be busy. */
void run_free(struct run **run);

/* A message in the order of reception. Returns whether it is worth computing: then run_finish
 * follows. Call run_take after either. */
bool run_queue(struct run *run, struct message *message, uint64_t now_ns);
/* Its `measured` or `code` is set, in whatever order. What is detached goes out as `live`. */
void run_finish(struct run *run, struct message *message);
/* Takes the oldest message if it is finished: adds its numbers to their windows, and closes the
 * windows that may close. The message is then the caller's, to be accounted for by its `code`: 0,
 * or why it was refused. NULL when there is none. One of tier weights, which may take seconds, is
 * taken unfinished: later messages do not wait for it, its windows do. */
struct message *run_take(struct run *run);
/* A message that was taken unfinished (`detached`) and is finished now: adds its numbers to its
 * windows. It is then the caller's, as after run_take. */
void run_join(struct run *run, struct message *message, uint64_t now_ns);
/* Lets go of the messages that are not computed yet, which stay with whoever computes them: at a
 * stop that cannot wait. They are then gaps in the sequences of later ones. */
void run_skip_unfinished(struct run *run);
/* A message of this run was refused before it came here. */
void run_refused(struct run *run, int code);

/* The layer, made when there is none. Returns 0, ERR_STREAM_LIMIT or ERR_MEMORY. */
int run_stream(struct run *run, struct layer_id id, uint32_t heads, uint64_t now_ns,
               struct stream **ret_stream);
/* The head, of the message's, that its spectra begin with. */
uint32_t run_spectrum_turn(const struct run *run, const struct message *message);
struct drift_rule run_drift_rule(const struct config *config);
/* A layer's drift has grown: charges the budget of windows. */
void run_charge_drift(struct run *run, struct layer_track *layer);
/* Frees the states of all parts, and every baseline: the run has ended. */
void run_free_state(struct run *run);
/* Of all layers, and of what belongs to none. */
struct counts run_counts(const struct run *run);

/* Closes and publishes what may be, shows windows that have gone quiet, judges silence, frees what
 * has long been idle, publishes the job map when dirty, and goes idle or ended. On a timer. */
void run_tick(struct run *run, uint64_t now_ns);
/* Whether there is anything that a tick could find to do. */
bool run_wants_ticks(const struct run *run);
/* Shows the open windows (closing_show) once every message received so far is taken. Returns
 * whether it has to wait. */
bool run_flush(struct run *run);

/* Appends the job map. */
void run_encode(const struct run *run, struct mpk_writer *writer);

#endif
