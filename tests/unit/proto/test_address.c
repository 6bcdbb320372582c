/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/address.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char directory[] = "/tmp/attnd-address-XXXXXX", place[64], endpoint[ADDRESS_MAX],
            reason[ADDRESS_REASON_MAX];

/* $XDG_RUNTIME_DIR is a fresh directory, and `place` the first place below it. */
static int address_set_up(void **state)
{
    (void)state;
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(place, sizeof place, "%s/attnd", directory);
    assert_int_equal(mkdir(place, 0700), 0);
    setenv("XDG_RUNTIME_DIR", directory, 1);
    unsetenv("ATTND_ADDRESS");
    return 0;
}

static int address_tear_down(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/control", place);
    unlink(path);
    rmdir(place);
    rmdir(directory);
    return 0;
}

#define ADDRESS_TEST(name) TEST_WITH(name, address_set_up, address_tear_down)

/* A socket file at place/control; closing the result leaves it behind, as a kill does. */
static int listen_there(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control", place);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* The next part of a line of the table. */
static char *next_field(char **line)
{
    char *field = strsep(line, "|\n");
    assert_non_null(field);
    return field;
}

static void address_check_endpoint(const char *address, enum address_socket which,
                                   const char *expected)
{
    assert_int_equal(address_endpoint(address, which, endpoint, reason), 0);
    assert_string_equal(endpoint, expected);
}

static void check_places(uid_t uid, const char *runtime_dir, char *expected)
{
    struct address_places places;
    address_places(uid, runtime_dir, &places);
    for (int i = 0; i < places.count; i++) {
        assert_string_equal(places.directory[i], strsep(&expected, " "));
    }
    assert_null(expected);
}

/* The Python client goes by the same table. */
ADDRESS_TEST(the_table_of_addresses)
{
    char text[1024];
    int lines = 0;
    FILE *table = fopen(GOLDEN_DIR "/addresses.txt", "r");
    assert_non_null(table);
    for (; fgets(text, sizeof text, table); lines++) {
        char *line = text, *kind = next_field(&line);
        if (*kind == '#') {
            continue;
        }
        char *first = next_field(&line), *second = next_field(&line);
        if (strcmp(kind, "ok") == 0) {
            address_check_endpoint(first, ADDRESS_INGEST, second);
            address_check_endpoint(first, ADDRESS_TAP, next_field(&line));
        } else if (strcmp(kind, "places") == 0) {
            check_places((uid_t)strtoul(first, NULL, 10), second, next_field(&line));
        } else {
            assert_string_equal(kind, "bad");
            assert_int_equal(address_endpoint(first, ADDRESS_INGEST, endpoint, reason), -1);
            assert_string_equal(reason, second);
        }
    }
    fclose(table);
    assert_true(lines > 20);
}

ADDRESS_TEST(the_daemon_binds_where_its_clients_look)
{
    address_default(1000, "/run/user/1000", endpoint);
    assert_string_equal(endpoint, "/run/user/1000/attnd");
    address_default(1000, NULL, endpoint);
    assert_string_equal(endpoint, "/tmp/attnd-1000");
    address_default(1000, "relative", endpoint);
    assert_string_equal(endpoint, "/tmp/attnd-1000");
}

ADDRESS_TEST(only_a_directory_that_nobody_else_writes_is_trusted)
{
    char other[96];
    assert_int_equal(address_is_trusted(place, getuid(), reason), 0);
    chmod(place, 0750);
    assert_int_equal(address_is_trusted(place, getuid(), reason), 0);
    chmod(place, 0770);
    assert_int_equal(address_is_trusted(place, getuid(), reason), -1);
    assert_non_null(strstr(reason, "others can write to it (mode 0770)"));
    chmod(place, 0700);
    snprintf(other, sizeof other, "%s/link", directory);
    assert_int_equal(symlink(place, other), 0);
    assert_int_equal(address_is_trusted(other, getuid(), reason), -1);
    assert_non_null(strstr(reason, "not a directory"));
    unlink(other);
    assert_int_equal(address_is_trusted(other, getuid(), reason), -ENOENT);
    if (getuid() != 0) {
        return; /* only root can give a directory away */
    }
    assert_int_equal(chown(place, 12345, 12345), 0);
    assert_int_equal(address_is_trusted(place, 1000, reason), -1);
    assert_non_null(strstr(reason, "belongs to user 12345"));
}

ADDRESS_TEST(an_address_that_is_given_is_not_looked_for)
{
    setenv("ATTND_ADDRESS", "tcp://there:7000", 1);
    assert_int_equal(address_find(NULL, ADDRESS_CONTROL, endpoint, reason), 0);
    assert_string_equal(endpoint, "tcp://there:7002");
    assert_int_equal(address_find("/nowhere", ADDRESS_CONTROL, endpoint, reason), 0);
    assert_string_equal(endpoint, "ipc:///nowhere/control");
}

ADDRESS_TEST(the_place_that_answers_is_found_and_a_stale_socket_is_not)
{
    char expected[ADDRESS_MAX];
    int fd = listen_there();
    snprintf(expected, sizeof expected, "ipc://%s/control", place);
    assert_int_equal(address_find(NULL, ADDRESS_CONTROL, endpoint, reason), 0);
    assert_string_equal(endpoint, expected);
    close(fd);
    if (address_find(NULL, ADDRESS_CONTROL, endpoint, reason) == 0) {
        assert_string_not_equal(endpoint, expected); /* an attnd of the person who runs the tests */
    } else {
        assert_non_null(strstr(reason, place));
    }
}

/* Whether or not the directory is there: no socket can be. */
ADDRESS_TEST(a_place_whose_path_is_too_long_for_a_socket_is_named)
{
    char runtime[150], expected[ADDRESS_MAX];
    memset(runtime, 'x', sizeof runtime);
    runtime[0] = '/';
    runtime[sizeof runtime - 1] = '\0';
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    snprintf(expected, sizeof expected,
             "'%s/attnd': too long: a directory of sockets has at most 98 bytes", runtime);
    if (address_find(NULL, ADDRESS_CONTROL, endpoint, reason) != 0) {
        assert_non_null(strstr(reason, expected));
    }
}

ADDRESS_TEST(a_place_that_is_not_trusted_is_named_and_passed_over)
{
    char expected[ADDRESS_MAX];
    int fd = listen_there();
    chmod(place, 0777);
    snprintf(expected, sizeof expected, "%s: others can write to it (mode 0777)", place);
    if (address_find(NULL, ADDRESS_CONTROL, endpoint, reason) != 0) {
        assert_non_null(strstr(reason, expected));
    } else {
        assert_null(strstr(endpoint, place));
    }
    close(fd);
}
