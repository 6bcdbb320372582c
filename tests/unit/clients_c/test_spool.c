/* SPDX-License-Identifier: MIT */
/* The files of the reliable lane: what a process that was killed had written is there, whole, and
 * once. */
#include "tests/unit/proto/support.h"

#include "clients/c/src/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TENSOR_BYTES 1000

static char directory[] = "/tmp/attn-spool-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/attn-spool-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int count_files(void)
{
    DIR *folder = opendir(directory);
    struct dirent *file;
    int count = 0;

    assert_non_null(folder);
    while ((file = readdir(folder))) {
        count += file->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

static int remove_folder(void **state)
{
    char command[100];

    (void)state;
    snprintf(command, sizeof command, "rm -r %s", directory);
    return system(command);
}

static struct spool *spool_made(void)
{
    struct spool *spool;

    assert_int_equal(spool_open(directory, &spool), 0);
    return spool;
}

/* The message of a number: 0 when it was written. */
static int write_message(struct spool *spool, uint32_t number, struct spool_message *ret_message)
{
    char tensor[TENSOR_BYTES];
    const struct recording_frame frames[] = {
        {"event/unit/", 11}, {&number, sizeof number}, {tensor, sizeof tensor}};

    memset(tensor, (int)number, sizeof tensor);
    return spool_append(spool, 5, frames, 3, ret_message);
}

static uint32_t number_of(const struct spool_message *message)
{
    char data[11 + 4 + TENSOR_BYTES];
    uint32_t number;

    assert_int_equal(message->frame_count, 3);
    assert_int_equal(message->sizes[2], TENSOR_BYTES);
    assert_int_equal(spool_read(message, data), 0);
    assert_memory_equal(data, "event/unit/", 11);
    memcpy(&number, data + 11, sizeof number);
    assert_int_equal((uint8_t)data[sizeof data - 1], (uint8_t)number);
    return number;
}

/* Takes all that others have left, which has to be the numbers from 1 on. Returns how many. */
static uint32_t take_all(struct spool *spool, bool *ret_damaged)
{
    struct spool_message *messages;
    uint32_t taken = 0;
    bool damaged;
    size_t count;

    *ret_damaged = false;
    assert_int_equal(spool_look(spool), 0);
    while (spool_next(spool, &messages, &count, &damaged) > 0) {
        *ret_damaged = *ret_damaged || damaged;
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(number_of(&messages[i]), ++taken);
            spool_release(spool, &messages[i]);
        }
        free(messages);
    }
    return taken;
}

/* A process that writes so many messages, and is killed when it has. */
static void be_killed(uint32_t count)
{
    struct spool_message message;
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct spool *spool;

        if (spool_open(directory, &spool) != 0) {
            _exit(1);
        }
        for (uint32_t i = 1; i <= count; i++) {
            if (write_message(spool, i, &message) != 0) {
                _exit(1);
            }
        }
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

/* ---- the format ---- */

static size_t unhex(const char *text, uint8_t *to)
{
    size_t size = strlen(text) / 2;

    for (size_t i = 0; i < size; i++) {
        unsigned byte;

        assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
        to[i] = (uint8_t)byte;
    }
    return size;
}

static void test_a_segment_is_the_golden_file(void **state)
{
    json_t *said = json_load_file(GOLDEN_DIR "/spool/segment.json", 0, NULL);
    uint64_t now_ns = (uint64_t)json_integer_value(json_object_get(said, "time_ns"));
    struct spool *spool = spool_made();
    struct spool_message message;
    char command[300];
    size_t index;
    json_t *frames;

    (void)state;
    json_array_foreach(json_object_get(said, "messages"), index, frames)
    {
        struct recording_frame written[8];
        uint8_t bytes[8][64];
        uint32_t count = (uint32_t)json_array_size(frames);

        for (uint32_t i = 0; i < count; i++) {
            size_t size = unhex(json_string_value(json_array_get(frames, i)), bytes[i]);

            written[i] = (struct recording_frame){bytes[i], size};
        }
        assert_int_equal(spool_append(spool, now_ns, written, count, &message), 0);
    }
    snprintf(command, sizeof command, "cmp %s/*-00000001.rec %s/spool/segment.rec", directory,
             GOLDEN_DIR);
    assert_int_equal(system(command), 0);
    json_decref(said);
    spool_close(spool);
}

static void test_the_golden_file_is_read(void **state)
{
    struct spool *spool = spool_made();
    struct spool_message *messages;
    char command[300], data[300];
    bool damaged;
    size_t count;

    (void)state;
    snprintf(command, sizeof command, "cp %s/spool/segment.rec %s/00112233aabbccdd-00000007.rec",
             GOLDEN_DIR, directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(spool_look(spool), 0);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), 1);
    assert_int_equal(count, 3);
    assert_false(damaged);
    assert_int_equal(messages[0].frame_count, 4);
    assert_int_equal(messages[1].sizes[0], strlen("event/gpt-small/"));
    assert_int_equal(spool_read(&messages[1], data), 0);
    assert_memory_equal(data, "event/gpt-small/", messages[1].sizes[0]);
    assert_int_equal(count_files(), 3); /* our lock, and its own */
    for (size_t i = 0; i < count; i++) {
        spool_release(spool, &messages[i]);
    }
    free(messages);
    assert_int_equal(count_files(), 1);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), 0);
    spool_close(spool);
}

/* ---- whose files they are ---- */

static void test_what_a_killed_process_left_is_taken_over_once(void **state)
{
    struct spool *first, *second;
    bool damaged;

    (void)state;
    be_killed(10000); /* several segments */
    first = spool_made();
    second = spool_made();
    assert_int_equal(take_all(first, &damaged), 10000);
    assert_false(damaged);
    assert_int_equal(take_all(second, &damaged), 0);
    spool_close(first);
    spool_close(second);
    assert_int_equal(count_files(), 0);
}

static void test_the_living_keep_what_is_theirs(void **state)
{
    struct spool *owner = spool_made(), *other = spool_made();
    struct spool_message message;
    bool damaged;

    (void)state;
    assert_int_equal(write_message(owner, 1, &message), 0);
    assert_int_equal(take_all(other, &damaged), 0);
    assert_int_equal(number_of(&message), 1);
    spool_close(owner); /* with a message that is not acknowledged */
    assert_int_equal(take_all(other, &damaged), 1);
    spool_close(other);
    assert_int_equal(count_files(), 0);
}

static int count_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    assert_non_null(folder);
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

/* However many were killed, the trainer's descriptors suffice. */
static void test_few_files_are_open(void **state)
{
    enum { KILLED = 100, FEW = 25 };
    struct spool_message message, *messages[KILLED + 1]; /* and the answer that there are no more */
    struct spool *spool;
    uint32_t taken = 0, released = 0, round = 0;
    int before = count_descriptors();
    struct rlimit limit, small;
    bool damaged;
    size_t count;

    (void)state;
    for (int i = 0; i < KILLED; i++) {
        be_killed(1);
    }
    spool = spool_made();
    assert_int_equal(spool_look(spool), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    small = limit;
    small.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    assert_int_equal(spool_next(spool, &messages[0], &count, &damaged), -1);
    assert_int_equal(errno, EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    do { /* those that it takes at a time */
        while (spool_next(spool, &messages[taken], &count, &damaged) > 0) {
            assert_int_equal(count, 1);
            taken++;
            assert_true(count_descriptors() < before + FEW);
        }
        for (; released < taken; released++) {
            assert_int_equal(number_of(messages[released]), 1);
            spool_release(spool, messages[released]);
            free(messages[released]);
        }
    } while (taken < KILLED && released > round && (round = released) > 0);
    assert_int_equal(taken, KILLED);
    for (uint32_t i = 0; i < 200000; i++) { /* many segments of its own */
        assert_int_equal(write_message(spool, i, &message), 0);
    }
    assert_int_equal(number_of(&message), 199999);
    spool_release(spool, &message);
    assert_true(count_descriptors() < before + FEW);
    spool_close(spool);
    assert_int_equal(count_descriptors(), before);
}

/* Whatever cannot be read holds nothing up. */
static void test_what_cannot_be_read_holds_nothing_up(void **state)
{
    struct spool *spool = spool_made();
    struct spool_message *messages;
    char command[400];
    bool damaged;
    size_t count;
    int rc, passed = 0;

    (void)state;
    snprintf(
        command, sizeof command,
        "for i in $(seq 10 90); do head -c 100 /dev/zero > "
        "%s/000000000000${i}00-00000001.rec; done; cd %s; mkdir 00000000000000d1-00000001.rec; "
        "mkfifo 00000000000000d2-00000001.rec; truncate -s 1T 00000000000000d3-00000001.rec; "
        "mkdir 0000000000001000.lock",
        directory, directory);
    assert_int_equal(system(command), 0);
    be_killed(1);
    assert_int_equal(spool_look(spool), 0);
    while ((rc = spool_next(spool, &messages, &count, &damaged)) < 0) {
        passed++;
    }
    while (rc > 0) {
        spool_release(spool, &messages[0]);
        free(messages);
        while ((rc = spool_next(spool, &messages, &count, &damaged)) < 0) {
            passed++;
        }
    }
    assert_int_equal(passed, 83);
    spool_close(spool);
    assert_int_equal(count_files(), 85);
}

/* The child's copy of the lock would outlive the parent. */
static void test_a_fork_gives_the_locks_back(void **state)
{
    enum { SPOOLS = 200 };
    struct spool *spools[SPOOLS], *owner, *other;
    struct spool_message message;
    int awake[2];
    bool damaged;
    pid_t child;

    (void)state;
    for (int i = 0; i < SPOOLS; i++) { /* which all have a lock */
        spools[i] = spool_made();
    }
    owner = spool_made();
    other = spool_made();
    assert_int_equal(pipe(awake), 0);
    assert_int_equal(write_message(owner, 1, &message), 0);
    child = fork();
    if (child == 0) {
        char byte;

        close(awake[1]);
        _exit(read(awake[0], &byte, 1) == 0 ? 0 : 1);
    }
    /* The child may still hold the lock for a moment. */
    spool_close(owner);
    for (int i = 0; i < 60000 && take_all(other, &damaged) == 0; i++) {
        usleep(1000);
    }
    for (int i = 0; i < SPOOLS; i++) {
        spool_close(spools[i]);
    }
    assert_int_equal(count_files(), 1);
    close(awake[1]);
    close(awake[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    spool_close(other);
}

static void test_a_segment_is_used_again_when_it_is_empty(void **state)
{
    struct spool *spool = spool_made();
    struct spool_message message;

    (void)state;
    for (uint32_t i = 0; i < 20000; i++) {
        assert_int_equal(write_message(spool, i, &message), 0);
        assert_int_equal(number_of(&message), i);
        spool_release(spool, &message);
    }
    assert_int_equal(count_files(), 2);
    spool_close(spool);
    assert_int_equal(count_files(), 0);
}

/* ---- what is not whole ---- */

/* Changes the only segment of a process that was killed, and takes what is left of it. */
static uint32_t taken_after(const char *change, bool *ret_damaged)
{
    struct spool *spool;
    char command[300];
    uint32_t taken;

    be_killed(3);
    snprintf(command, sizeof command, "f=$(ls %s/*.rec) && %s", directory, change);
    assert_int_equal(system(command), 0);
    spool = spool_made();
    taken = take_all(spool, ret_damaged);
    spool_close(spool);
    return taken;
}

static void test_a_message_that_is_not_whole_is_left_out(void **state)
{
    static const char *const changes[] = {
        "truncate -s -1 $f",
        "truncate -s -1015 $f",
        "truncate -s -1050 $f",
        "printf X | dd of=$f bs=1 seek=2500 conv=notrunc status=none",
        "printf X | dd of=$f bs=1 seek=2175 conv=notrunc status=none",
    };
    bool damaged;

    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        assert_int_equal(taken_after(changes[i], &damaged), 2);
        assert_true(damaged);
        assert_int_equal(count_files(), 0);
    }
    assert_int_equal(taken_after("truncate -s 20 $f", &damaged), 0);
    assert_true(damaged);
    assert_int_equal(taken_after("truncate -s 0 $f", &damaged), 0);
    assert_false(damaged);
    assert_int_equal(count_files(), 0);
}

static void test_a_file_of_something_else_stays(void **state)
{
    struct spool *spool = spool_made();
    struct spool_message *messages;
    char command[300];
    bool damaged;
    size_t count;

    (void)state;
    snprintf(command, sizeof command,
             "head -c 100 /dev/zero > %s/00112233aabbccdd-00000001.rec && touch %s/notes.txt "
             "%s/00112233aabbccdd-1.rec",
             directory, directory, directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(spool_look(spool), 0);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), -1);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), 0);
    spool_close(spool);
    assert_int_equal(count_files(), 3);
}

static void test_what_others_can_write_to_is_not_taken(void **state)
{
    struct spool_message *messages, message;
    struct spool *spool = spool_made(), *none;
    char command[100];
    bool damaged;
    size_t count;

    (void)state;
    assert_int_equal(write_message(spool, 1, &message), 0);
    spool_close(spool);
    snprintf(command, sizeof command, "chmod 620 %s/*.rec", directory);
    assert_int_equal(system(command), 0);
    spool = spool_made();
    assert_int_equal(spool_look(spool), 0);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), -1);
    assert_int_equal(errno, EPERM);
    spool_close(spool);
    assert_int_equal(count_files(), 1);
    assert_int_equal(chmod(directory, 0707), 0);
    assert_int_equal(spool_open(directory, &none), -1);
    assert_int_equal(errno, EPERM);
}

static void test_what_is_left_is_for_whoever_comes_next(void **state)
{
    struct spool *spool = spool_made(), *next;
    struct spool_message *messages, message;
    bool damaged;
    size_t count;

    (void)state;
    for (uint32_t number = 1; number <= 3; number++) {
        assert_int_equal(write_message(spool, number, &message), 0);
    }
    spool_close(spool);
    spool = spool_made();
    assert_int_equal(spool_look(spool), 0);
    assert_int_equal(spool_next(spool, &messages, &count, &damaged), 1);
    assert_int_equal(count, 3);
    assert_true(spool_same_owner(&messages[0], &messages[2]));
    spool_release(spool, &messages[1]);
    spool_leave(spool, &messages[0]);
    free(messages);
    next = spool_made();
    assert_int_equal(take_all(spool, &damaged), 0); /* never again */
    assert_int_equal(take_all(next, &damaged), 3);
    spool_close(spool);
    spool_close(next);
    assert_int_equal(count_files(), 0);
}

/* A limit of sizes cuts a write short as a full disk does, and then fails it. */
static void test_a_full_disk_leaves_what_was_there(void **state)
{
    struct rlimit before, small;
    struct spool_message messages[3], none;
    struct spool *spool = spool_made();

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 2500; /* two messages */
    assert_int_equal(write_message(spool, 1, &messages[0]), 0);
    assert_int_equal(write_message(spool, 2, &messages[1]), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(write_message(spool, 3, &none), -1);
    assert_int_equal(errno, EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(write_message(spool, 3, &messages[2]), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(number_of(&messages[i]), i + 1);
    }
    spool_close(spool);
    spool = spool_made();
    assert_int_equal(take_all(spool, &(bool){false}), 3);
    spool_close(spool);
}

static void test_a_directory_is_made_or_refused(void **state)
{
    struct spool *spool;
    char path[200];

    (void)state;
    snprintf(path, sizeof path, "%s/a/b", directory);
    assert_int_equal(spool_open(path, &spool), 0);
    spool_close(spool);
    snprintf(path, sizeof path, "%s/notes.txt", directory);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    strcat(path, "/c");
    assert_int_equal(spool_open(path, &spool), -1);
    assert_int_equal(errno, ENOTDIR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_segment_is_the_golden_file, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_the_golden_file_is_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_what_a_killed_process_left_is_taken_over_once,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_the_living_keep_what_is_theirs, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_few_files_are_open, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_holds_nothing_up, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_fork_gives_the_locks_back, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_segment_is_used_again_when_it_is_empty, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_message_that_is_not_whole_is_left_out, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_file_of_something_else_stays, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_what_others_can_write_to_is_not_taken, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_what_is_left_is_for_whoever_comes_next, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_full_disk_leaves_what_was_there, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(test_a_directory_is_made_or_refused, make_folder,
                                        remove_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
