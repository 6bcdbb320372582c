/* SPDX-License-Identifier: MIT */
/* Changes of runs by people: names and the like, and deleting. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "proto/err.h"

#define SECOND UINT64_C(1000000000)

static const uint8_t run_7[RUN_BYTES] = {7}, run_8[RUN_BYTES] = {8};

static int make_change(struct store_fixture *fixture, struct store_change change)
{
    change.job = "j";
    change.run = change.run ? change.run : run_7;
    return store_change(fixture->store, &change, clock_monotonic_ns() + 60 * SECOND);
}

static int delete_run(struct store_fixture *fixture)
{
    return make_change(fixture, (struct store_change){.drop = true});
}

OPEN_STORE_TEST(a_change_leaves_what_it_does_not_name)
{
    const bool yes = true, no = false;
    submit(fixture, batch_of(7, 1)); /* it is behind this in the queue */
    assert_int_equal(make_change(fixture, (struct store_change){.name = "a b", .tags = "x y"}), 0);
    assert_answer(
        fixture, 1,
        "SELECT name = 'a b' AND tags = 'x y' AND notes = '' AND NOT star AND NOT archived"
        " FROM runs");
    assert_int_equal(
        make_change(fixture, (struct store_change){.notes = "n", .star = &yes, .archived = &yes}),
        0);
    assert_int_equal(make_change(fixture, (struct store_change){.name = "", .archived = &no}), 0);
    submit(fixture, batch_of(7, 2)); /* and the run goes on */
    wait_answer(fixture, "SELECT epoch FROM runs", 2);
    assert_answer(fixture, 1,
                  "SELECT name = '' AND tags = 'x y' AND notes = 'n' AND star AND NOT archived"
                  " FROM runs");
    assert_int_equal(make_change(fixture, (struct store_change){.run = run_8, .star = &yes}),
                     ERR_RUN_UNKNOWN);
    assert_answer(fixture, 1, "SELECT count(*) FROM runs");
}

/* Some of everything that a run has: windows in chunks and not, states, maps, and so on. */
static void store_all(struct store_fixture *fixture)
{
    const uint16_t value = 0x3c00;
    struct store_map map = {.layer = {STACK_DECODER, 0, SITE_SELF},
                            .window = {WINDOW_EPOCH, 1, 1, 1, 1, false},
                            .rows = 1,
                            .columns = 1,
                            .values = &value};
    struct alert_result alert = {.rule = "r", .metric = "m", .message = "", .head = -1};
    struct store_point point = {.name = "loss"};
    struct store_sketch sketch = {.layer = map.layer, .numbers = "\x80", .numbers_size = 1};
    struct mpk_writer state;
    pack_state(1, &state);
    for (uint64_t last = 0; last < 70; last++) {
        submit_window(fixture, last, state.buffer.data, state.buffer.size);
    }
    mpk_writer_clear(&state);
    struct store_batch *batch = batch_of(7, 70);
    assert_int_equal(batch_map(batch, &map), 0);
    assert_int_equal(batch_alert(batch, &alert), 0);
    assert_int_equal(batch_point(batch, &point), 0);
    assert_int_equal(batch_sketch(batch, &sketch), 0);
    assert_int_equal(batch_keep(batch, "k", "v", 1), 0);
    submit(fixture, batch);
    wait_answer(fixture, "SELECT count(*) FROM chunks", 1);
    wait_answer(fixture, "SELECT count(*) FROM kept", 1);
}

#define ALL_ROWS                                                                                   \
    "(SELECT count(*) FROM layers) + (SELECT count(*) FROM windows)"                               \
    " + (SELECT count(*) FROM states) + (SELECT count(*) FROM chunks)"                             \
    " + (SELECT count(*) FROM series) + (SELECT count(*) FROM maps)"                               \
    " + (SELECT count(*) FROM alerts) + (SELECT count(*) FROM logs)"                               \
    " + (SELECT count(*) FROM log_points) + (SELECT count(*) FROM sketches)"                       \
    " + (SELECT count(*) FROM kept)"

OPEN_STORE_TEST(a_deleted_run_is_gone_at_once_and_its_rows_after_that)
{
    store_all(fixture);
    int64_t pages = ask(fixture, "SELECT page_count FROM pragma_page_count");
    assert_int_equal(delete_run(fixture), 0);
    assert_answer(fixture, 0, "SELECT count(*) FROM runs WHERE job = 'j'");
    assert_int_equal(delete_run(fixture), ERR_RUN_UNKNOWN);
    wait_answer(fixture, "SELECT " ALL_ROWS " + (SELECT count(*) FROM runs)", 0);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REMOVED), 70);
    wait_answer(fixture, "SELECT freelist_count FROM pragma_freelist_count", 0);
    assert_true(ask(fixture, "SELECT page_count FROM pragma_page_count") < pages);
    fixture_close(fixture);
    assert_sound(fixture);
}

OPEN_STORE_TEST(what_comes_of_a_deleted_run_begins_it_anew)
{
    const bool yes = true;
    store_all(fixture);
    assert_int_equal(make_change(fixture, (struct store_change){.star = &yes}), 0);
    assert_int_equal(delete_run(fixture), 0);
    store_window(fixture, 71, "x", 1);
    wait_answer(fixture, "SELECT count(*) FROM runs WHERE job = 'j' AND NOT star", 1);
    wait_answer(fixture, "SELECT count(*) FROM runs", 1);
    assert_answer(fixture, 3, "SELECT " ALL_ROWS);
    assert_answer(fixture, 71, "SELECT last FROM windows");
}

/* The rows that an earlier attnd had not removed go after the next start. */
STORE_TEST(a_start_goes_on_with_what_was_being_deleted)
{
    fixture_open(fixture);
    store_all(fixture);
    fixture_close(fixture);
    change(fixture, "UPDATE runs SET job = '', run = randomblob(16)");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT " ALL_ROWS " + (SELECT count(*) FROM runs)", 0);
}

OPEN_STORE_TEST(a_run_with_parts_that_no_server_took_stays)
{
    submit(fixture, batch_of(7, 1));
    assert_int_equal(make_change(fixture, (struct store_change){.name = "n"}), 0);
    fixture_close(fixture);
    change(fixture, "INSERT INTO outbox(run, stored, bytes, taken, turn) VALUES"
                    "(x'07000000000000000000000000000000', 0, 1, 0, 0),"
                    "(x'08000000000000000000000000000000', 0, 1, 0, 0)");
    fixture_open(fixture);
    assert_int_equal(delete_run(fixture), ERR_UNSENT);
    assert_answer(fixture, 1, "SELECT name = 'n' FROM runs WHERE job = 'j'");
    fixture_close(fixture);
    change(fixture, "UPDATE outbox SET taken = 5");
    fixture_open(fixture);
    assert_int_equal(delete_run(fixture), 0);
    assert_answer(fixture, 2, "SELECT count(*) FROM outbox"); /* for as long as a hub may ask */
}

STORE_TEST(without_a_history_nothing_is_changed)
{
    const bool yes = true;
    fixture->config.history_enabled = false;
    assert_int_equal(store_new(&fixture->config, &fixture->stats, &fixture->store), 0);
    assert_int_equal(make_change(fixture, (struct store_change){.star = &yes}), ERR_HISTORY_OFF);
}
