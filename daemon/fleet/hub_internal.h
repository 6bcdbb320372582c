/* SPDX-License-Identifier: MIT */
/* hub_internal: the memory of a hub's thread: nodes, runs, and which windows can be merged. All of
 * it but what nodes said last can be read again from the parts' file. README.md lists the files. */
#ifndef DAEMON_FLEET_HUB_INTERNAL_H
#define DAEMON_FLEET_HUB_INTERNAL_H

#include "daemon/base/inbox.h"
#include "daemon/fleet/link.h"
#include "daemon/fleet/parts.h"
#include "daemon/fleet/seen.h"
#include "daemon/state/merged.h"
#include "daemon/state/rank_entropy.h"

#include <pthread.h>
#include <stdatomic.h>

/* A node is as good as gone when nothing was heard of it for so long: another attnd may have its
 * id. */
#define HUB_GONE_NS UINT64_C(6000000000)
/* Starts of a node of which something may still be in the stream. */
#define HUB_EARLIER_MAX 64
/* Windows that a node may be behind the first before nobody waits for it: as ranks of a run are
 * (daemon/run/window.h). */
#define HUB_BEHIND_MAX 16
/* Beyond these limits rows are set aside, and nodes not taken (proto/FLEET.md). */
#define HUB_NODES_MAX   4096
#define HUB_RUNS_MAX    65536
#define HUB_RUNS_MORE   64   /* than the loop takes, so that `fleet` can say so */
#define HUB_RUNS_LISTED 1024 /* in the answer of `fleet` */
#define HUB_ROW_LISTS   1024
#define HUB_MEMBERS_MAX 65536        /* nodes in runs */
#define HUB_LAYERS_MAX  16384        /* of a run */
#define HUB_WAITING_MAX 1024         /* rows `closed` of a member that are above a hole */
#define HUB_PIECES_MAX  8192         /* of a row */
#define HUB_SAID_MAX    (512u << 10) /* bytes of a row that is no part */
/* Bytes in the file of rows of which pieces are missing, and of settings and logged values, as
 * divisors of fleet.outbox. Each row counts for HUB_ROW_BYTES more than it has. */
#define HUB_PIECES_PART 8
#define HUB_SAID_PART   64
#define HUB_ROW_BYTES   100

enum hub_count {
    HUB_RECEIVED,        /* rows, pieces put together */
    HUB_REPEATED,        /* of them, that were here */
    HUB_POISONED,        /* they cannot be read */
    HUB_WINDOWS_UNKNOWN, /* of a rule that the hub does not have */
    HUB_STEPS_DISAGREE,  /* windows whose nodes are in different epochs */
    HUB_GONE,            /* rows that a node has no more */
    HUB_WINDOWS_LOST,    /* whose parts went before they were merged */
    HUB_MERGED,          /* windows */
    HUB_CORRECTED,       /* of them, again */
    HUB_COUNTS
};

struct hub_node {
    struct hub_node *next;
    int64_t row;
    uint8_t id[FLEET_ID_BYTES];
    char name[FLEET_NAME_MAX + 1], host[FLEET_NAME_MAX + 1], version[FLEET_NAME_MAX + 1];
    uint8_t instance[FLEET_ID_BYTES];
    bool has_instance;
    bool loaded; /* `instance` is that of the file: nobody has said it since the hub started */
    uint8_t earlier[HUB_EARLIER_MAX][FLEET_ID_BYTES];
    uint32_t earlier_count;
    struct seen seen;
    bool unsaved;
    int64_t used_s;       /* when anything of it came, or the hub started */
    uint32_t memberships; /* in runs */
    uint64_t heard_ns; /* a sign of life of `instance`, monotonic; 0: none since the hub started */
    struct fleet_beat beat;
    struct fleet_beat_run *runs; /* owned; of that, in the order of their ids */
    uint32_t run_count;
    uint64_t behind;   /* the most windows behind the first, as of the last answer of `fleet` */
    bool over;         /* it takes part in runs, and has ended them all; as of that */
    int64_t clock_ns;  /* its clock less the hub's */
    uint64_t hole;     /* the first row that is lacking, as of its last sign of life */
    uint64_t hole_ns;  /* since when */
    uint64_t asked_ns; /* when it was last asked for rows */
    uint32_t asked;    /* how often for the same hole */
    char refused[192]; /* why its parts are not taken; "" = they are */
    char twice[192];   /* why a copy of it is refused */
    char copy[192];    /* which one */
    uint64_t copy_ns;  /* when it was refused; 0: there is none */
};

/* A row `closed` that is not below a hole in what is here of its node. */
struct hub_closed {
    uint64_t part, seq;
};

/* A rank that is odd in some layers of a window. */
struct hub_odd {
    uint32_t rank;
    const struct hub_node *node;
    uint32_t layers, windows; /* in how many layers; in how many windows in a row */
    uint32_t key, head;       /* where it is furthest from the others */
    double distance;
};

/* The ranks of a window, compared. */
struct hub_ranks {
    uint64_t first, last;
    uint32_t layers;     /* in which there were enough of them; 0: nothing was compared */
    struct hub_odd *odd; /* owned */
    uint32_t odd_count;
};

/* A window rule of a run. */
struct hub_track {
    int64_t row;
    struct fleet_rule rule;
    uint64_t size;              /* units per part */
    struct hub_window *windows; /* owned; ascending */
    uint32_t window_count, window_capacity;
    uint32_t open;  /* windows below are merged and have not changed */
    uint64_t front; /* parts below were closed by some node */
    bool waits;     /* one is with the loop */
    uint64_t floor; /* of parts below, some are not kept any more: nothing is merged of them */
    struct hub_ranks ranks; /* of the newest window in which some were compared */
};

/* A node in a run. */
struct hub_member {
    struct hub_node *node;
    struct fleet_body
        said; /* the newest of `closed` and `run`; its pointers are not to be followed */
    uint64_t seq;
    uint32_t *ranks; /* owned */
    uint32_t rank_count;
    struct tally tally;
    bool refused; /* other buckets */
    /* per track of the run */
    struct hub_progress {
        uint64_t next;              /* parts below are closed */
        struct hub_closed *waiting; /* owned */
        uint32_t waiting_count, waiting_capacity;
    } * tracks;
};

struct hub_window {
    uint64_t part;     /* the index of its last part */
    uint64_t first_ns; /* when a node had first closed it, or the hub read so in its file */
    uint64_t retry_ns; /* not before */
    uint64_t changed_ns;
    uint64_t generation; /* another one with each change, also over hub_load */
    bool merged, changed;
    bool redo;         /* the loop may not have kept it */
    bool away;         /* with the loop */
    uint32_t revision; /* that it had, if merged */
    bool disagreed;
};

/* A node, in the layer that is being merged. */
struct hub_ranks_of {
    int64_t row; /* of the node */
    struct rank_entropy entropy;
};

/* A layer of a run. */
struct hub_layer {
    uint32_t key, heads;
};

struct hub_run {
    struct hub_run *next, *next_of_row;
    int64_t row;
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    struct own_window own_window; /* as the first node says that asks for some */
    int64_t buckets;
    uint64_t begun_ns;        /* when the hub first heard of it, or started */
    bool ended;               /* the loop knows */
    bool told;                /* it is being told */
    int64_t heard_s, saved_s; /* when a node said anything of it; as the file has it */
    int64_t forgotten_s;
    int64_t said, said_last;     /* rows of `said` up to the first are through; the newest */
    bool said_waits;             /* the next is with the loop */
    int refused;                 /* why the loop does not take it; 0: it does */
    uint64_t retry_ns;           /* not before, for what is no window */
    struct hub_member **members; /* owned */
    uint32_t member_count;
    struct hub_track *tracks; /* owned */
    uint32_t track_count;
    struct hub_layer *layers; /* owned; of which parts came */
    uint32_t layer_count;
    uint32_t compared; /* the track of which ranks were compared last */
    bool has_partial;  /* some of its windows were merged without some nodes */
};

/* A window that is being merged. */
struct hub_job {
    struct hub_run *run;
    uint32_t track;
    uint64_t part, generation;
    struct merged *merged;
    uint32_t *layers; /* owned */
    uint32_t layer_count, at;
    struct hub_ranks ranks;
    struct hub_ranks_of *ranks_of; /* owned */
    uint32_t ranks_of_count;
};

struct hub {
    const struct config *config;
    struct store *store;
    struct inbox *inbox;
    uint64_t lost; /* records of the history (store_lost), merged again since */
    struct parts parts;
    char *history_path; /* owned */
    struct hub_history {
        uint8_t id[FLEET_ID_BYTES];
        uint64_t opened; /* a number of this opening, greater than that of the one before */
    } history;
    uint64_t history_before; /* the number of the one before */
    uint8_t id[FLEET_ID_BYTES];
    char name[FLEET_NAME_MAX + 1];
    struct hub_node *nodes;
    struct hub_run *runs;        /* the newest first */
    struct hub_run **runs_by_id; /* owned; in the order of ids, then of jobs */
    uint32_t run_count, run_capacity;
    struct hub_run *runs_by_row[HUB_ROW_LISTS];
    struct hub_run *served; /* the last one that had something for the loop; NULL: it has gone */
    uint64_t full_ns;       /* until then there is no room for one more run */
    struct hub_job job;     /* run NULL: none */
    uint32_t away;          /* windows, and other news, with the loop */
    uint32_t members;       /* of all runs */
    uint64_t generation;
    uint64_t piece_bytes, said_bytes; /* in the file, at most */
    uint64_t counts[HUB_COUNTS];
    uint64_t refused_copies, refused_nodes, forgotten_runs;
    char
        unknown[256]; /* the newest node with a window rule that the hub does not have; "" = none */
    uint64_t waiting; /* messages in the stream, as of the newest */
    uint64_t now_ns, started_ns;
    int64_t clock_s; /* hub_now_s, as of clock_ns */
    uint64_t clock_ns;
    uint64_t heard_ns, listens_ns; /* of any node; and since when without a long silence of all */
    uint64_t forget_ns;            /* the past is looked at again then */
    bool changed;                  /* since the result of `fleet` was encoded */
    struct fleet_link *link;
    pthread_t thread;
    bool thread_runs;
    atomic_bool stopping;
    pthread_mutex_t lock; /* guards the rest */
    struct note *done;    /* merged windows that came back */
    char *status;         /* encoded; owned */
    size_t status_size;
};

/* hub_lines.c */

/* The stream has nothing more when nothing came for so long. */
#define HUB_DRAINED_NS UINT64_C(1000000000)

/* All NULL without a connection. */
struct hub_lines {
    natsConnection *connection;
    jsCtx *js;
    natsSubscription *rows, *beats;
    uint64_t tend_ns, check_ns;
    uint64_t drained_ns; /* when the last row came, or the consumer was there */
    uint64_t caught_ns;  /* when nothing was behind a row that came, as of its delivery */
    bool beyond; /* the consumer was offered more than the stream had when it was looked at last */
};

/* The connection goes. */
void hub_lines_drop(struct hub_lines *lines);
/* Makes what is missing, once a second. */
void hub_lines_tend(struct hub_lines *lines, struct hub *hub);
/* Takes the signs of life that have come, and answers: rows that are lacking, or why not. */
void hub_lines_take_beats(struct hub_lines *lines, struct hub *hub);

/* Hexadecimal digits, lower case, of `size` bytes. */
bool hub_read_digits(const char *text, uint8_t *ret_bytes, size_t size);
/* The id behind a prefix of a subject. */
bool hub_read_node(const char *subject, const char *prefix, uint8_t *ret_node);

/* hub_take.c */

/* A message of the stream. `data` is borrowed. */
struct hub_message {
    uint8_t node[FLEET_ID_BYTES], instance[FLEET_ID_BYTES];
    uint64_t seq;
    uint32_t piece, pieces; /* from 1; 1 of 1: whole */
    struct seen_range gone; /* first 0: nothing is */
    bool skipped;           /* its numbers were never given */
    const void *data;
    size_t size;
};

enum hub_verdict {
    HUB_TAKE,  /* acknowledge it when the transaction is committed */
    HUB_LATER, /* offer it again later, some times */
    HUB_AGAIN, /* offer it again later: memory or the file failed */
};

/* Notes the heads of a layer of a run. Returns 0, ERR_HEADS_CHANGED, ERR_STREAM_LIMIT or
 * ERR_MEMORY. */
int hub_note_heads(struct hub_run *run, uint32_t layer, uint32_t heads);
enum hub_verdict hub_take(struct hub *hub, const struct hub_message *message);
/* The numbers of rows that came since the last call, into the transaction. */
void hub_take_save(struct hub *hub);
/* A sign of life. Returns the node, or NULL: it was refused, with *ret_refused a sentence. */
struct hub_node *hub_take_beat(struct hub *hub, const uint8_t *node, const struct fleet_beat *beat,
                               const char **ret_refused);

/* hub_index.c */

/* A run is in the lists of the hub, or in none. Returns 0 or ERR_MEMORY. */
int hub_index_add(struct hub *hub, struct hub_run *run);
void hub_index_drop(struct hub *hub, struct hub_run *run);
/* The first run in `runs_by_id` with this id. Returns where it would be when there is none. */
uint32_t hub_index_at(const struct hub *hub, const uint8_t *run);
/* Each is NULL when there is none. */
struct hub_run *hub_run_of(const struct hub *hub, int64_t row);
struct hub_run *hub_known_run(const struct hub *hub, const char *job, size_t job_size,
                              const uint8_t *run);
/* A run in the last sign of life of a node. */
const struct fleet_beat_run *hub_beat_of(const struct hub_run *run, const struct hub_node *node);
/* For qsort of these. */
int hub_beat_order(const void *a, const void *b);
/* The member whose node has this row; NULL when there is none. */
const struct hub_member *hub_member_of(const struct hub_run *run, int64_t node);
/* The first member at or behind a node: they are in the order of ids. */
uint32_t hub_member_at(const struct hub_run *run, const struct hub_node *node);

/* hub_runs.c */

void hub_runs_free(struct hub *hub);
/* The times in the parts' file: seconds by a clock that is the machine's when the file is begun,
 * then goes while the hub runs, so that nothing grows old by a clock that jumps, or while nobody
 * listens. */
int64_t hub_now_s(const struct hub *hub);
/* Its state, and when it was heard of, into the transaction. */
void hub_save_run(struct hub *hub, struct hub_run *run);
/* As the file has them; NULL when out of memory. */
struct hub_node *hub_add_node(struct hub *hub, int64_t row, const uint8_t *id);
struct hub_run *hub_add_run(struct hub *hub, int64_t row, const char *job, size_t job_size,
                            const uint8_t *id);
/* Finds, or makes: NULL when out of memory. */
struct hub_window *hub_add_window(struct hub *hub, struct hub_track *track, uint64_t part);
struct hub_run *hub_find_run(struct hub *hub, const char *job, size_t job_size, const uint8_t *run);
void hub_free_run(struct hub *hub, struct hub_run *run);
/* It is in no list any more. */
void hub_free_node(struct hub_node *node);
/* A run of which nothing was heard for limits.idle is idle, as with trainers. */
enum job_state hub_state_of(const struct hub *hub, const struct hub_run *run);
struct hub_member *hub_find_member(struct hub *hub, struct hub_run *run, struct hub_node *node);
/* Whether the run asks for it, or the config has it. */
bool hub_knows_rule(const struct hub *hub, const struct hub_run *run,
                    const struct fleet_rule *rule);
/* Takes what a row of a node says of the windows that its run asks for. */
void hub_note_own_window(struct hub_run *run, const struct fleet_body *body);
/* Its index; -1 when out of memory. */
int hub_find_track(struct hub *hub, struct hub_run *run, const struct fleet_rule *rule);
/* A node's row `closed` or `run` is in the file. Returns 0 or ERR_MEMORY. */
int hub_note_progress(const struct hub *hub, struct hub_member *member,
                      const struct fleet_body *body, uint64_t seq);
int hub_note_closed(struct hub *hub, struct hub_run *run, struct hub_member *member, uint32_t track,
                    uint64_t part, uint64_t seq);
/* Something of this part has come: windows that have it and were merged are merged again. */
void hub_note_changed(struct hub *hub, struct hub_run *run, uint32_t track, uint64_t part);
/* Parts below go: the windows that need them stay as they are. Returns how many of these were never
 * merged, and are lost. */
uint32_t hub_raise_floor(struct hub_track *track, uint64_t floor);
/* Whether the node was heard of so lately that one waits for it. */
bool hub_is_heard(const struct hub *hub, const struct hub_node *node);
/* How many windows a member is behind the first. */
uint64_t hub_behind(const struct hub *hub, const struct hub_run *run,
                    const struct hub_member *member);
/* Whether a member has said that its run is over, and all that it had to say is here. */
bool hub_has_ended(const struct hub_member *member);
/* The first window that is not merged, has changed, or is with the loop. */
uint32_t hub_first_open(struct hub_track *track);
/* A window that can be merged now. Returns false when there is none. */
bool hub_find_due(const struct hub *hub, const struct hub_run *run, uint32_t *ret_track,
                  struct hub_window **ret_window);
/* Whether a window is put off because of a member. */
bool hub_waits_for(const struct hub *hub, const struct hub_run *run, uint32_t track,
                   const struct hub_window *window, const struct hub_member *member);
/* The window with this last part; NULL when there is none. */
struct hub_window *hub_find_window(struct hub_track *track, uint64_t part);
/* Parts per window. */
uint64_t hub_track_parts(const struct hub_track *track);
/* Sums up what the members of a run have said, into news of it. Returns 0 or ERR_MEMORY. */
int hub_sum_up(const struct hub_run *run, struct merged *merged);

/* hub_load.c */

/* Everything from the parts' file; what was there is freed. `damage`: a code of SQLite by which the
 * file is begun anew first, 0: none. A file that is damaged is begun anew, too. Returns 0,
 * ERR_MEMORY or ERR_AGAIN: then not everything is there, and it has to be called again. */
int hub_load(struct hub *hub, int damage);
/* The ids of the hub and of its history, in a transaction of their own. Returns 0 or SQLite's code.
 */
int hub_put_meta(struct hub *hub);

/* hub_forget.c */

/* Some of what need not be kept, now and then. Returns whether there is more to do at once. */
bool hub_forget(struct hub *hub);
/* All of a run but its floors. */
void hub_forget_run(struct hub *hub, struct hub_run *run);
/* For one more; may forget another. Returns false when there is none. */
bool hub_make_room(struct hub *hub);
/* Finds, or makes; may forget another. NULL when there is no room, or out of memory. */
struct hub_node *hub_find_node(struct hub *hub, const uint8_t *id);

/* hub_merge.c */

/* One step: a layer of a window, or news for the loop. Returns whether there is more to do at once.
 */
bool hub_merge_step(struct hub *hub);
/* News that came back from the loop. */
void hub_merge_done(struct hub *hub, struct merged *merged);
void hub_merge_stop(struct hub *hub);

/* hub_ranks.c */

/* A state of the layer that is being merged, of a node. Returns 0 or ERR_MEMORY. */
int hub_ranks_add(struct hub_job *job, int64_t node, const struct layer_state *state);
/* The layer has all its states. Returns 0 or ERR_MEMORY. */
int hub_ranks_judge(struct hub_job *job, uint32_t key, uint32_t heads);
/* The window has all its layers: into its track. */
void hub_ranks_keep(struct hub_job *job, uint64_t first, uint64_t last);
void hub_ranks_stop(struct hub_job *job);
void hub_ranks_clear(struct hub_ranks *ranks);
/* A value of the map of a run: nil before the first window. */
void hub_ranks_put(const struct hub_run *run, struct mpk_writer *writer);

/* hub_status.c */

void hub_status_encode(struct hub *hub, struct mpk_writer *writer);

#endif
