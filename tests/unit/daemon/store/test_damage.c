/* SPDX-License-Identifier: MIT */
/* Corrupt files, and a full disk. */
#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/clock.h"
#include "daemon/store/store_internal.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void store_damage_put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void store_damage_store_some(struct store_fixture *fixture, uint64_t from, uint64_t to)
{
    struct mpk_writer state;
    fixture_open(fixture);
    for (uint64_t last = from; last < to; last++) {
        pack_state(last, &state);
        submit_window(fixture, last, state.buffer.data, state.buffer.size);
        mpk_writer_clear(&state);
    }
    fixture_close(fixture);
}

static void overwrite(struct store_fixture *fixture, off_t from, off_t to)
{
    int fd = open(fixture->path, O_WRONLY);
    uint64_t random = 1;
    assert_true(fd >= 0);
    for (off_t at = from; at < to; at++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint8_t byte = (uint8_t)(random >> 56);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
}

/* Pages count from 1. */
static void overwrite_page(struct store_fixture *fixture, int64_t page)
{
    overwrite(fixture, (page - 1) * 8192, page * 8192);
}

static int64_t root_of(struct store_fixture *fixture, const char *name)
{
    char sql[128];
    snprintf(sql, sizeof sql, "SELECT rootpage FROM sqlite_schema WHERE name = '%s'", name);
    return ask(fixture, sql);
}

static void mark_unclean(struct store_fixture *fixture)
{
    change(fixture, "UPDATE meta SET value = 0 WHERE key = 'clean'");
}

/* The file is set aside, and history goes on in one that has `least` or more of its windows; the
 * others are counted. */
static void assert_repaired(struct store_fixture *fixture, int64_t before, int64_t least)
{
    log_capture();
    store_damage_store_some(fixture, 1000, 1001);
    assert_int_equal(log_release("event=history_repaired"), 1);
    assert_int_equal(count_files(fixture, "history.db.corrupt-2"), 1);
    assert_int_equal(count_files(fixture, "repaired"), 0);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REPLACED), 1);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
    int64_t kept = ask(fixture, "SELECT count(*) FROM windows WHERE last < 1000");
    assert_int_equal(kept + (int64_t)stats_get(&fixture->stats, COUNT_STORE_UNREADABLE), before);
    assert_true(kept >= least);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows WHERE last = 1000");
    assert_answer(fixture, kept + 1, "SELECT count(*) FROM windows JOIN states USING(window_id)");
    assert_sound(fixture);
}

/* Nothing of the file can be read: it is set aside, and history goes on in a new one. */
static void assert_replaced(struct store_fixture *fixture)
{
    log_capture();
    store_damage_store_some(fixture, 1000, 1001);
    assert_int_equal(log_release("event=history_corrupt"), 1);
    assert_int_equal(count_files(fixture, "history.db.corrupt-2"), 1);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REPLACED), 1);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows");
    assert_answer(fixture, 1000, "SELECT last FROM windows");
    assert_sound(fixture);
}

STORE_TEST(a_corrupt_page_is_found_after_an_unclean_stop)
{
    store_damage_store_some(fixture, 0, 60);
    mark_unclean(fixture);
    overwrite_page(fixture, 50);
    overwrite_page(fixture, 51);
    assert_repaired(fixture, 60, 56);
}

STORE_TEST(a_corrupt_page_is_found_while_running)
{
    store_damage_store_some(fixture, 0, 60);
    overwrite_page(fixture, root_of(fixture, "windows_recent"));
    assert_repaired(fixture, 60, 60);
}

/* The rows of tables that name things are in an index, too. */
STORE_TEST(names_are_found_in_an_index)
{
    static const char *const tables[] = {"runs", "layers", "tracks", "metrics", "logs"};
    store_damage_store_some(fixture, 0, 60);
    mark_unclean(fixture);
    for (int i = 0; i < 5; i++) {
        overwrite_page(fixture, root_of(fixture, tables[i]));
    }
    assert_repaired(fixture, 60, 60);
    assert_answer(fixture, 1, "SELECT count(*) FROM runs WHERE job = 'j' AND step = 10000");
}

STORE_TEST(sketches_come_over_that_can_be_read)
{
    store_damage_store_some(fixture, 0, 60);
    change(fixture, "INSERT INTO sketches SELECT column1, column2, 1, 0, 0, 0, column1, 0,"
                    " strftime('%s'), column3, x'81a47374657001'"
                    " FROM (VALUES (5, 1, 7), (6, 1, 700), (7, 9, 7))");
    mark_unclean(fixture);
    overwrite_page(fixture, root_of(fixture, "sketches_age"));
    assert_repaired(fixture, 60, 60);
    assert_answer(fixture, 5, "SELECT sum(sketch_id) FROM sketches");
}

/* attnd was killed after it had renamed the one, and before it renamed the other. */
STORE_TEST(a_copy_that_was_to_take_its_place_does)
{
    char copy[160];
    snprintf(copy, sizeof copy, "%s.repaired", fixture->path);
    store_damage_store_some(fixture, 0, 10);
    assert_int_equal(rename(fixture->path, copy), 0);
    store_damage_store_some(fixture, 10, 11);
    assert_answer(fixture, 11, "SELECT count(*) FROM windows");
    assert_int_equal(count_files(fixture, "repaired"), 0);
}

/* Else a hub would take it for another one, or its rows for those that it has. */
STORE_TEST(a_node_stays_the_same)
{
    fixture->config.fleet_role = CONFIG_ROLE_NODE;
    store_damage_store_some(fixture, 0, 60);
    change(fixture, "INSERT INTO outbox VALUES(100, x'00', 0, 1, 0, 0);"
                    "INSERT INTO outbox_bodies VALUES(100, x'00');"
                    "UPDATE sqlite_sequence SET seq = 200");
    int64_t node = ask(fixture, "SELECT value FROM meta WHERE key = 'node'");
    mark_unclean(fixture);
    overwrite_page(fixture, root_of(fixture, "outbox_unsent"));
    assert_repaired(fixture, 60, 60);
    assert_answer(fixture, node, "SELECT value FROM meta WHERE key = 'node'");
    assert_answer(fixture, 1, "SELECT count(*) FROM outbox JOIN outbox_bodies USING(seq)");
    assert_answer(fixture, 1, "SELECT seq > 200 FROM sqlite_sequence");
    mark_unclean(fixture);
    overwrite_page(fixture, root_of(fixture, "sqlite_sequence"));
    fixture_open(fixture);
    fixture_close(fixture);
    assert_int_not_equal(ask(fixture, "SELECT value FROM meta WHERE key = 'node'"), node);
    assert_answer(fixture, 0, "SELECT count(*) FROM outbox");
}

/* A table without its root is lost: what it had is known from others. */
STORE_TEST(windows_that_are_lost_are_counted)
{
    store_damage_store_some(fixture, 0, 60);
    mark_unclean(fixture);
    overwrite_page(fixture, root_of(fixture, "windows"));
    overwrite_page(fixture, root_of(fixture, "sqlite_autoindex_windows_1"));
    assert_repaired(fixture, 60, 0);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_UNREADABLE), 60);
}

STORE_TEST(what_is_left_of_a_truncated_file_is_kept)
{
    store_damage_store_some(fixture, 0, 60);
    mark_unclean(fixture);
    assert_int_equal(truncate(fixture->path, 60 * 8192), 0);
    assert_repaired(fixture, 60, 15);
}

STORE_TEST(a_history_without_its_first_page_is_repaired)
{
    store_damage_store_some(fixture, 0, 60);
    overwrite_page(fixture, 1);
    assert_repaired(fixture, 60, 60);
}

STORE_TEST(a_file_that_may_be_anything_is_set_aside)
{
    store_damage_store_some(fixture, 0, 10);
    overwrite_page(fixture, 1);
    overwrite_page(fixture, 2);
    assert_replaced(fixture);
}

STORE_TEST(an_empty_file_is_a_new_history)
{
    store_damage_put_file(fixture->path, "");
    store_damage_store_some(fixture, 0, 1);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows");
    assert_int_equal(count_files(fixture, "corrupt"), 0);
}

STORE_TEST(files_set_aside_in_one_second_have_names_of_their_own)
{
    log_capture();
    for (int i = 0; i < 3; i++) {
        store_damage_store_some(fixture, 0, 1);
        overwrite(fixture, 0, 100);
    }
    store_damage_store_some(fixture, 0, 1);
    assert_int_equal(log_release("event=history_repaired"), 3);
    assert_int_equal(count_files(fixture, "corrupt-"), 3);
}

/* Files that go */

static void remove_database(struct store_fixture *fixture)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    char path[160];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s", fixture->path, suffixes[i]);
        unlink(path);
    }
}

OPEN_STORE_TEST(a_file_that_is_removed_is_written_again)
{
    store_window(fixture, 1, NULL, 0);
    remove_database(fixture);
    log_capture();
    submit_window(fixture, 2, NULL, 0);
    submit_window(fixture, 3, NULL, 0);
    wait_count(fixture, COUNT_STORED, 3);
    assert_int_equal(log_release("event=history_gone"), 1);
    assert_answer(fixture, 2, "SELECT count(*) FROM windows WHERE last IN (2, 3)");
    assert_answer(fixture, 2, "SELECT count(*) FROM windows");
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REPLACED), 1);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
    fixture_close(fixture);
    assert_answer(fixture, 1, "SELECT value FROM meta WHERE key = 'clean'");
    assert_sound(fixture);
}

STORE_TEST(a_file_in_its_place_goes_on)
{
    char other[160];
    snprintf(other, sizeof other, "%s.other", fixture->path);
    store_damage_store_some(fixture, 0, 10);
    assert_int_equal(rename(fixture->path, other), 0);
    fixture_open(fixture);
    store_window(fixture, 20, NULL, 0);
    remove_database(fixture);
    assert_int_equal(rename(other, fixture->path), 0);
    log_capture();
    store_window(fixture, 10, NULL, 0);
    assert_int_equal(log_release("event=history_gone"), 1);
    fixture_close(fixture);
    assert_answer(fixture, 11, "SELECT count(*) FROM windows WHERE last <= 10");
    assert_answer(fixture, 11, "SELECT count(*) FROM windows");
    assert_sound(fixture);
}

/* A copy put back with `mv`: the log of the file before it stays beside it, and is none of it. */
STORE_TEST(a_copy_in_its_place_is_as_it_was)
{
    char copy[160], statement[200];
    snprintf(copy, sizeof copy, "%s.copy", fixture->path);
    store_damage_store_some(fixture, 0, 10);
    snprintf(statement, sizeof statement, "VACUUM INTO '%s'", copy);
    change(fixture, statement);
    fixture_open(fixture);
    store_window(fixture, 20, NULL, 0);
    assert_int_equal(rename(copy, fixture->path), 0);
    log_capture();
    store_window(fixture, 10, NULL, 0);
    assert_int_equal(log_release("event=history_gone"), 1);
    fixture_close(fixture);
    assert_answer(fixture, 11, "SELECT count(*) FROM windows WHERE last <= 10");
    assert_answer(fixture, 11, "SELECT count(*) FROM windows");
    assert_int_equal(count_files(fixture, "corrupt"), 0);
    assert_sound(fixture);
}

STORE_TEST(a_file_of_somebody_else_in_its_place_is_left_alone)
{
    const char *reason = "";
    char other[160], statement[220];
    snprintf(other, sizeof other, "%s.other", fixture->path);
    snprintf(statement, sizeof statement, "ATTACH '%s' AS other; CREATE TABLE other.mine(x)",
             other);
    fixture_open(fixture);
    store_window(fixture, 1, NULL, 0);
    change(fixture, statement);
    log_capture();
    assert_int_equal(rename(other, fixture->path), 0);
    submit_window(fixture, 2, NULL, 0);
    submit_window(fixture, 3, NULL, 0);
    wait_count(fixture, COUNT_STORE_DROPPED, 2);
    assert_int_equal(log_release("it is a database of another program"), 1);
    assert_non_null(store_path(fixture->store, &reason));
    assert_non_null(store_trouble(fixture->store));
    assert_answer(fixture, 1, "SELECT count(*) FROM sqlite_schema");
    remove_database(fixture); /* within a second there is a history again, though nothing comes */
    log_capture();
    wait_count(fixture, COUNT_STORE_REPLACED, 1);
    store_window(fixture, 4, NULL, 0);
    assert_null(store_trouble(fixture->store));
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REPLACED), 1);
    fixture_close(fixture);
    assert_int_equal(log_release("event=history_recovered"), 1);
    assert_answer(fixture, 4, "SELECT last FROM windows");
}

/* Any byte anywhere may be wrong: history goes on, in this file or another one. */
STORE_TEST(random_damage_never_stops_the_history)
{
    log_capture();
    for (uint64_t round = 0; round < 20; round++) {
        struct stat file;
        store_damage_store_some(fixture, 20 * round, 20 * round + 20);
        assert_int_equal(stat(fixture->path, &file), 0);
        if (round % 2) {
            mark_unclean(fixture);
        }
        off_t at = (off_t)(round * 7919 * 13) % file.st_size;
        overwrite(fixture, at, at + 1 + (off_t)(round * round));
    }
    int repaired = log_release("renamed=");
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_REPLACED), repaired);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORED), 400);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
}

/* A full disk: no file may grow beyond a limit */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Has room for one window, which is in it, but for none with these bytes. */
static const char too_many[100000] = "x";

static void open_on_full_disk(struct store_fixture *fixture)
{
    signal(SIGXFSZ, SIG_IGN);
    fixture_open(fixture);
    log_capture();
    store_window(fixture, 1, "x", 1);
    limit_files(150000);
}

STORE_TEST(a_full_disk_costs_records_until_there_is_room)
{
    open_on_full_disk(fixture);
    for (uint64_t i = 1; i <= 3; i++) {
        submit_window(fixture, i + 1, too_many, sizeof too_many);
        wait_count(fixture, COUNT_STORE_DROPPED, i);
    }
    limit_files(RLIM_INFINITY);
    store_window(fixture, 5, too_many, sizeof too_many);
    fixture_close(fixture);
    assert_int_equal(log_release(" windows=3 records=3"), 1);
    assert_answer(fixture, 15, "SELECT group_concat(last, '') FROM windows");
    assert_int_equal(count_files(fixture, "corrupt"), 0);
    assert_sound(fixture);
}

STORE_TEST(a_disk_that_is_full_at_the_end_says_what_is_not_written)
{
    open_on_full_disk(fixture);
    for (uint64_t i = 2; i <= 3; i++) {
        submit_window(fixture, i, too_many, sizeof too_many);
    }
    fixture_close(fixture);
    limit_files(RLIM_INFINITY);
    assert_int_equal(log_release(" windows=2 records=2"), 1);
    assert_answer(fixture, 1, "SELECT group_concat(last, '') FROM windows");
}

/* Small windows get through, large ones do not: it is one trouble for the log. */
STORE_TEST(a_trouble_that_comes_and_goes_is_told_once)
{
    signal(SIGXFSZ, SIG_IGN);
    fixture_open(fixture);
    log_capture();
    for (uint64_t i = 1; i <= 4; i++) {
        store_window(fixture, 2 * i - 1, "x", 1);
        assert_null(store_trouble(fixture->store));
        limit_files(150000);
        submit_window(fixture, 2 * i, too_many, sizeof too_many);
        wait_count(fixture, COUNT_STORE_DROPPED, i);
        assert_non_null(store_trouble(fixture->store));
        limit_files(RLIM_INFINITY);
    }
    store_window(fixture, 9, "x", 1);
    fixture_close(fixture);
    assert_int_equal(log_release("event=history_recovered dropped=4"), 1);
    assert_answer(fixture, 5, "SELECT count(*) FROM windows");
}

/* The file is corrupt, and there is no room for another one: nothing is left to be done. */
STORE_TEST(a_history_that_is_lost_has_nothing_to_do)
{
    store_damage_store_some(fixture, 0, 60);
    signal(SIGXFSZ, SIG_IGN);
    fixture_open(fixture);
    overwrite(fixture, 2 * 8192, 40 * 8192);
    log_capture();
    limit_files(60000);
    submit_window(fixture, 1000, "x", 1);
    wait_count(fixture, COUNT_STORE_DROPPED, 1);
    limit_files(RLIM_INFINITY);
    assert_int_equal(log_release("event=history_lost"), 1);
    assert_true(room_next(fixture->store) == UINT64_MAX);
    fixture_close(fixture);
}

static _Atomic int settled, unanswered;

static void damage_settle(void *data, struct promises *promises)
{
    (void)data;
    for (struct promise *promise; (promise = promises_take(promises)); free(promise)) {
        unanswered += promise->code != 0;
        settled++;
    }
}

/* Batches that were promised wait for it, and so do those behind them; all get there, once. */
STORE_TEST(promised_records_wait_for_a_full_disk)
{
    signal(SIGXFSZ, SIG_IGN);
    fixture_open(fixture);
    store_set_settle(fixture->store, damage_settle, NULL);
    settled = 0;
    log_capture();
    store_window(fixture, 1, "x", 1);
    limit_files(150000);
    for (uint64_t i = 2; i <= 4; i++) {
        struct store_batch *batch = batch_of(1, 0);
        struct promise *promise = calloc(1, sizeof *promise);
        assert_non_null(promise);
        assert_int_equal(batch_keep(batch,
                                    i == 2   ? "a"
                                    : i == 3 ? "b"
                                             : "c",
                                    too_many, sizeof too_many),
                         0);
        batch_hold(batch, true);
        promises_add(batch_promises(batch), promise);
        assert_true(store_submit(fixture->store, &batch));
    }
    while (!store_trouble(fixture->store)) {
        usleep(1000);
    }
    submit_window(fixture, 5, "x", 1);
    assert_int_equal(settled, 0);
    limit_files(RLIM_INFINITY);
    wait_count(fixture, COUNT_STORED, 5);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
    while (settled < 3) {
        usleep(1000);
    }
    fixture_close(fixture);
    assert_int_equal(log_release("history_recovered"), 1);
    assert_answer(fixture, 15, "SELECT group_concat(last, '') FROM windows");
    assert_answer(fixture, 3, "SELECT count(*) FROM kept");
    assert_sound(fixture);
}

/* After its time it is refused, and nothing is changed, also when there is room again. */
STORE_TEST(a_change_that_a_full_disk_keeps_waiting_is_none)
{
    const bool yes = true;
    const uint8_t run[RUN_BYTES] = {7};
    struct store_change star = {.job = "j", .run = run, .star = &yes};
    struct store_change drop = {.job = "j", .run = run, .drop = true};
    signal(SIGXFSZ, SIG_IGN);
    fixture_open(fixture);
    store_window(fixture, 1, "x", 1);
    limit_files(150000);
    struct store_batch *batch = batch_of(7, 1);
    assert_int_equal(batch_keep(batch, "a", too_many, sizeof too_many), 0);
    batch_hold(batch, true);
    submit(fixture, batch);
    while (!store_trouble(fixture->store)) {
        usleep(1000);
    }
    uint64_t until_ns = clock_monotonic_ns() + 50000000;
    assert_int_equal(store_change(fixture->store, &star, until_ns), ERR_AGAIN);
    assert_int_equal(store_change(fixture->store, &drop, until_ns), ERR_AGAIN);
    limit_files(RLIM_INFINITY);
    wait_count(fixture, COUNT_STORED, 4);
    fixture_close(fixture);
    assert_answer(fixture, 1, "SELECT count(*) FROM runs WHERE job = 'j' AND NOT star");
}

/* The database refuses it for a reason that does not go away: it was not kept. */
STORE_TEST(a_promise_about_what_was_dropped_is_not_kept)
{
    struct promise *promise = calloc(1, sizeof *promise);
    sqlite3 *other;
    assert_non_null(promise);
    fixture_open(fixture);
    store_set_settle(fixture->store, damage_settle, NULL);
    store_window(fixture, 1, "x", 1);
    assert_int_equal(sqlite3_open(fixture->path, &other), SQLITE_OK);
    sqlite3_busy_timeout(other, 60000);
    assert_int_equal(sqlite3_exec(other,
                                  "CREATE TRIGGER never BEFORE INSERT ON kept"
                                  " BEGIN SELECT RAISE(ABORT, 'never'); END",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(other);
    settled = unanswered = 0;
    struct store_batch *batch = batch_of(1, 0);
    assert_int_equal(batch_keep(batch, "a", "x", 1), 0);
    batch_hold(batch, true);
    promises_add(batch_promises(batch), promise);
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORE_DROPPED, 1);
    assert_int_equal(settled, 1);
    assert_int_equal(unanswered, 1);
    fixture_close(fixture);
}
