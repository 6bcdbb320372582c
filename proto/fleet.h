/* SPDX-License-Identifier: MIT */
/* fleet: what nodes and hubs say to each other (proto/FLEET.md): the bodies of a node's outbox, its
 * heartbeats, and what a hub asks. A decoded one borrows its texts and binaries from the document
 * that it was read from, which must outlive it. Believes nothing. Pure; any thread. */
#ifndef PROTO_FLEET_H
#define PROTO_FLEET_H

#include "proto/result.h"

#define FLEET_VERSION 1
/* Bytes of the random numbers that name a node, a hub, and a start of either. */
#define FLEET_ID_BYTES 8
#define FLEET_NAME_MAX 64
/* A node leaves out numbers of rows by multiples of this. */
#define FLEET_JUMP (UINT64_C(1) << 20)
/* Units per part, and parts per window: numbers of a window rule. */
#define FLEET_RULE_MAX 1000000u
/* Runs in one heartbeat. */
#define FLEET_RUNS_MAX 256

extern const struct mpk_limits fleet_limits;

/* A window rule, as the config has it. */
struct fleet_rule {
    enum window_unit unit; /* WINDOW_EPOCH or WINDOW_STEP */
    uint64_t length, every;
};

enum fleet_kind {
    FLEET_PART,   /* the state of one layer in one part */
    FLEET_CLOSED, /* a part is closed: all its states are in earlier rows of the outbox */
    FLEET_RUN,    /* what else is known of a run: its state, settings, values that were logged */
};

/* One row of an outbox. */
struct fleet_body {
    enum fleet_kind kind;
    const char *job; /* not terminated in a decoded one: job_size */
    size_t job_size;
    const uint8_t *run;           /* RUN_BYTES */
    struct own_window own_window; /* that the run asks for */
    struct fleet_rule rule;       /* part, closed */
    uint64_t part;                /* its index: it covers units [part * p, (part + 1) * p - 1] */
    /* part */
    struct layer_id layer;
    const char *module; /* NULL: not known; module_size */
    size_t module_size;
    const void *state; /* layer_state_pack */
    size_t state_size;
    /* closed */
    uint64_t next_before;   /* parts below were closed before; those between have no messages */
    uint64_t complete_from; /* what came for parts below was not seen */
    bool cut;               /* closed before all its ranks had completed it */
    uint32_t layers;        /* how many parts came before, of this index */
    /* closed, run: of the run, at this moment */
    uint32_t world;
    uint64_t epoch, step, time_ns; /* of its newest message */
    uint64_t received, processed, lost;
    const msgpack_object *dropped_found; /* decoded: a map of reason and count; NULL: none */
    const struct reason_count *dropped;  /* to be encoded: [dropped_count] */
    uint32_t dropped_count;
    const uint32_t *ranks; /* [rank_count] that were heard of; decoded: NULL, in ranks_found */
    uint32_t rank_count;
    const msgpack_object *ranks_found;
    /* run */
    enum job_state state_of_run;
    struct failure failure; /* the exception that ended it; type "" = none */
    const void *settings;   /* an encoded map; NULL: as before */
    size_t settings_size;
    const struct fleet_point *points; /* to be encoded: [point_count] */
    uint32_t point_count;
    const msgpack_object *points_found; /* decoded: an array, for fleet_point_decode; NULL: none */
};

/* A value that was logged. */
struct fleet_point {
    const char *name; /* not terminated in a decoded one: name_size, 1 to NAMED_NAME_MAX bytes */
    size_t name_size;
    uint64_t epoch, step, time_ns;
    double value; /* NaN: it was not finite */
};

/* Appends one map to an empty writer; ask mpk_writer_ok afterwards. */
void fleet_body_encode(const struct fleet_body *body, struct mpk_writer *writer);
/* Returns 0, or ERR_FLEET for what is no such body. */
int fleet_body_decode(const msgpack_object *map, struct fleet_body *ret_body);
/* One of points_found. Returns the same. */
int fleet_point_decode(const msgpack_object *point, struct fleet_point *ret_point);

/* A run in a heartbeat. */
struct fleet_beat_run {
    uint8_t run[RUN_BYTES];
    uint64_t silent_ns; /* since it was last heard of there */
    uint32_t world, ranks;
};

/* A sign of life, every few seconds and at the end. */
struct fleet_beat {
    uint8_t instance[FLEET_ID_BYTES]; /* of this start */
    uint64_t file; /* its history, as no other file on any machine that runs now; 0: not known */
    char name[FLEET_NAME_MAX + 1], host[FLEET_NAME_MAX + 1], version[FLEET_NAME_MAX + 1];
    uint64_t newest;                   /* seq in its outbox; 0: there was none yet */
    uint64_t taken;                    /* all up to here were taken by a server, or fell out */
    uint64_t rows, bytes;              /* kept */
    uint64_t unsent, unsent_bytes;     /* of them, not taken by a server yet */
    uint64_t outbox_lost;              /* rows that fell out before a server took them */
    uint64_t time_ns;                  /* its wall clock */
    bool stopping;                     /* the last one: it ends */
    char domain[FLEET_NAME_MAX + 1];   /* of JetStream, where its rows go; "" = it has no name */
    char trouble[192];                 /* a sentence: it cannot keep windows; "" = it can */
    const struct fleet_beat_run *runs; /* to be encoded: [run_count] */
    uint32_t run_count;
    const msgpack_object *runs_found; /* decoded: an array, for fleet_beat_run_decode */
};

void fleet_beat_encode(const struct fleet_beat *beat, struct mpk_writer *writer);
int fleet_beat_decode(const msgpack_object *map, struct fleet_beat *ret_beat);
int fleet_beat_run_decode(const msgpack_object *run, struct fleet_beat_run *ret_run);

/* A hub to a node: rows that it lacks, or why it does not take its parts. */
struct fleet_ask {
    char hub[FLEET_NAME_MAX + 1];
    uint8_t instance[FLEET_ID_BYTES]; /* of the node: meant for this start of it only */
    uint64_t from, to;                /* RESYNC: send these again; 0: nothing */
    char refused[192];                /* "" = it is not */
    bool pause;                       /* it takes nothing; else it is about one run */
};

void fleet_ask_encode(const struct fleet_ask *ask, struct mpk_writer *writer);
int fleet_ask_decode(const msgpack_object *map, struct fleet_ask *ret_ask);

#endif
