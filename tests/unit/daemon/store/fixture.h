/* SPDX-License-Identifier: MIT */
/* store_fixture: a history in a directory of its own, and another connection to look at it. */
#ifndef TESTS_UNIT_DAEMON_STORE_FIXTURE_H
#define TESTS_UNIT_DAEMON_STORE_FIXTURE_H

#include "daemon/state/layer_state.h"
#include "daemon/store/store.h"

#include <sqlite3.h>

struct store_fixture {
    char directory[64], path[128];
    struct config config;
    struct stats stats;
    struct store *store;
};

/* Without a store yet, or with it open. */
void fixture_begin(struct store_fixture *fixture);
void fixture_begin_open(struct store_fixture *fixture);
void fixture_end(struct store_fixture *fixture);

/* Opens the store, which must be on; closes it; both. */
void fixture_open(struct store_fixture *fixture);
void fixture_close(struct store_fixture *fixture);
void fixture_reopen(struct store_fixture *fixture);
/* Opens the store, which must be off, and closes it. Returns the reason, valid until the next call.
 */
const char *fixture_reason(struct store_fixture *fixture);

/* A test with a store in a directory of its own. */
#define STORE_TEST(name) TEST_IN(name, struct store_fixture, fixture, fixture_begin, fixture_end)
/* Where it is open already. */
#define OPEN_STORE_TEST(name)                                                                      \
    TEST_IN(name, struct store_fixture, fixture, fixture_begin_open, fixture_end)

/* A batch of run 7 of job "j", or another run. */
struct store_batch *batch_of(uint8_t run, uint64_t epoch);
/* A window of layer 0 with that last unit; length and every are 1, units epochs. */
struct store_window window_of(uint64_t last, const void *state, size_t size);
void submit(struct store_fixture *fixture, struct store_batch *batch);
/* One window, in a batch of its own; and waits until it is stored. */
void submit_window(struct store_fixture *fixture, uint64_t last, const void *state, size_t size);
void store_window(struct store_fixture *fixture, uint64_t last, const void *state, size_t size);
/* The packed state of a few random messages with 3 heads; to be cleared. */
void pack_state(uint64_t seed, struct mpk_writer *ret_packed);

/* Waits until a counter is so large, for 20 s at most. */
void wait_count(struct store_fixture *fixture, enum counter counter, uint64_t least);
/* Waits until a question has this answer, for 20 s at most. */
void wait_answer(struct store_fixture *fixture, const char *sql, int64_t answer);
/* The number that a question gives, or -1. */
int64_t ask(struct store_fixture *fixture, const char *sql);
/* That it is this one. */
void assert_answer(struct store_fixture *fixture, int64_t answer, const char *sql);
/* Changes the database while no store is open. */
void change(struct store_fixture *fixture, const char *sql);
/* quick_check, while no store is open. */
void assert_sound(struct store_fixture *fixture);
/* Files in the directory whose names have this in them. */
int count_files(struct store_fixture *fixture, const char *part);

/* How often a text is in what was logged since log_capture. */
void log_capture(void);
int log_release(const char *text);

#endif
