/* SPDX-License-Identifier: MIT */
/* Batches that are submitted are in the database. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "proto/err.h"
#include "daemon/store/internal.h"
#include "daemon/store/series.h"
#include "daemon/store/store_internal.h"

#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t run_id[RUN_BYTES] = {7};
static const struct store_run run_7 = {.job = "j", .run = run_id}; /* batch_of(7, ...) */

/* With transactions that end when the store is closed. */
static void open_slow(struct store_fixture *fixture)
{
    fixture->config.history_commit = 60000000000;
    fixture_open(fixture);
}

OPEN_STORE_TEST(a_window_is_stored)
{
    store_window(fixture, 3, "state", 5);
    assert_answer(fixture, 1,
                  "SELECT count(*) FROM windows JOIN layers USING(layer_id)"
                  " JOIN runs USING(run_id) JOIN tracks USING(track_id)"
                  " JOIN states USING(window_id)"
                  " WHERE job = 'j' AND run = x'07000000000000000000000000000000'"
                  " AND runs.state = 0 AND world = 2 AND stack = 1 AND layer = 0"
                  " AND site = 0 AND heads = 3 AND unit = 0 AND length = 1"
                  " AND every = 1 AND first = 3 AND last = 3"
                  " AND windows.epoch = 3 AND windows.step = 30"
                  " AND time_ns = 1003 AND messages = 4 AND lost = 1"
                  " AND partial = 0 AND final = 1 AND chunk_id IS NULL"
                  " AND bytes = 5 AND data = CAST('state' AS BLOB)");
}

/* One that does not say it leaves the module that is there; a layer may be of another one later. */
OPEN_STORE_TEST(a_layer_keeps_its_newest_module)
{
    static const char *const said[] = {"model.layers.0.attn", NULL, "model.blocks.0.attn#1"};
    for (uint64_t i = 0; i < 3; i++) {
        struct store_batch *batch = batch_of(7, 3);
        struct store_window window = window_of(3 + i, "state", 5);
        char module[32] = "";
        snprintf(module, sizeof module, "%s", said[i] ? said[i] : "");
        window.module = said[i] ? module : NULL;
        assert_int_equal(batch_window(batch, &window), 0);
        memset(module, 'x', sizeof module); /* it was copied */
        submit(fixture, batch);
        wait_count(fixture, COUNT_STORED, i + 1);
        assert_answer(fixture, 1,
                      i < 2 ? "SELECT module = 'model.layers.0.attn' FROM layers"
                            : "SELECT module = 'model.blocks.0.attn#1' FROM layers");
    }
    assert_answer(fixture, 1, "SELECT count(*) FROM layers");
    assert_answer(fixture, 3, "SELECT count(*) FROM states WHERE bytes = 5");
}

STORE_TEST(a_window_that_comes_again_is_replaced)
{
    struct store_window open = window_of(3, "early", 5);
    struct store_batch *batch = batch_of(7, 3);
    fixture_open(fixture);
    open.final = false;
    assert_int_equal(batch_window(batch, &open), 0);
    submit(fixture, batch);
    submit_window(fixture, 3, "late", 4);
    wait_count(fixture, COUNT_STORED, 2);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows");
    assert_answer(fixture, 1,
                  "SELECT count(*) FROM windows JOIN states USING(window_id)"
                  " WHERE final = 1 AND data = CAST('late' AS BLOB)");
}

STORE_TEST(tracks_and_layers_are_kept_apart)
{
    struct store_batch *batch = batch_of(7, 3);
    struct store_window window = window_of(3, "x", 1);
    fixture_open(fixture);
    for (uint64_t i = 0; i < 4; i++) {
        window.layer.layer = (uint32_t)(i / 2);
        window.window.length = 1 + i % 2;
        assert_int_equal(batch_window(batch, &window), 0);
    }
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, 4);
    assert_answer(fixture, 4, "SELECT count(*) FROM windows");
    assert_answer(fixture, 2, "SELECT count(*) FROM tracks");
    assert_answer(fixture, 2, "SELECT count(*) FROM layers");
}

STORE_TEST(an_alert_is_stored)
{
    struct alert_result alert = {
        .common = {.job = "j", .epoch = 1, .step = 2, .time_ns = 3},
        .rule = "collapse",
        .severity = ALERT_CRITICAL,
        .state = ALERT_FIRING,
        .metric = "entropy",
        .has_layer = true,
        .layer = {STACK_ENCODER, 5, SITE_CROSS},
        .head = 6,
        .value = 0.25,
        .bound = NAN,
        .since_after = 7,
        .since_step = 8,
        .message = "it fell",
    };
    struct store_batch *batch = batch_of(7, 3);
    fixture_open(fixture);
    assert_int_equal(batch_alert(batch, &alert), 0);
    alert.has_layer = false;
    alert.head = -1;
    assert_int_equal(batch_alert(batch, &alert), 0);
    assert_int_equal(batch_alert(batch, &alert), 0); /* again: it is the one that is there */
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, 2);
    assert_answer(
        fixture, 2,
        "SELECT count(*) FROM alerts WHERE epoch = 1 AND step = 2 AND time_ns = 3"
        " AND rule = 'collapse' AND severity = 2 AND state = 0 AND metric = 'entropy'"
        " AND value = 0.25 AND bound IS NULL AND since_after = 7 AND since_step = 8"
        " AND message = 'it fell' AND ((stack = 0 AND layer = 5 AND site = 1 AND head = 6)"
        " OR (stack IS NULL AND layer IS NULL AND site IS NULL AND head = -1))");
}

STORE_TEST(a_map_is_stored_deflated)
{
    uint16_t values[128 * 128];
    for (size_t i = 0; i < 128 * 128; i++) {
        values[i] = (uint16_t)(i % 7 + 0x3c00);
    }
    const struct store_map map = {.layer = {STACK_DECODER, 0, SITE_SELF},
                                  .window = {WINDOW_EPOCH, 2, 3, 2, 2, true},
                                  .epoch = 3,
                                  .queries = 1000,
                                  .keys = 2000,
                                  .rows = 128,
                                  .columns = 128,
                                  .values = values};
    struct store_batch *batch = batch_of(7, 3);
    fixture_open(fixture);
    assert_int_equal(batch_map(batch, &map), 0);
    submit(fixture, batch);
    wait_count(fixture, COUNT_STORED, 1);
    fixture_close(fixture);

    sqlite3 *db;
    sqlite3_stmt *row;
    uint8_t *back;
    assert_int_equal(sqlite3_open(fixture->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT data FROM maps WHERE queries = 1000 AND keys = 2000"
                                        " AND rows = 128 AND columns = 128 AND first = 2"
                                        " AND last = 3 AND partial = 1",
                                        -1, &row, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    assert_in_range(sqlite3_column_bytes(row, 0), 1, 4096);
    assert_int_equal(blob_inflate(sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0),
                                  sizeof values, &back),
                     0);
    assert_memory_equal(back, values, sizeof values); /* little-endian, as this machine */
    free(back);
    sqlite3_finalize(row);
    sqlite3_close(db);
}

/* Kept values */

struct visits {
    int count;
    char text[256];
};

static void store_visit(void *data, const char *job, const uint8_t *run, const char *key,
                        const void *value, size_t size)
{
    struct visits *visits = data;
    char line[64];
    snprintf(line, sizeof line, "%s %u %s=%.*s;", job, run[0], key, (int)size, (const char *)value);
    strcat(visits->text, line);
    visits->count++;
}

static void store_keep(struct store_fixture *fixture, uint8_t run, const char *key,
                       const char *value)
{
    struct store_batch *batch = batch_of(run, 1);
    assert_int_equal(batch_keep(batch, key, value, strlen(value)), 0);
    submit(fixture, batch);
}

static void assert_kept(struct store_fixture *fixture, const char *expected)
{
    struct visits visits = {0};
    fixture_reopen(fixture);
    store_each_kept(fixture->store, store_visit, &visits);
    assert_string_equal(visits.text, expected);
}

OPEN_STORE_TEST(kept_values_come_back_in_order)
{
    store_keep(fixture, 9, "b", "1");
    store_keep(fixture, 7, "b", "2");
    store_keep(fixture, 7, "a", "3");
    store_keep(fixture, 7, "b", "4");
    store_keep(fixture, 9, "empty", "");
    assert_kept(fixture, "j 9 b=1;j 9 empty=;j 7 a=3;j 7 b=4;");
}

STORE_TEST(a_prefix_is_forgotten_of_one_run)
{
    struct store_batch *batch = batch_of(7, 1);
    fixture_open(fixture);
    store_keep(fixture, 7, "a/1", "x");
    store_keep(fixture, 7, "a%", "y");
    store_keep(fixture, 7, "b", "z");
    store_keep(fixture, 8, "a/1", "w");
    assert_int_equal(batch_forget(batch, "a/"), 0);
    submit(fixture, batch);
    assert_kept(fixture, "j 7 a%=y;j 7 b=z;j 8 a/1=w;");
    batch = batch_of(7, 1);
    assert_int_equal(batch_forget(batch, ""), 0);
    submit(fixture, batch);
    assert_kept(fixture, "j 8 a/1=w;");
}

STORE_TEST(an_ended_run_is_visited_as_well)
{
    const struct store_run ended = {"j", run_id, JOB_ENDED, 2, 1, 1, 1};
    struct store_batch *batch = batch_new(&ended);
    fixture_open(fixture);
    store_keep(fixture, 7, "a", "x");
    submit(fixture, batch);
    assert_kept(fixture, "j 7 a=x;");
}

OPEN_STORE_TEST(the_newest_window_and_a_kept_value_are_found)
{
    const struct layer_id layer = {STACK_DECODER, 3, SITE_SELF};
    struct result_window window = {.unit = WINDOW_STEP, .length = 5, .every = 5};
    struct store_bytes bytes;
    for (uint64_t last = 4; last < 15; last += 5) {
        const struct store_window put = {.layer = layer,
                                         .heads = 2,
                                         .window = {WINDOW_STEP, last - 4, last, 5, 5, last > 10},
                                         .final = last < 10,
                                         .state = &"abc"[last / 5],
                                         .state_size = 1};
        struct store_batch *batch = batch_of(7, 1);
        assert_int_equal(batch_window(batch, &put), 0);
        submit(fixture, batch);
    }
    store_keep(fixture, 7, "drift/1", "why");
    fixture_reopen(fixture);
    assert_int_equal(store_find_newest(fixture->store, &run_7, layer, &window, &bytes), 0);
    assert_true(window.first == 10 && window.last == 14 && window.partial);
    assert_int_equal(bytes.size, 1);
    assert_memory_equal(bytes.data, "c", 1);
    free(bytes.data);
    window.every = 1;
    assert_int_equal(store_find_newest(fixture->store, &run_7, layer, &window, &bytes),
                     ERR_NO_HISTORY);
    assert_int_equal(store_find_kept(fixture->store, &run_7, "drift/1", &bytes), 0);
    assert_memory_equal(bytes.data, "why", bytes.size);
    free(bytes.data);
    assert_int_equal(store_find_kept(fixture->store, &run_7, "drift/2", &bytes), ERR_NO_HISTORY);
}

/* Transactions and the queue */

STORE_TEST(a_submitted_batch_is_committed_at_the_end)
{
    open_slow(fixture);
    for (uint64_t last = 0; last < 10; last++) {
        submit_window(fixture, last, "x", 1);
    }
    fixture_close(fixture);
    assert_int_equal(count_files(fixture, "-wal"), 0);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORED), 10);
    assert_answer(fixture, 10, "SELECT count(*) FROM windows");
    assert_answer(fixture, 1, "SELECT value FROM meta WHERE key = 'clean'");
}

STORE_TEST(batches_wait_for_each_other)
{
    open_slow(fixture);
    submit_window(fixture, 1, "x", 1);
    assert_answer(fixture, 0, "SELECT count(*) FROM windows");
    fixture_close(fixture);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows");
}

/* Asks the file without its log. */
static int64_t ask_file_alone(struct store_fixture *fixture, const char *sql)
{
    struct store_fixture alone = {0};
    char command[400];
    snprintf(alone.path, sizeof alone.path, "%s/alone.db", fixture->directory);
    snprintf(command, sizeof command, "rm -f %s* && cp %s %s", alone.path, fixture->path,
             alone.path);
    assert_int_equal(system(command), 0);
    return ask(&alone, sql);
}

OPEN_STORE_TEST(the_log_is_moved_into_the_file_without_more_to_write)
{
    store_window(fixture, 1, "x", 1);
    for (int i = 0; i < 30000 && ask_file_alone(fixture, "SELECT last FROM windows") != 1; i++) {
        usleep(2000);
    }
    assert_int_equal(ask_file_alone(fixture, "SELECT last FROM windows"), 1);
}

static struct store_batch *kept_batch(const void *value, size_t size)
{
    struct store_batch *batch = batch_of(7, 1);
    assert_int_equal(batch_keep(batch, "k", value, size), 0);
    return batch;
}

STORE_TEST(a_full_queue_drops_checkpoints_first)
{
    static const char large[400000];
    fixture->config.ingest_budget = 1 << 20;
    open_slow(fixture);
    log_capture();
    submit(fixture, kept_batch(large, sizeof large));
    struct store_batch *batch = kept_batch(large, sizeof large); /* more than half */
    assert_false(store_submit(fixture->store, &batch));
    assert_null(batch);
    submit_window(fixture, 1, large, sizeof large);
    batch = batch_of(7, 1);
    struct store_window window = window_of(2, large, sizeof large);
    assert_int_equal(batch_window(batch, &window), 0);
    assert_false(store_submit(fixture->store, &batch)); /* more than all */
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 2);
    assert_int_equal(store_lost(fixture->store), 0); /* it never took them */
    batch = batch_of(7, 1);
    batch_hold(batch, false); /* for its promises alone */
    submit(fixture, batch);
    fixture_close(fixture);
    assert_int_equal(log_release("history_queue_full"), 2);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORED), 3);
}

STORE_TEST(a_batch_larger_than_the_queue_is_taken_alone)
{
    static const char large[1200000];
    fixture->config.ingest_budget = 1 << 20;
    open_slow(fixture);
    submit_window(fixture, 1, large, sizeof large);
    struct store_batch *batch = kept_batch("x", 1);
    assert_false(store_submit(fixture->store, &batch));
    fixture_close(fixture);
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORED), 1);
}

STORE_TEST(room_comes_back_after_a_commit)
{
    static const char large[400000];
    fixture->config.ingest_budget = 1 << 20;
    fixture_open(fixture);
    for (uint64_t i = 1; i <= 20; i++) {
        submit(fixture, kept_batch(large, sizeof large));
        wait_count(fixture, COUNT_STORED, i);
        wait_answer(fixture, "SELECT length(value) FROM kept", sizeof large);
    }
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 0);
}

/* A batch of run 7 with these values, each of one letter. */
static struct store_batch *kept_of(const char *key, const char *value, const char *next_key,
                                   const char *next_value)
{
    struct store_batch *batch = batch_of(7, 3);
    assert_int_equal(batch_keep(batch, key, value, 1), 0);
    if (next_key) {
        assert_int_equal(batch_keep(batch, next_key, next_value, 1), 0);
    }
    return batch;
}

static void see_kept(void *data, const char *job, const uint8_t *run, const char *key,
                     const void *value, size_t size)
{
    char *seen = data;
    assert_string_equal(job, "j");
    assert_int_equal(run[0], 7);
    assert_int_equal(size, 1);
    snprintf(seen + strlen(seen), 16, "%s%c", key, *(const char *)value);
}

/* The last that was said of a run counts, before it is written as well. */
OPEN_STORE_TEST(a_run_that_goes_is_known_before_it_is_written)
{
    char seen[64] = "";
    submit(fixture, kept_of("a", "1", NULL, NULL));
    wait_count(fixture, COUNT_STORED, 1);
    fixture_close(fixture);
    open_slow(fixture);
    struct store_batch *batch = kept_of("b", "3", "a", "2");
    batch_hold(batch, true);
    submit(fixture, batch);
    submit(fixture, batch_of(8, 3));
    store_each_kept_of(fixture->store, &run_7, see_kept, seen);
    assert_string_equal(seen, "a2b3");
    fixture_reopen(fixture);
    *seen = '\0';
    store_each_kept_of(fixture->store, &run_7, see_kept, seen);
    assert_string_equal(seen, "a2b3");
}

static void count_settled(void *data, struct promises *promises)
{
    atomic_int *settled = data;
    for (struct promise *promise; (promise = promises_take(promises)); free(promise)) {
        atomic_fetch_add(settled, promise->code == 0);
    }
}

static void submit_promised(struct store_fixture *fixture, uint64_t bytes)
{
    struct promise *promise = calloc(1, sizeof *promise);
    struct store_batch *batch = batch_of(7, 3);
    assert_non_null(promise);
    promise->bytes = bytes;
    promises_add(batch_promises(batch), promise);
    submit(fixture, batch);
}

/* Neither the time of commits nor their size is reached. */
STORE_TEST(enough_that_was_promised_is_written_at_once)
{
    atomic_int settled = 0;
    open_slow(fixture);
    store_set_settle(fixture->store, count_settled, &settled);
    submit_promised(fixture, PROMISES_WORTH - 1);
    assert_false(store_is_busy(fixture->store));
    submit_promised(fixture, 1);
    wait_count(fixture, COUNT_STORED, 2);
    assert_int_equal(settled, 2);
    assert_true(store_saving_ns(fixture->store) > 0);
}

/* The loop asks while a commit, which may take as long as the disk does, is going on: else this
 * test would wait for itself. */
OPEN_STORE_TEST(a_run_is_read_while_another_one_is_written)
{
    char seen[64] = "";
    for (uint64_t i = 1; i <= 2; i++) {
        char value[2] = {(char)('0' + i)};
        submit(fixture, kept_of("a", value, NULL, NULL));
        wait_count(fixture, COUNT_STORED, i);
        const struct sql *writer = store_begin_read(fixture->store);
        assert_int_equal(sql_begin(writer), SQLITE_OK);
        assert_int_equal(sqlite3_exec(writer->db, "DELETE FROM kept", NULL, NULL, NULL), SQLITE_OK);
        store_each_kept_of(fixture->store, &run_7, see_kept, seen);
        assert_int_equal(sql_end(writer, SQLITE_ABORT), SQLITE_ABORT);
        store_end_read(fixture->store);
    }
    assert_string_equal(seen, "a1a2");
}

/* Reads all that is kept of the run. */
static void expect_kept_of(struct store_fixture *fixture, char *seen, int code, const char *wanted)
{
    *seen = '\0';
    assert_int_equal(store_each_kept_of(fixture->store, &run_7, see_kept, seen), code);
    assert_string_equal(seen, wanted);
}

static int interrupt_when_seen(void *seen)
{
    return *(char *)seen != '\0';
}

static int interrupt_at_once(void *data)
{
    (void)data;
    return 1;
}

/* The thread may not be through with what comes behind a commit. */
static void see_when_free(struct store_fixture *fixture, char *seen)
{
    while (store_each_kept_of(fixture->store, &run_7, see_kept, seen)) {
        usleep(1000);
    }
}

/* The loop's connection fails: after the first row, which does not come twice; at once, and another
 * one does better; that one is in use, fails as well, or is closed: nobody knows what there is. */
OPEN_STORE_TEST(a_run_that_cannot_be_read_is_not_one_that_is_not_there)
{
    char seen[64] = "";
    submit(fixture, kept_of("a", "1", "b", "2"));
    wait_count(fixture, COUNT_STORED, 2);
    expect_kept_of(fixture, seen, 0, "a1b2");
    sqlite3 *reader = fixture->store->reader.db;
    sqlite3_progress_handler(reader, 1, interrupt_when_seen, seen);
    expect_kept_of(fixture, seen, ERR_HISTORY_UNREAD, "a1");
    *seen = '\0';
    sqlite3_progress_handler(reader, 1, interrupt_at_once, NULL);
    see_when_free(fixture, seen);
    assert_string_equal(seen, "a1b2");
    sqlite3 *writer = store_begin_read(fixture->store)->db;
    expect_kept_of(fixture, seen, ERR_HISTORY_UNREAD, "");
    sqlite3_progress_handler(writer, 1, interrupt_at_once, NULL);
    store_end_read(fixture->store);
    expect_kept_of(fixture, seen, ERR_HISTORY_UNREAD, "");
    store_begin_read(fixture->store);
    sqlite3_progress_handler(writer, 0, NULL, NULL);
    db_close(&fixture->store->db);
    store_end_read(fixture->store);
    expect_kept_of(fixture, seen, ERR_HISTORY_UNREAD, "");
}

static int open_files_of(const struct store_fixture *fixture)
{
    char link[64], target[512];
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        count += strstr(target, fixture->path) != NULL;
    }
    return count;
}

/* Somebody replaced the file: the loop reads the one that is there now, and leaves none open. */
OPEN_STORE_TEST(a_run_is_read_from_the_file_that_is_there)
{
    char seen[64] = "";
    int open_files[3] = {0};
    for (uint64_t i = 1; i <= 2; i++) {
        char value[2] = {(char)('0' + i)};
        submit(fixture, kept_of("a", value, NULL, NULL));
        wait_count(fixture, COUNT_STORED, i);
        store_each_kept_of(fixture->store, &run_7, see_kept, seen);
        open_files[i] = open_files_of(fixture);
        assert_int_equal(unlink(fixture->path), 0);
        see_when_free(fixture, seen);
    }
    assert_string_equal(seen, "a1a1a2a2");
    assert_true(open_files[1] > 0);
    assert_int_equal(open_files[1], open_files[2]);
}

static mode_t store_rights_of(const struct store_fixture *fixture, const char *suffix)
{
    char path[160];
    struct stat file;
    snprintf(path, sizeof path, "%s%s", fixture->path, suffix);
    assert_int_equal(stat(path, &file), 0);
    return file.st_mode & 0777;
}

/* With a window in the log, so that all files are there. */
static void assert_closed_to_others(struct store_fixture *fixture)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    fixture_open(fixture);
    store_window(fixture, 3, "state", 5);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(store_rights_of(fixture, suffixes[i]), 0600);
    }
    fixture_close(fixture);
}

STORE_TEST(nobody_else_reads_the_files)
{
    mode_t mask = umask(0);
    assert_closed_to_others(fixture);
    umask(mask);
}

STORE_TEST(files_that_others_could_read_are_closed_to_them)
{
    mode_t mask = umask(0);
    fixture_open(fixture);
    fixture_close(fixture);
    assert_int_equal(chmod(fixture->path, 0666), 0);
    assert_closed_to_others(fixture);
    umask(mask);
}
