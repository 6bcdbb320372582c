/* SPDX-License-Identifier: MIT */
/* A file that cannot be a history is left alone, and attnd runs without. */
#include "tests/unit/daemon/store/fixture.h"

#include "tests/unit/unit.h"

#include "daemon/store/file.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void store_off_assert_reason(struct store_fixture *fixture, const char *expected)
{
    const char *reason;
    log_capture();
    reason = fixture_reason(fixture);
    int logged = log_release("event=history_off");
    if (!strstr(reason, expected)) {
        fail_msg("'%s' is not in '%s'", expected, reason);
    }
    assert_int_equal(logged, 1);
}

static void set_path(struct store_fixture *fixture, const char *path)
{
    strcpy(fixture->config.history_path.text, path);
}

static void store_off_put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

OPEN_STORE_TEST(a_second_attnd_has_no_history)
{
    store_off_assert_reason(fixture, "history.db: another attnd is using it");
    submit_window(fixture, 1, "x", 1);
    fixture_close(fixture);
    assert_answer(fixture, 1, "SELECT count(*) FROM windows");
    fixture_open(fixture);
}

OPEN_STORE_TEST(a_newer_database_is_left_alone)
{
    fixture_close(fixture);
    change(fixture, "PRAGMA user_version = 99");
    store_off_assert_reason(fixture, "history.db: a newer attnd wrote it: "
                                     "update this one, or name another file (history.path)");
    assert_answer(fixture, 99, "SELECT user_version FROM pragma_user_version");
    assert_int_equal(count_files(fixture, "corrupt"), 0);
}

STORE_TEST(store_off_a_database_of_another_program_is_left_alone)
{
    change(fixture, "CREATE TABLE mine(x)");
    store_off_assert_reason(fixture, "history.db: it is a database of another program");
    assert_answer(fixture, 1, "SELECT count(*) FROM sqlite_schema");
}

STORE_TEST(a_file_that_is_no_database_is_left_alone)
{
    store_off_put_file(fixture->path, "a letter to my aunt");
    store_off_assert_reason(fixture, "history.db: the file is there and is not a database");
    store_off_assert_reason(fixture, "history.db: the file is there and is not a database");
    assert_int_equal(count_files(fixture, ""), 1);
}

STORE_TEST(a_path_through_a_file_cannot_be)
{
    char path[256];
    store_off_put_file(fixture->path, "");
    snprintf(path, sizeof path, "%s/history.db", fixture->path);
    set_path(fixture, path);
    store_off_assert_reason(fixture, "history.db.lock: Not a directory");
}

STORE_TEST(the_directory_that_cannot_be_made_is_named)
{
    set_path(fixture, "/proc/none/attnd/history.db");
    store_off_assert_reason(fixture, "/proc/none: No such file or directory");
}

STORE_TEST(a_directory_is_no_database)
{
    set_path(fixture, fixture->directory);
    store_off_assert_reason(fixture, "it is not a regular file");
}

STORE_TEST(directories_are_made)
{
    char path[256], *end;
    struct stat made;
    snprintf(path, sizeof path, "%s/a/b/history.db", fixture->directory);
    set_path(fixture, path);
    fixture_open(fixture);
    fixture_close(fixture);
    assert_int_equal(remove(path), 0);
    assert_int_equal(remove(strcat(path, ".lock")), 0);
    for (int i = 0; i < 2; i++) {
        end = strrchr(path, '/');
        *end = '\0';
        assert_int_equal(stat(path, &made), 0);
        assert_int_equal(made.st_mode & 0777, 0700);
        assert_int_equal(rmdir(path), 0);
    }
}

STORE_TEST(history_can_be_switched_off)
{
    struct store_batch *batch = batch_of(7, 1);
    fixture->config.history_enabled = false;
    assert_string_equal(fixture_reason(fixture), "history.enabled is false");
    assert_int_equal(store_new(&fixture->config, &fixture->stats, &fixture->store), 0);
    assert_false(store_submit(fixture->store, &batch));
    assert_int_equal(stats_get(&fixture->stats, COUNT_STORE_DROPPED), 1);
    assert_int_equal(count_files(fixture, ""), 0);
}

/* As a user who may not write; root may everything. Returns what the exit status of `child` was. */
static int as_somebody(int (*child)(void *data), void *data)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgroups(0, NULL) || setgid(65534) || setuid(65534))) {
            _exit(99);
        }
        _exit(child(data));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether history is off with this reason. */
struct off {
    struct store_fixture *fixture;
    const char *expected;
};

static int store_off_is_off(void *data)
{
    const struct off *off = data;
    const char *reason = "";
    struct store *store;
    if (store_new(&off->fixture->config, &off->fixture->stats, &store) ||
        store_path(store, &reason)) {
        return 1;
    }
    if (!strstr(reason, off->expected)) {
        fprintf(stderr, "'%s' is not in '%s'\n", off->expected, reason);
        return 2;
    }
    store_free(&store);
    return 0;
}

STORE_TEST(a_directory_that_cannot_be_written_is_no_place)
{
    struct off off = {fixture, "history.db.lock: Permission denied"};
    assert_int_equal(chmod(fixture->directory, 0555), 0);
    assert_int_equal(as_somebody(store_off_is_off, &off), 0);
    assert_int_equal(chmod(fixture->directory, 0755), 0);
}

OPEN_STORE_TEST(a_file_that_can_only_be_read_is_left_alone)
{
    struct off off = {fixture, "history.db: it can only be read"};
    char lock[256];
    fixture_close(fixture);
    snprintf(lock, sizeof lock, "%s.lock", fixture->path);
    assert_int_equal(chmod(lock, 0666), 0);
    assert_int_equal(chmod(fixture->path, 0444), 0);
    assert_int_equal(chmod(fixture->directory, 0777), 0);
    assert_int_equal(as_somebody(store_off_is_off, &off), 0);
    assert_int_equal(count_files(fixture, "corrupt"), 0);
}

/* The default place */

static int check_default_path(void *data)
{
    char path[STORE_PATH_MAX], reason[STORE_REASON_MAX];
    (void)data;
    setenv("XDG_STATE_HOME", "/x", 1);
    setenv("HOME", "/h", 1);
    if (store_file_path("", path, reason) || strcmp(path, "/x/attnd/history.db")) {
        return 1;
    }
    setenv("XDG_STATE_HOME", "relative", 1);
    if (store_file_path("", path, reason) || strcmp(path, "/h/.local/state/attnd/history.db")) {
        return 2;
    }
    setenv("HOME", "", 1);
    if (!store_file_path("", path, reason) || !strstr(reason, "HOME")) {
        return 3;
    }
    return store_file_path("mine.db", path, reason) || strcmp(path, "mine.db") ? 4 : 0;
}

STORE_TEST(the_default_path_follows_the_environment)
{
    assert_int_equal(as_somebody(check_default_path, NULL), 0);
}
