/* SPDX-License-Identifier: MIT */
/* Being killed: what is there is what the first batches said, without a gap. */
#include "tests/unit/daemon/store/fixture.h"

#include "daemon/store/store_internal.h"

#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* The state of every window: one that cannot be read would be repaired. */
static const msgpack_sbuffer *store_kill_state(void)
{
    static struct mpk_writer packed;
    if (packed.buffer.size == 0) {
        pack_state(1, &packed);
    }
    return &packed.buffer;
}

#define POSITIONS 200

static pid_t start_child(struct store_fixture *fixture, const char *crash_at)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        return pid;
    }
    if (crash_at) {
        setenv("ATTND_CRASH_AT", crash_at, 1);
    }
    if (store_new(&fixture->config, &fixture->stats, &fixture->store)) {
        _exit(97);
    }
    for (uint64_t last = 0; last < POSITIONS; last++) {
        /* Windows, each in one batch with the position that goes with it. */
        const msgpack_sbuffer *packed = store_kill_state();
        char position[24];
        struct store_batch *batch = batch_of(7, last);
        struct store_window window = window_of(last, packed->data, packed->size);
        snprintf(position, sizeof position, "%d", (int)last);
        if (!batch || batch_window(batch, &window) ||
            batch_keep(batch, "position", position, strlen(position)) ||
            !store_submit(fixture->store, &batch)) {
            _exit(98);
        }
        if (last % 50 == 49) { /* several commits */
            wait_count(fixture, COUNT_STORED, 2 * (last + 1));
        }
    }
    store_free(&fixture->store);
    _exit(0);
}

/* The database holds the first batches, without a gap. Returns how many. */
static int64_t assert_prefix(struct store_fixture *fixture)
{
    assert_sound(fixture);
    int64_t windows = ask(fixture, "SELECT count(*) FROM windows");
    assert_answer(fixture, windows, "SELECT coalesce(max(last) + 1, 0) FROM windows");
    assert_answer(fixture, windows,
                  "SELECT coalesce(max(CAST(value AS INTEGER)) + 1, 0) FROM kept");
    assert_answer(fixture, windows, "SELECT count(*) FROM states");
    return windows;
}

/* A database that was left behind is used again. */
static void assert_goes_on(struct store_fixture *fixture)
{
    int64_t before = ask(fixture, "SELECT count(*) FROM windows");
    uint64_t to = POSITIONS + 1;
    const msgpack_sbuffer *packed = store_kill_state();
    fixture_open(fixture);
    for (uint64_t last = POSITIONS; last < to; last++) {
        submit_window(fixture, last, packed->data, packed->size);
    }
    fixture_close(fixture);
    assert_answer(fixture, before + 1, "SELECT count(*) FROM windows");
    assert_int_equal(count_files(fixture, "corrupt"), 0);
    assert_sound(fixture);
}

static void kill_at(struct store_fixture *fixture, const char *point)
{
    int status = 0;
    pid_t pid = start_child(fixture, point);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status)) {
        fail_msg("%s was not passed: %d", point, status);
    }
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

/* The test goes on with another store. */
static void renew(struct store_fixture *fixture)
{
    fixture_end(fixture);
    memset(fixture, 0, sizeof *fixture);
    fixture_begin(fixture);
}

STORE_TEST(killed_in_a_commit_it_has_a_prefix)
{
    static const char *const points[] = {"store_begin:3", "store_before_commit:3",
                                         "store_after_commit:3", "store_chunk"};
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        kill_at(fixture, points[i]);
        int64_t windows = assert_prefix(fixture);
        assert_in_range(windows, 1, POSITIONS);
        assert_answer(fixture, ask(fixture, "SELECT coalesce(sum(count), 0) FROM chunks"),
                      "SELECT count(*) FROM windows WHERE chunk_id IS NOT NULL");
        if (!strcmp(points[i], "store_chunk")) {
            assert_answer(fixture, 0, "SELECT count(*) FROM chunks");
        }
        renew(fixture);
    }
}

STORE_TEST(killed_in_retention_it_is_sound)
{
    fixture->config.history_max_size = 1 << 20;
    kill_at(fixture, "store_retention:2"); /* one step was taken: of windows, or of states */
    assert_sound(fixture);
    assert_answer(fixture, 1,
                  "SELECT (SELECT min(last) FROM windows) = 1"
                  " OR (SELECT sum(bare) FROM chunks) = 1");
    assert_answer(fixture, 1, "SELECT max(last) - min(last) + 1 = count(*) FROM windows");
    fixture->config.history_max_size = 1 << 30;
    assert_goes_on(fixture);
}

STORE_TEST(killed_at_any_time_it_has_a_prefix)
{
    for (int round = 0; round < 12; round++) {
        int status = 0;
        pid_t pid = start_child(fixture, NULL);
        usleep((useconds_t)(2000 + 5003 * round));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (count_files(fixture, "history.db") > 1 &&
            ask(fixture, "SELECT 1 FROM meta LIMIT 1") == 1) {
            assert_prefix(fixture);
            assert_goes_on(fixture);
        }
        renew(fixture);
    }
}
