/* SPDX-License-Identifier: MIT */
/* Retention by age and by size. */
#include "tests/unit/daemon/store/fixture.h"

#include "daemon/store/store_internal.h"

#include "tests/unit/unit.h"

#include <sys/stat.h>

/* `count` windows of layer 0, of which the older ones are in chunks. */
static void store_windows(struct store_fixture *fixture, uint64_t count)
{
    int64_t chunks = (int64_t)(count / 64);
    fixture_open(fixture);
    for (uint64_t last = 0; last < count; last++) {
        submit_window(fixture, last, NULL, 0);
    }
    wait_answer(fixture, "SELECT count(*) FROM chunks", chunks);
    fixture_close(fixture);
}

STORE_TEST(windows_go_with_their_age)
{
    fixture->config.history_trust_clock = true;
    fixture->config.history_max_age = 1000000000000;
    store_windows(fixture, 200);
    change(fixture, "UPDATE windows SET stored = stored - 2000 WHERE last < 64 OR last IN (198);"
                    "UPDATE chunks SET stored = stored - 2000 WHERE last < 64");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM windows", 200 - 65);
    fixture_close(fixture);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED), 65);
    assert_answer(fixture, 2, "SELECT count(*) FROM chunks");
    assert_answer(fixture, 64, "SELECT min(last) FROM windows");
    assert_answer(fixture, 0, "SELECT count(*) FROM windows WHERE last = 198");
    assert_sound(fixture);
}

static void add_map_and_alert(struct store_fixture *fixture, uint64_t last)
{
    const uint16_t value = 0x3c00;
    struct store_map map = {.layer = {STACK_DECODER, 0, SITE_SELF},
                            .window = {WINDOW_EPOCH, last, last, 1, 1, false},
                            .rows = 1,
                            .columns = 1,
                            .values = &value};
    struct alert_result alert = {
        .common = {.epoch = last}, .rule = "r", .metric = "m", .message = "", .head = -1};
    struct store_batch *batch = batch_of(7, last);
    assert_int_equal(batch_map(batch, &map), 0);
    assert_int_equal(batch_alert(batch, &alert), 0);
    submit(fixture, batch);
}

STORE_TEST(maps_and_alerts_go_with_their_age)
{
    fixture->config.history_trust_clock = true;
    fixture_open(fixture);
    add_map_and_alert(fixture, 1);
    add_map_and_alert(fixture, 2);
    fixture_close(fixture);
    change(fixture, "UPDATE maps SET stored = 0 WHERE last = 1;"
                    "UPDATE alerts SET stored = 0 WHERE alert_id = 1");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM maps", 1);
    wait_answer(fixture, "SELECT count(*) FROM alerts", 1);
    assert_answer(fixture, 2, "SELECT last FROM maps");
}

STORE_TEST(a_map_goes_with_its_window)
{
    fixture->config.history_trust_clock = true;
    fixture_open(fixture);
    submit_window(fixture, 1, NULL, 0);
    add_map_and_alert(fixture, 1);
    fixture_close(fixture);
    change(fixture, "UPDATE windows SET stored = 0");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM windows", 0);
    assert_answer(fixture, 0, "SELECT count(*) FROM maps");
    assert_answer(fixture, 0, "SELECT count(*) FROM layers");
    assert_answer(fixture, 1, "SELECT count(*) FROM runs");
}

static void add_sketch(struct store_fixture *fixture, uint64_t step)
{
    const struct store_sketch sketch = {.layer = {STACK_DECODER, 3, SITE_SELF},
                                        .step = step,
                                        .numbers = "\x81\xa4step\x01",
                                        .numbers_size = 7};
    struct store_batch *batch = batch_of(7, step);
    assert_int_equal(batch_sketch(batch, &sketch), 0);
    submit(fixture, batch);
}

STORE_TEST(sketches_go_with_their_age)
{
    fixture->config.history_trust_clock = true;
    fixture_open(fixture);
    for (uint64_t step = 0; step < 200; step++) {
        add_sketch(fixture, step);
    }
    add_sketch(fixture, 199); /* once more */
    wait_answer(fixture, "SELECT count(*) FROM sketches", 200);
    fixture_close(fixture);
    assert_answer(fixture, 0, "SELECT count(*) FROM layers"); /* that have no windows */
    change(fixture, "UPDATE sketches SET stored = 0 WHERE step < 150");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM sketches", 50);
    assert_answer(fixture, 150, "SELECT min(step) FROM sketches");
}

STORE_TEST(an_old_run_goes_as_a_whole)
{
    fixture->config.history_trust_clock = true;
    store_windows(fixture, 70);
    fixture_open(fixture);
    add_map_and_alert(fixture, 1);
    add_sketch(fixture, 1);
    struct store_batch *batch = batch_of(7, 1);
    assert_int_equal(batch_keep(batch, "k", "v", 1), 0);
    submit(fixture, batch);
    batch = batch_of(8, 1);
    submit(fixture, batch);
    fixture_close(fixture);
    change(fixture, "UPDATE runs SET stored = 0 WHERE run = x'07000000000000000000000000000000';"
                    "UPDATE windows SET stored = 0; UPDATE chunks SET stored = 0;"
                    "UPDATE maps SET stored = 0; UPDATE alerts SET stored = 0");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM runs", 1);
    assert_answer(fixture, 0,
                  "SELECT (SELECT count(*) FROM windows)"
                  " + (SELECT count(*) FROM layers) + (SELECT count(*) FROM maps)"
                  " + (SELECT count(*) FROM alerts) + (SELECT count(*) FROM kept)"
                  " + (SELECT count(*) FROM chunks) + (SELECT count(*) FROM sketches)");
}

/* The clock */

#define YEAR "31536000"

/* Everything is `seconds` older: as if this machine's clock were ahead. */
static void make_older(struct store_fixture *fixture, const char *seconds)
{
    static const char *const tables[] = {"runs", "windows", "chunks", "maps", "alerts"};
    char sql[200];
    for (int i = 0; i < 5; i++) {
        snprintf(sql, sizeof sql, "UPDATE %s SET stored = stored - (%s)", tables[i], seconds);
        change(fixture, sql);
    }
    snprintf(sql, sizeof sql, "UPDATE meta SET value = value - (%s) WHERE key = 'clock'", seconds);
    change(fixture, sql);
}

/* Stores a window, and closes the store once it has had time for retention. */
static void store_one(struct store_fixture *fixture, uint64_t last)
{
    fixture_open(fixture);
    submit_window(fixture, last, NULL, 0);
    fixture_reopen(fixture); /* its first turn is for what is too old */
    fixture_close(fixture);
}

STORE_TEST(a_clock_that_is_a_year_ahead_removes_nothing)
{
    store_windows(fixture, 100);
    make_older(fixture, YEAR);
    log_capture();
    for (uint64_t last = 100; last < 104; last++) {
        store_one(fixture, last); /* however often it is started */
    }
    assert_int_equal(log_release("event=history_clock_doubted"), 4);
    assert_answer(fixture, 104, "SELECT count(*) FROM windows");
    make_older(fixture, "-" YEAR); /* it is right again */
    store_one(fixture, 104);
    assert_answer(fixture, 105, "SELECT count(*) FROM windows");
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED), 0);
}

STORE_TEST(a_database_that_never_wrote_the_time_down_is_as_safe)
{
    store_windows(fixture, 10);
    make_older(fixture, YEAR);
    change(fixture, "DELETE FROM meta WHERE key = 'clock'");
    store_one(fixture, 10);
    store_one(fixture, 11);
    assert_answer(fixture, 12, "SELECT count(*) FROM windows");
}

STORE_TEST(a_clock_that_is_behind_makes_nothing_old)
{
    store_windows(fixture, 10);
    make_older(fixture, "-" YEAR);
    store_one(fixture, 10);
    make_older(fixture, YEAR); /* it is right again */
    fixture_open(fixture);
    store_window(fixture, 11, NULL, 0);
    fixture_close(fixture);
    assert_answer(fixture, 12, "SELECT count(*) FROM windows");
    assert_answer(fixture, 1,
                  "SELECT max(stored) - min(stored) < 3600 FROM windows WHERE last >= 9");
}

STORE_TEST(windows_of_a_few_weeks_ago_go_when_a_new_one_comes)
{
    fixture->config.history_max_age = UINT64_C(86400000000000);
    store_windows(fixture, 100);
    make_older(fixture, "20 * 86400");
    fixture_open(fixture);
    fixture_close(fixture);
    assert_answer(fixture, 100, "SELECT count(*) FROM windows");
    fixture_open(fixture);
    submit_window(fixture, 100, NULL, 0);
    wait_answer(fixture, "SELECT count(*) FROM windows", 1);
    fixture_close(fixture);
    assert_answer(fixture, 100, "SELECT last FROM windows");
}

STORE_TEST(a_clock_that_is_trusted_removes_at_once)
{
    store_windows(fixture, 100);
    make_older(fixture, YEAR);
    fixture->config.history_trust_clock = true;
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM windows", 0);
    submit_window(fixture, 100, NULL, 0);
    fixture_close(fixture);
    fixture->config.history_trust_clock = false; /* what it was needed for is over */
    log_capture();
    store_one(fixture, 101);
    assert_int_equal(log_release("event=history_clock_doubted"), 0);
}

/* Size */

#define STATE_BYTES 40000

static int64_t store_retention_file_bytes(struct store_fixture *fixture)
{
    struct stat file;
    return stat(fixture->path, &file) ? -1 : (int64_t)file.st_size;
}

static void submit_large(struct store_fixture *fixture, uint64_t from, uint64_t to)
{
    /* Bytes that are no state, and do not pack. */
    uint8_t *bytes = malloc(STATE_BYTES);
    uint64_t random = 1;
    assert_non_null(bytes);
    for (size_t i = 0; i < STATE_BYTES; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(random >> 56);
    }
    for (uint64_t last = from; last < to; last++) {
        submit_window(fixture, last, bytes, STATE_BYTES);
    }
    free(bytes);
}

STORE_TEST(states_make_room_before_windows)
{
    fixture->config.history_max_size = 6 << 20; /* 150 states */
    log_capture();
    fixture_open(fixture);
    fixture->store->repaired = true; /* its states are none */
    submit_large(fixture, 0, 300);
    wait_count(fixture, COUNT_STORED, 300);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 4);
    wait_answer(fixture, "SELECT count(*) FROM states", 300 - 3 * 64);
    fixture_close(fixture);
    assert_int_equal(log_release("history_trouble"), 0);
    assert_answer(fixture, 300, "SELECT count(*) FROM windows");
    assert_answer(fixture, 3 * 64, "SELECT min(last) FROM windows JOIN states USING(window_id)");
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED), 0);
}

STORE_TEST(sketches_as_old_as_the_oldest_window_make_room_first)
{
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    for (uint64_t step = 0; step < 100; step++) {
        add_sketch(fixture, step);
    }
    submit_large(fixture, 0, 1);
    wait_answer(fixture, "SELECT count(*) FROM windows", 1);
    fixture_close(fixture);
    change(fixture, "UPDATE sketches SET stored = stored + 1000 WHERE step >= 90");
    fixture_open(fixture);
    submit_large(fixture, 1, 40);
    wait_answer(fixture, "SELECT min(last) > 0 FROM windows", 1);
    assert_answer(fixture, 90, "SELECT min(step) FROM sketches");
}

STORE_TEST(the_oldest_windows_make_room)
{
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    submit_large(fixture, 0, 63);
    wait_answer(fixture, "SELECT min(last) > 30 FROM windows", 1);
    wait_count(fixture, COUNT_STORED, 63);
    fixture_close(fixture);
    assert_answer(fixture, 62, "SELECT max(last) FROM windows");
    assert_answer(fixture, 1, "SELECT count(*) = max(last) - min(last) + 1 FROM windows");
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED),
                     ask(fixture, "SELECT min(last) FROM windows"));
    assert_sound(fixture);
}

OPEN_STORE_TEST(a_chunk_makes_room_before_newer_windows)
{
    fixture->store->repaired = true; /* its states are none */
    submit_large(fixture, 0, 124);
    wait_count(fixture, COUNT_STORED, 124);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
    fixture_close(fixture);
    change(fixture, "UPDATE chunks SET stored = stored - 100");
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) < 60 FROM windows WHERE chunk_id IS NULL", 1);
    fixture_close(fixture);
    assert_answer(fixture, 0, "SELECT count(*) FROM chunks");
    assert_answer(fixture, 123, "SELECT max(last) FROM windows");
}

OPEN_STORE_TEST(the_file_shrinks_when_the_bound_is_lowered)
{
    submit_large(fixture, 0, 60);
    fixture_close(fixture);
    assert_true(store_retention_file_bytes(fixture) > 2 << 20);
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    wait_answer(fixture,
                "SELECT page_count * page_size <= 1 << 20 FROM pragma_page_count, pragma_page_size",
                1);
    fixture_close(fixture);
    assert_true(store_retention_file_bytes(fixture) <= 1 << 20);
    assert_sound(fixture);
}
