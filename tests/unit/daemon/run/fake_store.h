/* SPDX-License-Identifier: MIT */
/* fake_store: store.h in memory, in place of the real one: what a batch says is there as soon as it
 * was submitted. */
#ifndef TESTS_UNIT_DAEMON_RUN_FAKE_STORE_H
#define TESTS_UNIT_DAEMON_RUN_FAKE_STORE_H

#include "daemon/run/restore.h"
#include "daemon/store/store.h"
#include "tests/unit/daemon/run/fixture.h"

#define FAKE_ROWS_MAX 4096

struct fake_kept {
    char key[96];
    void *value;
    size_t size;
};

struct fake_window {
    uint32_t layer;
    struct result_window window;
    bool final;
    uint64_t messages, lost;
    void *state;
    size_t size;
};

struct store {
    struct fake_kept kept[FAKE_ROWS_MAX];
    int kept_count;
    struct fake_window windows[FAKE_ROWS_MAX];
    int window_count;
    struct fake_kept out[FAKE_ROWS_MAX]; /* rows for hubs, in their order; without keys */
    int out_count;
    int alerts, sketches, batches, replaced_final;
    bool full;                     /* batches are dropped */
    bool unreadable;               /* after the first value of a run */
    int asked;                     /* for one run */
    struct promises kept_promises; /* of batches that were not */
};

struct store *fake_store_new(void);
void fake_store_free(struct store **store);
const struct fake_kept *fake_store_find(const struct store *store, const char *key);
/* How many keys begin so. */
int fake_store_count(const struct store *store, const char *prefix);

/* A run_fixture with such a store. */
void stored_start(struct run_fixture *f, const char *also);
void stored_stop(struct run_fixture *f);
void stored_begin(struct run_fixture *f);
/* A whole checkpoint. */
void stored_save(struct run_fixture *f);
/* Nothing has been read back yet; the fixture gets the run. */
struct restore stored_restore(struct run_fixture *f);
/* Reads back what is kept, runs that were forgotten as well if asked to; returns how many runs that
 * is. */
uint32_t stored_come_back(struct run_fixture *f, bool forgotten);
#define STORED_TEST(name) TEST_IN(name, struct run_fixture, f, stored_begin, stored_stop)

#endif
