/* SPDX-License-Identifier: MIT */
/* store: the thread that writes the history, and owns the one SQLite connection that does.
 *
 * Records that belong together travel as one batch: it is committed whole or not at all, and
 * batches are committed in the order in which they were submitted, so after a kill the database
 * holds the first batches, without a gap. Several share a transaction (history.commit). Loop
 * thread, except the thread itself; nothing here waits for the disk except store_new and
 * store_free.
 *
 * History never keeps attnd from running: README.md says what each kind of damage costs. A database
 * that cannot be opened at the start, is newer, or is another attnd's is left alone, and history is
 * off. */
#ifndef DAEMON_STORE_STORE_H
#define DAEMON_STORE_STORE_H

#include "config/config.h"
#include "proto/header.h"
#include "daemon/base/promise.h"
#include "daemon/base/pulse.h"
#include "proto/result.h"
#include "daemon/base/stats.h"

struct store;

/* Opens, repairs, migrates and starts the thread. Always gives a store; without history it takes
 * batches and drops them, counted. Returns 0, or ERR_MEMORY. */
int store_new(const struct config *config, struct stats *stats, struct store **ret_store);
/* The file in use, or NULL when history is off; *ret_reason then says why. */
const char *store_path(const struct store *store, const char **ret_reason);
/* Why the history in use cannot be written at the moment, or NULL: the last commit failed. Any
 * thread. */
const char *store_trouble(const struct store *store);
/* Any thread: a part of the history cannot be read. It is told, and the thread repairs the file,
 * once; what is written waits for that. */
void store_note_damage(struct store *store);
/* A sentence about that, or NULL; until another file takes its place. Any thread. */
const char *store_damage(const struct store *store);
/* How many of the records that it took it has lost: their commit failed, or their file was
 * replaced, which counts as one. A commit counts after store_trouble tells of it. Any thread. */
uint64_t store_lost(const struct store *store);
/* Commits what was submitted, closes cleanly and frees. Accepts NULL. */
void store_free(struct store **store);

/* The thread's turns: at least one per transaction. Lives as long as the store; NULL when history
 * has been off from the start and there is no thread. */
const struct pulse *store_pulse(const struct store *store);
/* Loop thread: asks for a turn. `data` is the store. */
void store_ask(void *data);

typedef void store_visitor(void *data, const char *job, const uint8_t *run, const char *key,
                           const void *value, size_t size);

/* Calls back with the records kept (batch_keep), by job, runs as they began, and key: at start,
 * before anything is submitted. */
void store_each_kept(struct store *store, store_visitor *visit, void *data);

/* One run of a job. `run` is RUN_BYTES. */
struct store_run {
    const char *job;
    const uint8_t *run;
    enum job_state state;
    uint32_t world;
    uint64_t epoch, step, time_ns; /* newest */
};

/* Memory that the caller frees. */
struct store_bytes {
    void *data;
    size_t size;
};

/* The newest window of a layer, of those of this unit, length and every, and its state; at start,
 * as above. Fills the other fields of the window. Returns 0, ERR_NO_HISTORY, ERR_MEMORY or
 * ERR_STORE_FORMAT. */
int store_find_newest(struct store *store, const struct store_run *run, struct layer_id layer,
                      struct result_window *window, struct store_bytes *ret_state);
/* Loop thread: the same as store_each_kept for one run, of which the last batch was submitted
 * (batch_hold), whether it is written yet or not. Does not wait for what is being written. Returns
 * 0, or ERR_HISTORY_UNREAD or ERR_MEMORY: what came is not all, or nobody knows whether there is
 * anything. */
int store_each_kept_of(struct store *store, const struct store_run *run, store_visitor *visit,
                       void *data);
/* One kept value. Returns the same. */
int store_find_kept(struct store *store, const struct store_run *run, const char *key,
                    struct store_bytes *ret_value);

/* Batches */

struct store_batch;

/* One layer's window. A window that is already there (same run, layer, unit, length, every, last)
 * is replaced. */
struct store_window {
    struct layer_id layer;
    const char *module; /* the path of the module that attends; NULL: keeps the one that is there */
    uint32_t heads;
    struct result_window window;
    bool final; /* closed; else shown while still open, to be replaced */
    bool lacks; /* parts of it are missing: one that is there and has more messages stays */
    uint64_t epoch, step, time_ns, messages, lost;
    const void *state; /* layer_state_pack */
    size_t state_size;
};

/* The maps of its heads, in fewer cells; heads = 0: none. */
struct store_head_maps {
    uint32_t heads;
    uint32_t queries, keys;
    uint32_t rows, columns;
    const uint16_t *values; /* [heads][rows][columns] IEEE half precision */
};

/* A layer's head-mean map, average-pooled to rows x columns, of one message. */
struct store_map {
    struct layer_id layer;
    struct result_window window;
    uint64_t epoch, step, time_ns;
    uint32_t queries, keys; /* of the message */
    uint32_t rows, columns; /* at most 128 */
    const uint16_t *values; /* [rows][columns] IEEE half precision */
    struct store_head_maps of_heads;
};

/* A number that the training reported. The newest of a name and step is kept. */
struct store_point {
    const char *name; /* 1 to NAMED_NAME_MAX bytes */
    uint64_t epoch, step, time_ns;
    double value; /* NaN: it was not finite */
};

/* The numbers of a layer's sketch in one capture: a row for each (epoch, step), the newest. */
struct store_sketch {
    struct layer_id layer;
    uint64_t epoch, step, time_ns;
    const void *numbers; /* an encoded map: sketch_finish */
    size_t numbers_size;
};

/* The most names of a run; values of others are counted (COUNT_LOG_REFUSED). */
#define STORE_NAMES_MAX 64
/* Points of one name. When there are more, those of neighbouring steps are thinned out (write.c).
 */
#define STORE_POINTS_MAX 2000

/* For one run; everything is copied. NULL when out of memory. */
struct store_batch *batch_new(const struct store_run *run);
/* Each returns 0 or ERR_MEMORY. */
int batch_window(struct store_batch *batch, const struct store_window *window);
int batch_map(struct store_batch *batch, const struct store_map *map);
int batch_alert(struct store_batch *batch, const struct alert_result *alert);
int batch_point(struct store_batch *batch, const struct store_point *point);
int batch_sketch(struct store_batch *batch, const struct store_sketch *sketch);
/* The settings of the training: an encoded map. */
int batch_settings(struct store_batch *batch, const void *settings, size_t size);
/* The exception that ended it: an encoded map (failure_put). */
int batch_failure(struct store_batch *batch, const void *failure, size_t size);
/* Keeps a value under a key of this run, until it is replaced or forgotten: checkpoints. */
int batch_keep(struct store_batch *batch, const char *key, const void *value, size_t size);
/* A row of the outbox, behind those that are in it: fleet_body_encode. Only on a node. */
int batch_out(struct store_batch *batch, const void *body, size_t size);
/* Forgets all keys that begin with `prefix`; "" = all. */
int batch_forget(struct store_batch *batch, const char *prefix);
/* Its contents were promised to somebody: once submitted it is never dropped, but waits for the
 * disk. With windows, alerts, points, sketches or rows of the outbox in it, with nothing in it, or
 * as the last one of its run, it is not refused either: whoever makes promises asks store_is_full
 * before. The last one has all that is kept of the run. */
void batch_hold(struct store_batch *batch, bool last);
/* The promises that it makes good when it is committed (store_set_settle); freed with it. */
struct promises *batch_promises(struct store_batch *batch);
void batch_free(struct store_batch **batch);

/* Takes the batch. When config_records_bytes wait it is dropped, and its records are
 * counted; a batch without windows and alerts (a checkpoint) gives way earlier, at half of it. One
 * that is larger than that is taken when nothing else waits. Returns whether it was taken; *batch
 * is NULL afterwards, unless it was not and has promises. */
bool store_submit(struct store *store, struct store_batch **batch);
/* Counts the records of a batch that could not be made whole as dropped; NULL: there was no memory
 * for one. */
void store_count_lost(struct store *store, const struct store_batch *batch);
/* `settle` takes the promises of each batch over when it is committed, or when history has gone off
 * and nothing is kept any more: the thread calls it. Before the first batch that has any. */
void store_set_settle(struct store *store, void (*settle)(void *data, struct promises *promises),
                      void *data);
/* `wait` is called with why nothing can be written, by the thread, as often as that is tried in
 * vain: about once a second. Before the first batch. */
void store_set_wait(struct store *store, void (*wait)(void *data, const char *why), void *data);
/* Any thread: whether config_records_bytes wait, so that nothing should be promised. */
bool store_is_full(struct store *store);
/* Any thread: whether batches are being written, or are to be at once: with promises worth
 * PROMISES_WORTH bytes they wait for no others. */
bool store_is_busy(struct store *store);
/* Any thread: processor time of the thread for transactions of checkpoints alone, so far. */
uint64_t store_saving_ns(const struct store *store);
/* A change of a run in the history, by people: some of what they say of it, or that it goes. */
#define STORE_NAME_MAX  200  /* bytes: a line */
#define STORE_NOTES_MAX 8192 /* lines */
#define STORE_TAGS_MAX  16   /* words */
#define STORE_TAG_MAX   32   /* bytes of a word */
struct store_change {
    const char *job;
    const uint8_t *run;
    bool drop;                       /* it is to be deleted; else: */
    const char *name, *notes, *tags; /* NULL: stays; tags stand between blanks */
    const bool *star, *archived;     /* NULL: stays */
    int code;                        /* the store's own: why not, and */
    bool done;                       /* whether nobody writes it any more */
};
/* Not the loop: waits until it is committed, behind all that was submitted before, at most until
 * then, or for a commit that has begun. A deleted run is in no answer from there on; its rows go
 * after that, a few at a time. Returns 0, ERR_RUN_UNKNOWN, ERR_UNSENT, ERR_HISTORY_OFF or
 * ERR_MEMORY, or ERR_AGAIN: it could not be written, and is not. */
int store_change(struct store *store, struct store_change *change, uint64_t deadline_ns);
/* Bytes that are not on the disk yet. */
uint64_t store_waiting(struct store *store);
/* Whether a checkpoint of `bytes` would be taken now. */
bool store_has_room(struct store *store, size_t bytes);

#endif
