/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/activation.h"
#include "config/config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Descriptors from 3 on are this test's. */
#define FIRST 3

static void hand_over(const char *count, const char *names)
{
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", count, 1);
    if (names) {
        setenv("LISTEN_FDNAMES", names, 1);
    } else {
        unsetenv("LISTEN_FDNAMES");
    }
}

static void activation_put_at(int fd, int index)
{
    if (fd == FIRST + index) {
        return;
    }
    assert_int_equal(dup2(fd, FIRST + index), FIRST + index);
    close(fd);
}

/* A socket of TCP on a free port. Returns the port. */
static int put_tcp(int index, bool listening)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    if (listening) {
        assert_int_equal(listen(fd, 8), 0);
    }
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    activation_put_at(fd, index);
    return ntohs(address.sin_port);
}

/* One of a path, or, with a leading '@', of an abstract name. */
static void put_unix(int index, int type, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    if (*path == '@') {
        address.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, type, 0);
    unlink(path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))),
                     0);
    if (type == SOCK_STREAM) {
        assert_int_equal(listen(fd, 8), 0);
    }
    activation_put_at(fd, index);
    unlink(path);
}

static void activation_refuse(const char *part)
{
    char error[CONFIG_ERROR_MAX];
    assert_int_equal(activation_check(true, error), -1);
    if (!strstr(error, part)) {
        fail_msg("'%s' does not say '%s'", error, part);
    }
}

static int activation_teardown(void **state)
{
    (void)state;
    for (int fd = FIRST; fd < FIRST + 4; fd++) {
        close(fd);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return 0;
}

#define ACTIVATION_TEST(name) TEST_WITH(name, NULL, activation_teardown)

ACTIVATION_TEST(without_it_nothing_is_taken)
{
    char error[CONFIG_ERROR_MAX], endpoint[ENDPOINT_MAX] = "as it was";
    assert_int_equal(activation_check(true, error), 0);
    assert_int_equal(activation_take("ingest", endpoint), -1);
    assert_string_equal(endpoint, "as it was");
}

ACTIVATION_TEST(sockets_are_found_by_name_with_their_address)
{
    char error[CONFIG_ERROR_MAX], endpoint[ENDPOINT_MAX], expected[ENDPOINT_MAX];
    int port = put_tcp(0, true);
    put_unix(1, SOCK_STREAM, "/tmp/attnd-test-activation");
    put_unix(2, SOCK_STREAM, "@attnd-test-activation");
    hand_over("3", "http:control:ingest");
    assert_int_equal(activation_check(true, error), 0);
    assert_int_equal(activation_take("http", endpoint), FIRST);
    snprintf(expected, sizeof expected, "tcp://127.0.0.1:%d", port);
    assert_string_equal(endpoint, expected);
    assert_int_equal(activation_take("control", endpoint), FIRST + 1);
    assert_string_equal(endpoint, "ipc:///tmp/attnd-test-activation");
    assert_int_equal(activation_take("ingest", endpoint), FIRST + 2);
    assert_string_equal(endpoint, "ipc://@attnd-test-activation");
    assert_int_equal(activation_take("publish", endpoint), -1);
    assert_int_equal(activation_take("tap", endpoint), -1);
}

ACTIVATION_TEST(they_do_not_block_and_are_not_inherited)
{
    char error[CONFIG_ERROR_MAX];
    put_tcp(0, true);
    hand_over("1", "ingest");
    assert_int_equal(activation_check(true, error), 0);
    assert_true(fcntl(FIRST, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(FIRST, F_GETFD) & FD_CLOEXEC);
}

ACTIVATION_TEST(those_of_another_process_are_left_alone)
{
    char error[CONFIG_ERROR_MAX], endpoint[ENDPOINT_MAX];
    put_tcp(0, true);
    hand_over("1", "ingest");
    setenv("LISTEN_PID", "1", 1);
    assert_int_equal(activation_check(true, error), 0);
    assert_int_equal(activation_take("ingest", endpoint), -1);
    assert_false(fcntl(FIRST, F_GETFD) & FD_CLOEXEC);
}

ACTIVATION_TEST(names_that_cannot_be_meant)
{
    put_tcp(0, true);
    put_tcp(1, true);
    hand_over("1", "attnd.socket");
    activation_refuse("socket 1 of LISTEN_FDS, 'attnd.socket': its name is none of ingest");
    hand_over("1", NULL);
    activation_refuse("socket 1 of LISTEN_FDS, '': its name is none of");
    hand_over("2", "ingest");
    activation_refuse("socket 2 of LISTEN_FDS, '': its name is none of");
    hand_over("2", "ingest:ingest");
    activation_refuse("socket 2 of LISTEN_FDS, 'ingest': its name was given to another one before");
}

ACTIVATION_TEST(numbers_that_are_none)
{
    hand_over("", "ingest");
    activation_refuse("LISTEN_FDS: ''");
    hand_over("-1", "ingest");
    activation_refuse("LISTEN_FDS: '-1'");
    hand_over("3x", "ingest");
    activation_refuse("LISTEN_FDS: '3x'");
    hand_over("99999999999999999999", "ingest");
    activation_refuse("not a number from 0 to 16");
}

ACTIVATION_TEST(sockets_of_other_kinds)
{
    put_tcp(0, false);
    hand_over("1", "ingest");
    activation_refuse("no socket that listens");
    put_unix(0, SOCK_DGRAM, "@attnd-test-datagram");
    activation_refuse("no socket that listens");
    close(FIRST);
    activation_put_at(open("/dev/null", O_RDONLY), 0);
    activation_refuse("no socket that listens");
    close(FIRST);
    activation_refuse("no socket that listens");
}

ACTIVATION_TEST(http_may_be_at_a_path)
{
    char error[CONFIG_ERROR_MAX], endpoint[ENDPOINT_MAX];
    put_unix(0, SOCK_STREAM, "@attnd-test-http");
    hand_over("1", "http");
    assert_int_equal(activation_check(false, error), 0);
    assert_int_equal(activation_take("http", endpoint), FIRST);
    assert_string_equal(endpoint, "ipc://@attnd-test-http");
}
