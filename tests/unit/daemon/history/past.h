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

struct past {
    char directory[64];
    struct config config;
    struct stats stats;
    struct store *store;
    uint64_t submitted; /* records */
    uv_loop_t loop;
    struct history *history;
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
};

/* An empty history; `setting` changes the config before it is used, or is NULL. */
void past_open(struct past *past, void (*setting)(struct config *config));
void past_close(struct past *past);

/* The state that the window gets. */
struct layer_state *past_state(const struct past_window *window);
void past_put(struct past *past, const struct past_window *window);
/* The same for every window up to `last`. */
void past_put_all(struct past *past, struct past_window window);
void past_put_batch(struct past *past, const struct past_window *window,
                    int (*fill)(struct store_batch *batch, const void *data), const void *data);
/* Waits until everything is committed, and this number of windows is in chunks. */
void past_settle(struct past *past, uint64_t in_chunks);

/* Statements on a connection of its own. */
void past_execute(struct past *past, const char *sql);
uint64_t past_number(struct past *past, const char *sql);

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

/* Asks and waits. `keys` is "job:s head:u": names with s (const char *), u (uint64_t), b (int) or l
 * (const char *, a list of one text). */
void past_ask(struct past *past, struct past_answer *answer, const char *method, const char *keys,
              ...);
/* Sends it without waiting; as another asker; and waits. */
int past_send(struct past *past, struct past_answer *answer, const char *method);
int past_send_for(struct past *past, uint64_t asker, struct past_answer *answer,
                  const char *method);
void past_wait_for(struct past *past, struct past_answer *answer);
void past_forget(struct past_answer *answer);

#endif
