/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/base/clock.h"
#include "tests/unit/daemon/state/measured.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(60000000000)

void fixture_begin(struct store_fixture *fixture)
{
    strcpy(fixture->directory, "/tmp/attnd-store-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    snprintf(fixture->path, sizeof fixture->path, "%s/history.db", fixture->directory);
    config_defaults(&fixture->config);
    strcpy(fixture->config.history_path.text, fixture->path);
    fixture->config.history_commit = 10000000;
}

static void each_file(struct store_fixture *fixture, void (*visit)(const char *path, void *data),
                      void *data)
{
    char path[400];
    DIR *directory = opendir(fixture->directory);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        snprintf(path, sizeof path, "%s/%s", fixture->directory, entry->d_name);
        if (entry->d_name[0] != '.') {
            visit(path, data);
        }
    }
    closedir(directory);
}

static void remove_file(const char *path, void *data)
{
    (void)data;
    remove(path);
}

void fixture_end(struct store_fixture *fixture)
{
    store_free(&fixture->store);
    each_file(fixture, remove_file, NULL);
    rmdir(fixture->directory);
}

void fixture_open(struct store_fixture *fixture)
{
    const char *reason = "";
    assert_int_equal(store_new(&fixture->config, &fixture->stats, &fixture->store), 0);
    if (!store_path(fixture->store, &reason)) {
        fail_msg("%s", reason);
    }
}

void fixture_begin_open(struct store_fixture *fixture)
{
    fixture_begin(fixture);
    fixture_open(fixture);
}

void fixture_close(struct store_fixture *fixture)
{
    store_free(&fixture->store);
}

void fixture_reopen(struct store_fixture *fixture)
{
    fixture_close(fixture);
    fixture_open(fixture);
}

const char *fixture_reason(struct store_fixture *fixture)
{
    static char text[8192];
    const char *reason = NULL;
    OWNED(store_free) struct store *store;
    assert_int_equal(store_new(&fixture->config, &fixture->stats, &store), 0);
    assert_null(store_path(store, &reason));
    snprintf(text, sizeof text, "%s", reason);
    return text;
}

struct store_batch *batch_of(uint8_t run, uint64_t epoch)
{
    const uint8_t id[RUN_BYTES] = {run};
    const struct store_run head = {"j", id, JOB_ACTIVE, 2, epoch, epoch * 10, 1000 + epoch};
    struct store_batch *batch = batch_new(&head);
    assert_non_null(batch);
    return batch;
}

struct store_window window_of(uint64_t last, const void *state, size_t size)
{
    return (struct store_window){
        .layer = {STACK_DECODER, 0, SITE_SELF},
        .heads = 3,
        .window = {WINDOW_EPOCH, last, last, 1, 1, false},
        .final = true,
        .epoch = last,
        .step = last * 10,
        .time_ns = 1000 + last,
        .messages = 4,
        .lost = 1,
        .state = state,
        .state_size = size,
    };
}

void submit(struct store_fixture *fixture, struct store_batch *batch)
{
    assert_true(store_submit(fixture->store, &batch));
    assert_null(batch);
}

void submit_window(struct store_fixture *fixture, uint64_t last, const void *state, size_t size)
{
    struct store_batch *batch = batch_of(7, last);
    struct store_window window = window_of(last, state, size);
    assert_int_equal(batch_window(batch, &window), 0);
    submit(fixture, batch);
}

void store_window(struct store_fixture *fixture, uint64_t last, const void *state, size_t size)
{
    uint64_t before = stats_get(&fixture->stats, COUNT_STORED);
    submit_window(fixture, last, state, size);
    wait_count(fixture, COUNT_STORED, before + 1);
}

void pack_state(uint64_t seed, struct mpk_writer *ret_packed)
{
    OWNED(layer_state_free) struct layer_state *state = layer_state_new(3, 48);
    assert_non_null(state);
    for (uint64_t i = 0; i < 2; i++) {
        struct measured_options options = {
            .batch = 2, .heads = 3, .size = 8, .sharpness = 2.0, .seed = 2 * seed + i};
        struct measured_message *message = measured_message_new(&options, i + 1);
        assert_non_null(message);
        assert_int_equal(
            layer_state_add(state, &message->message, measure_result(message->measure)), 0);
        measured_message_free(&message);
    }
    mpk_writer_init(ret_packed);
    assert_int_equal(layer_state_pack(state, ret_packed), 0);
}

/* Looking */

void wait_count(struct store_fixture *fixture, enum counter counter, uint64_t least)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    while (stats_get(&fixture->stats, counter) < least && clock_monotonic_ns() < end) {
        usleep(500);
    }
    assert_true(stats_get(&fixture->stats, counter) >= least);
}

void wait_answer(struct store_fixture *fixture, const char *sql, int64_t answer)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    while (ask(fixture, sql) != answer && clock_monotonic_ns() < end) {
        usleep(2000);
    }
    assert_int_equal(ask(fixture, sql), answer);
}

static sqlite3 *store_fixture_connect_to(struct store_fixture *fixture, int flags)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open_v2(fixture->path, &db, flags, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 60000);
    return db;
}

int64_t ask(struct store_fixture *fixture, const char *sql)
{
    sqlite3 *db = store_fixture_connect_to(fixture, SQLITE_OPEN_READONLY);
    sqlite3_stmt *statement = NULL;
    int64_t answer = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        answer = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return answer;
}

void assert_answer(struct store_fixture *fixture, int64_t answer, const char *sql)
{
    int64_t found = ask(fixture, sql);
    if (found != answer) {
        fail_msg("%lld, not %lld: %s", (long long)found, (long long)answer, sql);
    }
}

void change(struct store_fixture *fixture, const char *sql)
{
    sqlite3 *db = store_fixture_connect_to(fixture, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

void assert_sound(struct store_fixture *fixture)
{
    assert_answer(fixture, 1, "SELECT quick_check = 'ok' FROM pragma_quick_check");
}

struct counting {
    const char *part;
    int count;
};

static void count_file(const char *path, void *data)
{
    struct counting *counting = data;
    counting->count += strstr(strrchr(path, '/'), counting->part) != NULL;
}

int count_files(struct store_fixture *fixture, const char *part)
{
    struct counting counting = {part, 0};
    each_file(fixture, count_file, &counting);
    return counting.count;
}

/* The log */

static int saved_stderr = -1, log_file = -1;

void log_capture(void)
{
    char path[] = "/tmp/attnd-log-XXXXXX";
    log_file = mkstemp(path);
    assert_true(log_file >= 0);
    unlink(path);
    saved_stderr = dup(STDERR_FILENO);
    dup2(log_file, STDERR_FILENO);
}

int log_release(const char *text)
{
    static char log[65536];
    int count = 0;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t length = pread(log_file, log, sizeof log - 1, 0);
    log[length > 0 ? length : 0] = '\0';
    close(log_file);
    for (const char *at = log; (at = strstr(at, text)); at += strlen(text)) {
        count++;
    }
    return count;
}
