/* SPDX-License-Identifier: MIT */
/* past: a history on disk, made by the store from states with known values, and questions to it. */
#ifndef TESTS_UNIT_DAEMON_HISTORY_PAST_H
#define TESTS_UNIT_DAEMON_HISTORY_PAST_H

#include "daemon/history/history.h"
#include "daemon/state/layer_state.h"
#include "daemon/base/stats.h"
#include "daemon/store/store.h"

#include <stdbool.h>
#include <stdint.h>

#define PAST_BUCKETS 48 /* of a histogram */
#define PAST_ANSWERS 8  /* are kept */

/* An answer, or what was said instead. */
struct past_answer {
    bool answered;
    unsigned order; /* of all answers of the program */
    int code;
    char detail[1024];
    struct mpk_writer result;
    struct mpk_doc doc;
    const msgpack_object *root; /* NULL after an error */
};

struct past {
    char directory[64];
    struct config config;
    struct stats stats;
    struct store *store;
    uint64_t submitted; /* records */
    uv_loop_t loop;
    struct history *history;
    struct past_answer answers[PAST_ANSWERS]; /* of past_ask */
    unsigned asked;
};

/* One window of one layer. The values are drawn from `seed`, window and head; `shift` moves them.
 */
struct past_window {
    const char *job;
    uint8_t run; /* every byte of the run's number */
    struct layer_id layer;
    const char *module; /* NULL: not said */
    uint32_t heads;
    enum window_unit unit;
    uint64_t length, every, last;
    bool partial;
    double shift;
    uint64_t seed;
    uint32_t stride; /* of the queries; 0: all of them came */
    enum job_state state;
};

/* An empty history; `setting` changes the config before it is used, or is NULL. */
void past_open(struct past *past, void (*setting)(struct config *config));
void past_close(struct past *past);

/* With an empty history. */
void past_begin(struct past *past);
#define PAST_TEST(name) TEST_IN(name, struct past, past, past_begin, past_close)

/* An epoch of a decoder's self-attention. */
struct past_window past_window_of(const char *job, uint8_t run, uint32_t layer, uint32_t heads,
                                  uint64_t last);
/* The state that the window gets. */
struct layer_state *past_state(const struct past_window *window);
void past_put(struct past *past, const struct past_window *window);
/* The same for every window up to `last`. */
void past_put_all(struct past *past, struct past_window window);
void past_put_batch(struct past *past, const struct past_window *window,
                    int (*fill)(struct store_batch *batch, const void *data), const void *data);
void past_put_alert(struct past *past, const struct past_window *window,
                    const struct alert_result *alert);
/* Waits until everything is committed, and this number of windows is in chunks. */
void past_settle(struct past *past, uint64_t in_chunks);

/* Statements on a connection of its own. */
void past_execute(struct past *past, const char *sql);
uint64_t past_number(struct past *past, const char *sql);

/* Asks and waits. `keys` is "job:s head:u": names with s (const char *), u (uint64_t), b (int) or l
 * (const char *, a list of one text). The answer is valid
 * until PAST_ANSWERS others have been asked for. */
const struct past_answer *past_ask(struct past *past, const char *method, const char *keys, ...);
/* The same, of what is refused with this code and sentence. */
void past_refuses(struct past *past, int code, const char *detail, const char *method,
                  const char *keys, ...);
/* Sends it without waiting; as another asker; and waits. */
int past_send(struct past *past, struct past_answer *answer, const char *method);
int past_send_for(struct past *past, uint64_t asker, struct past_answer *answer,
                  const char *method);
void past_wait_for(struct past *past, struct past_answer *answer);
void past_forget(struct past_answer *answer);

#define PAST_PATH __attribute__((format(printf, 2, 3)))
/* A part of an answer by its path, such as "heads.0.layer"; NULL where a map has no such key. */
const msgpack_object *past_get(const msgpack_object *from, const char *path, ...) PAST_PATH;
/* The value at a path; fails when it is missing or of another type. A text is valid until the next
 * call. */
double past_f64(const msgpack_object *from, const char *path, ...) PAST_PATH;
uint64_t past_u64(const msgpack_object *from, const char *path, ...) PAST_PATH;
bool past_bool(const msgpack_object *from, const char *path, ...) PAST_PATH;
const char *past_text(const msgpack_object *from, const char *path, ...) PAST_PATH;
/* How much a list or a map has. */
uint32_t past_size(const msgpack_object *from, const char *path, ...) PAST_PATH;

#endif
