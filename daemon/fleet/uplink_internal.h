/* SPDX-License-Identifier: MIT */
/* uplink_internal: what the thread (uplink.c) and its ways of sending (uplink_send.c) share. */
#ifndef DAEMON_FLEET_UPLINK_INTERNAL_H
#define DAEMON_FLEET_UPLINK_INTERNAL_H

#include "daemon/fleet/flight.h"
#include "daemon/fleet/link.h"
#include "daemon/fleet/uplink.h"
#include "daemon/store/outbox.h"

#include <pthread.h>

/* Marks of one transaction. */
#define TAKEN_MAX 256
#define ASKS_MAX  64
/* Sentences of hubs that are logged once. */
#define REFUSALS_MAX 8
/* Slices of the outbox that a question, or removing, may cost in one turn. */
#define SLICES_PER_TURN 16

struct uplink_answer {
    char node[LINK_ID_DIGITS + 1];
    uint64_t seq, turn;
    uint32_t piece;
    bool taken, no_stream;
};

struct uplink_status {
    struct outbox_status outbox; /* opened 0: there is none */
    uint64_t sent, resent;
    char refused[sizeof((struct fleet_ask *)0)->refused];
};

struct uplink {
    struct store *store;
    struct fleet_link *link;
    uint64_t keep_s, outbox_bytes;
    struct fleet_beat beat; /* with all that never changes */
    pthread_t thread;
    bool thread_runs;

    /* the thread's */
    natsConnection *connection;
    jsCtx *js;
    natsSubscription *questions;
    struct outbox_status outbox;
    char node[LINK_ID_DIGITS + 1];
    uint64_t cursor; /* rows up to here were handed over, or wait in `flight` */
    struct outbox_row row;
    struct flight_table flight;
    struct outbox_taken taken[TAKEN_MAX];
    size_t taken_count;
    uint64_t taken_since_ns;
    struct outbox_range asked; /* what of a question is left; first beyond last: nothing */
    uint64_t gone;             /* messages about rows that are not there */
    uint64_t beat_ns, pause_ns, paused_until_ns, refused_until_ns, refused_shown_ns;
    bool needs_stream, needs_skipped; /* to be made, to be said, before a row goes */
    bool ending;                      /* what `stopping` was when it was looked at */
    uint64_t sent, resent;
    char refused[sizeof((struct fleet_ask *)0)->refused];
    char refusals[REFUSALS_MAX][sizeof((struct fleet_ask *)0)->refused]; /* since it was accepted */
    uint32_t refusal_count;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake;
    bool woken, stopping;
    uint64_t stop_ns;
    struct uplink_answer *answers;
    uint32_t answer_count, answer_capacity;
    struct fleet_ask asks[ASKS_MAX];
    size_t ask_count;
    struct fleet_beat_run runs[FLEET_RUNS_MAX];
    uint32_t run_count;
    struct uplink_status status;
};

/* The thread's calls */

/* Some failed, or cannot go: all wait a while. */
void uplink_pause(struct uplink *uplink, uint64_t now);
/* Marks what was acknowledged; what cannot be marked goes again. */
void uplink_mark(struct uplink *uplink, uint64_t now);
/* Hands rows over. Returns whether there may be more to send at once. */
bool uplink_send(struct uplink *uplink, uint64_t now);
/* Says which numbers this opening of the history left out. */
void uplink_say_skipped(struct uplink *uplink);
/* Heeds what hubs ask. Returns whether there is more to do at once. */
bool uplink_take_asks(struct uplink *uplink, uint64_t now);

#endif
