/* SPDX-License-Identifier: MIT */
/* Connections of every kind of endpoint: those that are full are found and ended, no others. */
#include "tests/unit/unit.h"

#include "daemon/base/stalled.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct stalled_fixture {
    char directory[32], endpoint[64];
    int listener;
};

struct stalled_line {
    int near, far; /* far: what was accepted */
};

static void listen_at(struct stalled_fixture *f, const struct sockaddr *address, socklen_t size)
{
    f->listener = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, address, size), 0);
    assert_int_equal(listen(f->listener, 8), 0);
}

/* A name that begins with a NUL is abstract. */
static void listen_by_name(struct stalled_fixture *f, const char *name, size_t length)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, length);
    listen_at(f, (const struct sockaddr *)&address,
              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
}

static void listen_on_ipc(struct stalled_fixture *f)
{
    strcpy(f->directory, "/tmp/attnd-test-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->endpoint, sizeof f->endpoint, "ipc://%s/publish", f->directory);
    listen_by_name(f, f->endpoint + strlen("ipc://"), strlen(f->endpoint) - strlen("ipc://") + 1);
}

static void listen_on_abstract(struct stalled_fixture *f)
{
    char name[32] = "";
    snprintf(f->endpoint, sizeof f->endpoint, "ipc://@attnd-test-%d", (int)getpid());
    strcpy(name + 1, f->endpoint + strlen("ipc://@"));
    listen_by_name(f, name, 1 + strlen(name + 1));
}

static void listen_on_tcp(struct stalled_fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listen_at(f, (const struct sockaddr *)&address, size);
    assert_int_equal(getsockname(f->listener, (struct sockaddr *)&address, &size), 0);
    snprintf(f->endpoint, sizeof f->endpoint, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
}

static struct stalled_line connect_to(const struct stalled_fixture *f)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    struct stalled_line line;
    assert_int_equal(getsockname(f->listener, (struct sockaddr *)&address, &size), 0);
    line.near = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(line.near, (const struct sockaddr *)&address, size), 0);
    line.far = accept(f->listener, NULL, NULL);
    assert_true(line.far >= 0);
    return line;
}

static void fill(int fd)
{
    static const char bytes[65536];
    while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
}

static bool has_ended(const struct stalled_line *line)
{
    char bytes[65536];
    ssize_t got;
    while ((got = recv(line->near, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
    }
    return got == 0;
}

static void assert_the_full_one_is_cut(void (*listen_somewhere)(struct stalled_fixture *f))
{
    struct stalled_fixture f = {.directory = ""}, other = {.directory = ""};
    struct stalled *stalled = NULL;
    listen_somewhere(&f);
    listen_on_tcp(&other);
    struct stalled_line full = connect_to(&f), idle = connect_to(&f),
                        elsewhere = connect_to(&other);
    fill(full.far);
    fill(elsewhere.far);
    stalled_look(&stalled, f.endpoint, "");
    assert_int_equal(stalled_cut(&stalled, UINT64_C(3600000000000)), 0);
    assert_int_equal(stalled_cut(&stalled, 0), 1);
    assert_int_equal(stalled_cut(&stalled, 0), 0);
    assert_true(has_ended(&full));
    assert_false(has_ended(&idle));
    assert_false(has_ended(&elsewhere));
    const int ends[] = {f.listener, other.listener, full.near,      full.far,
                        idle.near,  idle.far,       elsewhere.near, elsewhere.far};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        close(ends[i]);
    }
    if (*f.directory) {
        unlink(f.endpoint + strlen("ipc://"));
        rmdir(f.directory);
    }
}

TEST(a_full_connection_is_cut_on_every_endpoint)
{
    assert_the_full_one_is_cut(listen_on_ipc);
    assert_the_full_one_is_cut(listen_on_abstract);
    assert_the_full_one_is_cut(listen_on_tcp);
}

TEST(whoever_has_read_by_the_next_look_stays)
{
    struct stalled_fixture f = {.directory = ""};
    struct stalled *stalled = NULL;
    listen_on_tcp(&f);
    struct stalled_line slow = connect_to(&f), never = connect_to(&f);
    fill(slow.far);
    fill(never.far);
    stalled_look(&stalled, "", f.endpoint);
    struct pollfd room = {.fd = slow.far, .events = POLLOUT};
    while (poll(&room, 1, 1) == 0) {
        assert_false(has_ended(&slow));
    }
    stalled_look(&stalled, "", f.endpoint);
    fill(slow.far);
    assert_int_equal(stalled_cut(&stalled, 0), 1);
    assert_true(has_ended(&never));
    assert_false(has_ended(&slow));
    stalled_clear(&stalled);
    close(f.listener);
    close(slow.near);
    close(slow.far);
    close(never.near);
    close(never.far);
}
