/* SPDX-License-Identifier: MIT */
/* The directory's owner and mode, and that one attnd at a time has it. */
#include "tests/unit/unit.h"

#include "config/config.h"
#include "daemon/base/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char parent[32], path[64];

static int directory_setup(void **state)
{
    (void)state;
    strcpy(parent, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(parent));
    snprintf(path, sizeof path, "%s/attnd", parent);
    return 0;
}

static int directory_teardown(void **state)
{
    (void)state;
    if (rmdir(path) != 0) {
        unlink(path);
    }
    return rmdir(parent);
}

#define DIRECTORY_TEST(name) TEST_WITH(name, directory_setup, directory_teardown)

static int test_directory_take(bool is_default)
{
    char error[CONFIG_ERROR_MAX] = "";
    int fd = directory_take(path, is_default, error);
    assert_string_equal(error, "");
    assert_true(fd >= 0);
    return fd;
}

static void test_directory_refuse(bool is_default, int code, const char *part)
{
    char error[CONFIG_ERROR_MAX] = "", expected[CONFIG_ERROR_MAX];
    assert_int_equal(directory_take(path, is_default, error), code);
    snprintf(expected, sizeof expected, "%s: %s", path, part);
    assert_string_equal(error, expected);
}

static mode_t mode_of(const char *of)
{
    struct stat status;
    assert_int_equal(lstat(of, &status), 0);
    return status.st_mode & 07777;
}

DIRECTORY_TEST(it_is_made_for_this_user_alone)
{
    int fd = test_directory_take(true);
    assert_int_equal(mode_of(path), 0700);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(directory_is_here(path, fd));
    close(fd);
}

DIRECTORY_TEST(one_at_a_time_has_it)
{
    int fd = test_directory_take(true);
    test_directory_refuse(true, -1,
                          "another attnd runs here: stop it, or give this one another --address");
    close(fd);
    close(test_directory_take(true));
}

DIRECTORY_TEST(one_that_is_made_again_is_another)
{
    int fd = test_directory_take(true);
    assert_int_equal(rmdir(path), 0);
    assert_false(directory_is_here(path, fd));
    int next = test_directory_take(true); /* the lock of the one that has gone is in nobody's way */
    assert_false(directory_is_here(path, fd));
    assert_true(directory_is_here(path, next));
    close(fd);
    close(next);
}

DIRECTORY_TEST(links_and_files_are_none)
{
    assert_int_equal(symlink(parent, path), 0);
    test_directory_refuse(false, -1, "not a directory: give another --address");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    test_directory_refuse(false, -1, "not a directory: give another --address");
    assert_int_equal(unlink(path), 0);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    test_directory_refuse(true, -1, "not a directory: remove it, or give another --address");
}

DIRECTORY_TEST(others_write_to_none_and_look_into_no_default)
{
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0720), 0);
    test_directory_refuse(false, -1, "others can write to it (mode 0720): give another --address");
    assert_int_equal(chmod(path, 0750), 0);
    test_directory_refuse(
        true, -1, "others can look into it (mode 0750): chmod 700 it, or give another --address");
    close(test_directory_take(false));
    assert_int_equal(mode_of(path), 0750);
}

DIRECTORY_TEST(a_parent_that_is_missing_or_closed)
{
    snprintf(path, sizeof path, "%s/missing/attnd", parent);
    test_directory_refuse(
        true, -ENOENT,
        "cannot make this directory: No such file or directory (its parent is missing)");
    snprintf(path, sizeof path, "/proc/attnd");
    test_directory_refuse(
        true, -ENOENT,
        "cannot make this directory: No such file or directory (its parent is missing)");
    snprintf(path, sizeof path, "%s/attnd", parent);
}
