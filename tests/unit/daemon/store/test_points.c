/* SPDX-License-Identifier: MIT */
/* The numbers that a training reports, and its settings. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include <inttypes.h>

static struct store_point point_of(const char *name, uint64_t step, double value)
{
    return (struct store_point){
        .name = name, .epoch = step / 100, .step = step, .time_ns = 5 + step, .value = value};
}

static void put_point(struct store_fixture *fixture, const char *name, uint64_t step, double value)
{
    struct store_batch *batch = batch_of(7, 1);
    struct store_point point = point_of(name, step, value);
    assert_int_equal(batch_point(batch, &point), 0);
    submit(fixture, batch);
}

/* Steps from..to of "loss", every `every`-th; the value is the step. */
static void put_points(struct store_fixture *fixture, uint64_t from, uint64_t to, uint64_t every)
{
    struct store_batch *batch = batch_of(7, 1);
    for (uint64_t step = from; step <= to; step += every) {
        struct store_point point = point_of("loss", step, (double)step);
        assert_int_equal(batch_point(batch, &point), 0);
    }
    submit(fixture, batch);
}

OPEN_STORE_TEST(a_point_is_stored_with_its_name_and_step)
{
    char name[] = "loss";
    struct store_batch *batch = batch_of(7, 1);
    struct store_point point = point_of(name, 200, 2.5);
    assert_int_equal(batch_point(batch, &point), 0);
    name[0] = 'x'; /* it was copied */
    submit(fixture, batch);
    put_point(fixture, "loss", 210, NAN);
    put_point(fixture, "learning rate", 200, -0.25);
    wait_count(fixture, COUNT_STORED, 3);
    assert_answer(fixture, 1,
                  "SELECT count(*) FROM log_points JOIN logs USING(log_id)"
                  " JOIN runs USING(run_id) WHERE job = 'j' AND logs.name = 'loss'"
                  " AND log_points.step = 200 AND log_points.epoch = 2"
                  " AND time_ns = 205 AND value = 2.5");
    assert_answer(fixture, 210, "SELECT step FROM log_points WHERE value IS NULL");
    assert_answer(fixture, 2, "SELECT points FROM logs WHERE name = 'loss'");
    assert_answer(fixture, 1,
                  "SELECT value = -0.25 FROM log_points JOIN logs USING(log_id)"
                  " WHERE name = 'learning rate'");
}

OPEN_STORE_TEST(of_one_step_the_newest_value_counts)
{
    put_point(fixture, "loss", 4, 9.0);
    put_point(fixture, "loss", 4, 8.0);
    wait_count(fixture, COUNT_STORED, 2);
    assert_answer(fixture, 8, "SELECT sum(value) FROM log_points");
    assert_answer(fixture, 1, "SELECT points FROM logs");
}

/* 10,000 of them that rise: in buckets of 16 the first and last are the smallest and largest. */
OPEN_STORE_TEST(a_name_has_at_most_2000_points_evenly_spread)
{
    put_points(fixture, 0, 9999, 1);
    wait_count(fixture, COUNT_STORED, 10000);
    assert_answer(fixture, 1250, "SELECT count(*) FROM log_points");
    assert_answer(fixture, 1250, "SELECT points FROM logs");
    assert_answer(fixture, 9999, "SELECT max(step) FROM log_points");
    assert_answer(fixture, 1250, "SELECT count(*) FROM log_points WHERE step % 16 IN (0, 15)");
    assert_answer(fixture, 1250, "SELECT count(*) FROM log_points WHERE value = step");
}

/* A noisy loss, of which every 401st step is something else. */
static double noisy(uint64_t step, double other)
{
    return step % 401 == 7 ? other : 1 + 0.01 * (double)(step * 7919 % 101);
}

static void put_noise(struct store_fixture *fixture, uint64_t steps, double other)
{
    struct store_batch *batch = batch_of(7, 1);
    for (uint64_t step = 0; step < steps; step++) {
        struct store_point point = point_of("loss", step, noisy(step, other));
        assert_int_equal(batch_point(batch, &point), 0);
    }
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, steps);
    assert_answer(fixture, 1, "SELECT count(*) BETWEEN 900 AND 2000 FROM log_points");
    assert_answer(fixture, 1, "SELECT points = (SELECT count(*) FROM log_points) FROM logs");
}

OPEN_STORE_TEST(every_jump_stays_where_points_are_thinned_out)
{
    put_noise(fixture, 20000, 50);
    assert_answer(fixture, 50, "SELECT count(*) FROM log_points WHERE value = 50");
    assert_answer(fixture, 50,
                  "SELECT count(*) FROM log_points WHERE value = 50 AND step % 401 = 7");
}

OPEN_STORE_TEST(every_dip_stays_where_points_are_thinned_out)
{
    put_noise(fixture, 20000, -2);
    assert_answer(fixture, 50, "SELECT count(*) FROM log_points WHERE value = -2");
}

OPEN_STORE_TEST(whatever_is_not_finite_stays_where_points_are_thinned_out)
{
    put_noise(fixture, 20000, NAN);
    assert_answer(fixture, 50, "SELECT count(*) FROM log_points WHERE value IS NULL");
}

/* A training that goes on after its loss has broken: the first and last NaN of each bucket. */
OPEN_STORE_TEST(a_loss_that_is_never_finite_again_is_bounded_and_its_beginning_stays)
{
    struct store_batch *batch = batch_of(7, 1);
    for (uint64_t step = 0; step < 20000; step++) {
        struct store_point point = point_of("loss", step, step < 7777 ? 1.0 : NAN);
        assert_int_equal(batch_point(batch, &point), 0);
    }
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, 20000);
    assert_answer(fixture, 7777, "SELECT min(step) FROM log_points WHERE value IS NULL");
    assert_answer(fixture, 7776, "SELECT max(step) FROM log_points WHERE value IS NOT NULL");
    assert_answer(fixture, 1, "SELECT count(*) BETWEEN 900 AND 2000 FROM log_points");
}

/* One step that is far from all others costs them nothing but one halving. */
OPEN_STORE_TEST(a_step_far_away_leaves_the_others_as_they_are)
{
    put_points(fixture, 0, 1998, 1);
    put_point(fixture, "loss", UINT64_C(1) << 62, 1.0);
    wait_count(fixture, COUNT_STORED, 2000);
    assert_answer(fixture, 2000, "SELECT count(*) FROM log_points");
    put_point(fixture, "loss", 1999, 1999.0);
    wait_count(fixture, COUNT_STORED, 2001);
    assert_answer(fixture, 1001, "SELECT count(*) FROM log_points");
}

OPEN_STORE_TEST(a_run_that_is_replayed_changes_nothing)
{
    int64_t sum, points;
    put_points(fixture, 0, 50000, 10);
    put_point(fixture, "loss", 25000, NAN);
    put_point(fixture, "loss", 25010, -1);
    wait_count(fixture, COUNT_STORED, 5003);
    sum = ask(fixture, "SELECT sum(step) FROM log_points");
    points = ask(fixture, "SELECT count(*) FROM log_points");
    assert_true(points > 1000 && points <= 2000);
    fixture_reopen(fixture);
    put_points(fixture, 0, 50000, 10);
    put_point(fixture, "loss", 25000, NAN);
    put_point(fixture, "loss", 25010, -1);
    wait_count(fixture, COUNT_STORED, 10006);
    assert_answer(fixture, sum, "SELECT sum(step) FROM log_points");
    assert_answer(fixture, points, "SELECT count(*) FROM log_points");
    assert_answer(fixture, points, "SELECT points FROM logs");
}

OPEN_STORE_TEST(a_run_has_at_most_64_names_and_the_rest_is_counted)
{
    for (int i = 0; i < 66; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        put_point(fixture, name, 1, i);
    }
    put_point(fixture, "n0", 2, 5.0);
    wait_count(fixture, COUNT_STORED, 67);
    assert_answer(fixture, 64, "SELECT count(*) FROM logs");
    assert_int_equal(stats_get(&fixture->stats, COUNT_LOG_REFUSED), 2);
    assert_answer(fixture, 65, "SELECT count(*) FROM log_points");
}

OPEN_STORE_TEST(a_run_has_the_settings_that_were_said_last)
{
    for (int i = 0; i < 2; i++) {
        struct store_batch *batch = batch_of(7, 1);
        assert_int_equal(batch_settings(batch, i ? "\x81\xa1s\x02" : "\x80", i ? 4 : 1), 0);
        submit(fixture, batch);
    }
    put_point(fixture, "loss", 1, 1.0);
    wait_count(fixture, COUNT_STORED, 3);
    assert_answer(fixture, 1, "SELECT settings = x'81a17302' FROM runs");
}

STORE_TEST(logs_go_with_their_run)
{
    fixture->config.history_trust_clock = true;
    fixture->config.history_max_age = 1000000000000;
    fixture_open(fixture);
    put_points(fixture, 0, 9, 1);
    fixture_close(fixture);
    change(fixture, "UPDATE runs SET stored = stored - 2000");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM runs", 0);
    fixture_close(fixture);
    assert_answer(fixture, 0,
                  "SELECT (SELECT count(*) FROM logs)"
                  " + (SELECT count(*) FROM log_points)");
    assert_sound(fixture);
}

/* Where there is no window, the oldest run that has only logged makes room. */
STORE_TEST(runs_that_only_log_do_not_fill_the_history)
{
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    put_point(fixture, "loss", 1, 1.0);
    fixture_close(fixture);
    change(fixture,
           "UPDATE runs SET stored = stored - 2;"
           "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 90000)"
           " INSERT INTO log_points SELECT log_id, i, 0, 1700000000000000000 + i, i / 3.0"
           " FROM n, logs");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) FROM runs", 0);
    fixture_close(fixture);
    assert_answer(fixture, 0, "SELECT count(*) FROM log_points");
}

/* Whoever begins many of them does not drive the windows out. */
STORE_TEST(many_runs_that_only_log_make_room_before_windows)
{
    fixture->config.history_max_size = 1 << 20;
    fixture_open(fixture);
    for (uint64_t last = 0; last < 5; last++) {
        submit_window(fixture, last, "state", 5);
    }
    fixture_close(fixture);
    change(fixture, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
                    " INSERT INTO runs SELECT 100 + i, 'j', randomblob(16), 0, 1, 0, 0, 0, 0,"
                    " unixepoch(), NULL, NULL, '', '', '', 0, 0 FROM n;"
                    "INSERT INTO logs SELECT run_id, run_id, 'loss', 0, 60 FROM runs"
                    " WHERE run_id > 100;"
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)"
                    " INSERT INTO log_points SELECT log_id, i, 0, 1700000000000000000 + i, i / 3.0"
                    " FROM logs, n");
    fixture_open(fixture);
    wait_answer(fixture, "SELECT count(*) < 500 FROM runs", 1);
    fixture_close(fixture);
    assert_answer(fixture, 5, "SELECT count(*) FROM windows");
    assert_true(ask(fixture, "SELECT count(*) FROM runs") > 256);
    assert_answer(fixture, 0,
                  "SELECT count(*) FROM logs WHERE run_id NOT IN"
                  " (SELECT run_id FROM runs)");
}
