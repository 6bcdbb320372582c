/* SPDX-License-Identifier: MIT */
/* history_find: finds the subject of a question: the run, the layer, the track and the metric that
 * its parameters name, or else the most likely ones. Reader thread. */
#ifndef DAEMON_HISTORY_FIND_H
#define DAEMON_HISTORY_FIND_H

#include "daemon/history/internal.h"

struct found_run {
    uint64_t id;
    char job[JOB_NAME_MAX + 1];
    uint8_t run[RUN_BYTES];
    char hex[2 * RUN_BYTES + 1];
    enum job_state state;
    uint32_t world;
    uint64_t first_ns, last_ns, epoch, step;
    struct failure failure; /* of JOB_FAILED, as far as it can be read */
};

/* As many as limits.heads allows at most. */
#define LAYER_HEADS_MAX 65536

struct found_layer {
    uint64_t id;
    struct layer_id layer;
    char module[MODULE_MAX + 1]; /* "" = not known */
    uint32_t heads;              /* at most LAYER_HEADS_MAX; 0 for what a damaged database says */
};

struct found_track {
    uint64_t id;
    struct history_track track;
};

/* The run of a job whose digits begin with `prefix`; "": the one that its name means, as in
 * registry_find, of those that the history has. Returns 0, ERR_JOB_UNKNOWN, ERR_RUN_UNKNOWN (with a
 * sentence; also when several begin so), or another error. */
int find_run(struct query *query, const char *job, const char *prefix, struct found_run *ret_run);

/* Refuses a question to a run that has no layer; `also` stands behind that. */
int find_no_window(struct query *query, const struct found_run *run, const char *also);

/* The layer of the parameters, for SQL; a value that no layer has stands for "any". */
#define ASKED_ANY (LAYER_MAX + UINT64_C(1))
struct asked_layer {
    uint64_t stack, layer, site;
};
struct asked_layer find_asked_layer(const struct query *query);
/* The layers that stack, layer and site of the parameters leave, in the order encoder, decoder;
 * layer; self, cross. Each row of the statement is read by found_layer. */
int open_layers(struct query *query, const struct found_run *run, sqlite3_stmt **ret_statement);
struct found_layer found_layer(sqlite3_stmt *statement);
/* The first of them. Returns 0, ERR_NO_HISTORY with a sentence, or another error. */
int find_layer(struct query *query, const struct found_run *run, struct found_layer *ret_layer);

/* The track that the parameters name; else attnd's primary one; else one that the config does not
 * have, which the run asked for; else the one with the newest window. The same errors. */
int find_track(struct query *query, const struct found_layer *layer, struct found_track *ret_track);

/* All three, as the parameters name them. The same errors. */
int find_asked(struct query *query, struct found_run *ret_run, struct found_layer *ret_layer,
               struct found_track *ret_track);

/* The track in three columns of a row: unit, length, every. */
struct history_track column_track(sqlite3_stmt *row, int column);
/* "100 steps every 10". */
#define TRACK_TEXT_MAX 96
void track_text(const struct history_track *track, char ret_text[TRACK_TEXT_MAX]);

/* Keys that several answers have. */
void put_text(struct query *query, const char *key, const char *text);
void put_u64(struct query *query, const char *key, uint64_t number);
/* `job`, `run`: 2 keys. */
void put_run(struct query *query, const struct found_run *run);
/* The map of a run as `runs` lists it. Returns 0, ERR_RUN_UNKNOWN, or another error. */
int put_changed_run(struct query *query, const struct found_run *run);
/* The state in a column of a row of `runs` whose failure is in another. */
enum job_state column_state(sqlite3_stmt *row, int state, int failure, struct failure *ret_failure);
/* `state`, and `failure` of JOB_FAILED: 1 or 2 keys. */
uint32_t put_state_count(enum job_state state);
void put_state(struct query *query, enum job_state state, const struct failure *failure);
/* `unit`, `length`, `every`: 3 keys. */
void put_track(struct query *query, const struct found_track *track);
/* `stack`, `layer`, `site`, and `module` when that is known. */
uint32_t put_layer_count(const struct found_layer *layer);
void put_layer(struct query *query, const struct found_layer *layer);
/* Writes up to `limit` rows by `put` as an array under `key`, and `more`, whether the statement has
 * one row more than that: 2 keys. Returns 0 or an error. */
int put_rows(struct query *query, sqlite3_stmt *statement, const char *key, uint64_t limit,
             void (*put)(struct query *query, sqlite3_stmt *statement));

#endif
