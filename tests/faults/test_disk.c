/* SPDX-License-Identifier: MIT */
/* The history on a disk that fails, and on one that loses its power: what the README of the store
 * says is what is there afterwards. FAULTS_EVERY=1 lets every operation fail once; else it is every
 * few hundredth. */
#include "tests/faults/disk.h"
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/base/clock.h"

#include <ftw.h>
#include <unistd.h>

#define WINDOWS     150
#define GROUP       10 /* windows of a commit, about */
#define RECORDS     2  /* of a batch: a window, and the position that goes with it */
#define PATIENCE_NS UINT64_C(120000000000)

static const char *const fault_names[DISK_FAULTS] = {"sound",       "read", "short read", "write",
                                                     "short write", "full", "sync",       "other"};

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static void disk_setup(struct store_fixture *fixture)
{
    fixture_begin(fixture);
    disk_begin();
}

static void disk_teardown(struct store_fixture *fixture)
{
    disk_fail(DISK_SOUND, 0, 0);
    store_free(&fixture->store);
    disk_end();
    assert_int_equal(nftw(fixture->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

#define DISK_TEST(name) TEST_IN(name, struct store_fixture, fixture, disk_setup, disk_teardown)

static void disk_submit(struct store_fixture *fixture, uint64_t last,
                        const struct mpk_writer *packed)
{
    char position[24];
    struct store_batch *batch = batch_of(7, last);
    struct store_window window = window_of(last, packed->buffer.data, packed->buffer.size);
    snprintf(position, sizeof position, "%d", (int)last);
    assert_int_equal(batch_window(batch, &window), 0);
    assert_int_equal(batch_keep(batch, "position", position, strlen(position)), 0);
    store_submit(fixture->store, &batch);
}

static uint64_t settled_records(struct store_fixture *fixture)
{
    return stats_get(&fixture->stats, COUNT_STORED) +
           stats_get(&fixture->stats, COUNT_STORE_DROPPED);
}

static void wait_settled(struct store_fixture *fixture, uint64_t records)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    while (settled_records(fixture) < records && clock_monotonic_ns() < end) {
        usleep(300);
    }
    assert_int_equal(settled_records(fixture), records);
}

static void wait_no_trouble(struct store_fixture *fixture)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    while (store_trouble(fixture->store) && clock_monotonic_ns() < end) {
        usleep(300);
    }
    assert_null(store_trouble(fixture->store));
}

/* A history that is opened, gets windows from this one on, and is closed. Returns whether it was on
 * at the end. */
static bool live_on_it(struct store_fixture *fixture, uint64_t from)
{
    struct mpk_writer packed;
    const char *reason;
    pack_state(1, &packed);
    fixture->stats = (struct stats){0};
    assert_int_equal(store_new(&fixture->config, &fixture->stats, &fixture->store), 0);
    for (uint64_t last = 0; last < WINDOWS; last++) {
        disk_submit(fixture, from + last, &packed);
        if (last % GROUP == GROUP - 1) {
            wait_settled(fixture, RECORDS * (last + 1));
        }
    }
    bool on = store_path(fixture->store, &reason);
    store_free(&fixture->store);
    mpk_writer_clear(&packed);
    return on;
}

/* Every batch is there whole. */
static void assert_whole(struct store_fixture *fixture)
{
    assert_sound(fixture);
    assert_int_equal(ask(fixture, "SELECT count(*) FROM windows WHERE chunk_id IS NOT NULL"),
                     ask(fixture, "SELECT coalesce(sum(count), 0) FROM chunks"));
    assert_int_equal(ask(fixture, "SELECT coalesce(max(CAST(value AS INTEGER)), -1) FROM kept"),
                     ask(fixture, "SELECT coalesce(max(last), -1) FROM windows"));
}

static void start_anew(struct store_fixture *fixture)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal", ".lock"};
    char path[160];
    disk_end();
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s%s", fixture->path, suffixes[i]);
        unlink(path);
    }
    disk_begin();
}

/* The nth operation of this kind fails. Returns whether there are `nth`. */
static bool fail_at(struct store_fixture *fixture, enum disk_fault fault, uint64_t nth)
{
    start_anew(fixture);
    log_capture();
    disk_fail(fault, nth, 1);
    bool on = live_on_it(fixture, 0);
    bool happened = disk_failed(), early = disk_seen() > nth + nth / 4;
    int errors = log_release("level=error");
    uint64_t stored = stats_get(&fixture->stats, COUNT_STORED) / RECORDS;
    disk_fail(DISK_SOUND, 0, 0);
    if (stats_get(&fixture->stats, COUNT_STORE_DROPPED) > 0 && !errors) {
        fail_msg("%s %d: dropped, and not said", fault_names[fault], (int)nth);
    }
    if (count_files(fixture, "corrupt-")) {
        fail_msg("%s %d: a sound file was set aside", fault_names[fault], (int)nth);
    }
    if (stored > 0) {
        assert_whole(fixture);
        int64_t windows = ask(fixture, "SELECT count(*) FROM windows");
        if (windows < (int64_t)stored || (on && early && windows < GROUP)) {
            fail_msg("%s %d: %d windows of %d", fault_names[fault], (int)nth, (int)windows,
                     (int)stored);
        }
    }
    live_on_it(fixture, WINDOWS); /* and goes on */
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
    assert_int_equal(ask(fixture, "SELECT count(*) FROM windows WHERE last >= 150"), WINDOWS);
    assert_whole(fixture);
    return happened;
}

/* Some of the operations of a kind, or every one. */
static void fail_each(struct store_fixture *fixture, enum disk_fault fault, unsigned some)
{
    const char *every = getenv("FAULTS_EVERY");
    disk_fail(fault, UINT64_MAX, 0);
    live_on_it(fixture, 0);
    uint64_t all = disk_seen(), step = every ? strtoul(every, NULL, 10) : all / some + 1;
    uint64_t lives = 0;
    for (uint64_t nth = 1; nth <= all; nth += step ? step : 1) {
        lives += fail_at(fixture, fault, nth);
    }
    print_message("%s: %d operations, %d failed in turn\n", fault_names[fault], (int)all,
                  (int)lives);
    assert_true(lives > 0);
}

DISK_TEST(a_read_that_fails_once_costs_no_more_than_is_counted)
{
    fail_each(fixture, DISK_READ, 5);
}

DISK_TEST(a_write_that_fails_once_costs_no_more_than_is_counted)
{
    fail_each(fixture, DISK_WRITE, 6);
    fail_each(fixture, DISK_SHORT_WRITE, 6);
    fail_each(fixture, DISK_FULL, 6);
}

DISK_TEST(a_sync_that_fails_once_costs_no_more_than_is_counted)
{
    fail_each(fixture, DISK_SYNC, 6);
}

DISK_TEST(any_other_call_that_fails_once_costs_no_more_than_is_counted)
{
    fail_each(fixture, DISK_OTHER, 6);
}

/* For some time: what waits is dropped and counted, it is said, and then it goes on. */
DISK_TEST(a_disk_that_fails_for_a_while_is_noticed_and_so_is_its_end)
{
    static const enum disk_fault faults[] = {DISK_WRITE, DISK_FULL, DISK_OTHER};
    struct mpk_writer packed;
    pack_state(1, &packed);
    for (int i = 0; i < 3; i++) {
        start_anew(fixture);
        fixture->stats = (struct stats){0};
        fixture_open(fixture);
        disk_submit(fixture, 0, &packed);
        wait_settled(fixture, RECORDS);
        log_capture();
        disk_fail(faults[i], 1, UINT64_MAX);
        disk_submit(fixture, 1, &packed);
        wait_settled(fixture, 2 * RECORDS);
        bool dropped = stats_get(&fixture->stats, COUNT_STORE_DROPPED) == RECORDS;
        assert_int_equal(store_trouble(fixture->store) != NULL, dropped);
        assert_int_equal(store_lost(fixture->store), dropped ? RECORDS : 0);
        disk_fail(DISK_SOUND, 0, 0);
        disk_submit(fixture, 2, &packed);
        wait_settled(fixture, 3 * RECORDS);
        wait_no_trouble(fixture);
        fixture_close(fixture);
        assert_int_equal(log_release("event=history_trouble"), dropped);
        assert_int_equal(ask(fixture, "SELECT count(*) FROM windows"), dropped ? 2 : 3);
        assert_whole(fixture);
    }
    mpk_writer_clear(&packed);
}

static void submit_held(struct store_fixture *fixture, uint64_t last,
                        const struct mpk_writer *packed)
{
    struct store_batch *batch = batch_of(7, last);
    struct store_window window = window_of(last, packed->buffer.data, packed->buffer.size);
    assert_int_equal(batch_window(batch, &window), 0);
    batch_hold(batch, false);
    assert_true(store_submit(fixture->store, &batch));
}

/* It has the windows of messages that were acknowledged before. */
DISK_TEST(at_the_end_a_held_batch_is_tried_twice)
{
    struct mpk_writer packed;
    pack_state(1, &packed);
    for (uint64_t times = 1; times <= 2; times++) {
        start_anew(fixture);
        fixture->stats = (struct stats){0};
        fixture->config.history_commit = 10 * PATIENCE_NS; /* the end comes first */
        fixture_open(fixture);
        submit_held(fixture, 0, &packed);
        disk_fail(DISK_WRITE, 1, times == 1 ? 1 : UINT64_MAX);
        store_free(&fixture->store);
        assert_true(disk_failed() > 0);
        disk_fail(DISK_SOUND, 0, 0);
        assert_int_equal(stats_get(&fixture->stats, COUNT_STORED), times == 1);
        assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), times == 2);
        assert_int_equal(ask(fixture, "SELECT count(*) FROM windows"), times == 1);
    }
    mpk_writer_clear(&packed);
}

/* Power */

static int64_t stored_batches(void *data)
{
    struct store_fixture *fixture = data;
    return (int64_t)(stats_get(&fixture->stats, COUNT_STORED) / RECORDS);
}

/* The first batches without a gap, and no less than was moved into the database. */
static void assert_what_is_left(const struct disk_loss *loss, uint32_t copy,
                                struct store_fixture *fixture)
{
    struct store_fixture found = {.config = fixture->config};
    snprintf(found.directory, sizeof found.directory, "%.40s/%u", fixture->directory, copy);
    snprintf(found.path, sizeof found.path, "%s/history.db", found.directory);
    strcpy(found.config.history_path.text, found.path);
    fixture_open(&found);
    fixture_close(&found);
    assert_sound(&found);
    int64_t windows = ask(&found, "SELECT count(*) FROM windows");
    if (windows < loss->promise[copy] || count_files(&found, "corrupt-")) {
        fail_msg("copy %d: %d windows, of %d that were synced", (int)copy, (int)windows,
                 (int)loss->promise[copy]);
    }
    assert_int_equal(ask(&found, "SELECT coalesce(max(last) + 1, 0) FROM windows"), windows);
    assert_whole(&found);
}

/* At any change, from the first on: two lives, the second with a history. */
DISK_TEST(after_a_power_failure_there_is_all_that_was_synced)
{
    struct disk_loss loss = {
        .directory = fixture->directory, .ask = stored_batches, .data = fixture, .most = 60};
    live_on_it(fixture, 0);
    loss.every = disk_changes() / 40 + 1;
    start_anew(fixture);
    disk_lose(&loss);
    live_on_it(fixture, 0);
    disk_lose(NULL);
    disk_end();
    print_message("%d power failures\n", (int)loss.count);
    assert_true(loss.count > 20);
    for (uint32_t copy = 0; copy < loss.count; copy++) {
        assert_what_is_left(&loss, copy, fixture);
    }
    disk_begin();
}
