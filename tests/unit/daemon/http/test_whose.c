/* SPDX-License-Identifier: MIT */
/* The user of a connection, and where the page is said to be. */
#include "tests/unit/unit.h"

#include "daemon/http/page_url.h"
#include "daemon/http/whose.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STRANGER 12345

static struct whose whose;
static char error[CONFIG_ERROR_MAX];

static int http_whose_setup(void **state)
{
    (void)state;
    return whose_init(&whose, "", error);
}

static int http_whose_teardown(void **state)
{
    (void)state;
    whose_clear(&whose);
    return 0;
}

#define WHOSE_TEST(name) TEST_WITH(name, http_whose_setup, http_whose_teardown)

/* A listener on `text` ("127.0.0.1", "::"), and its port. */
static int listen_on(int family, const char *text, in_port_t *ret_port)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr *address = family == AF_INET ? (struct sockaddr *)&in : (struct sockaddr *)&in6;
    socklen_t size = family == AF_INET ? sizeof in : sizeof in6;
    int fd = socket(family, SOCK_STREAM, 0), off = 0;
    void *to = family == AF_INET ? (void *)&in.sin_addr : (void *)&in6.sin6_addr;
    assert_int_equal(inet_pton(family, text, to), 1);
    if (family == AF_INET6) {
        assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off), 0);
    }
    assert_int_equal(bind(fd, address, size), 0);
    assert_int_equal(listen(fd, 4096), 0);
    assert_int_equal(getsockname(fd, address, &size), 0);
    *ret_port = family == AF_INET ? in.sin_port : in6.sin6_port;
    return fd;
}

/* Returns the socket that has connected to `text`, or -1. */
static int http_whose_connect_to(int family, const char *text, in_port_t port)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port};
    bool four = family == AF_INET;
    int fd = socket(family, SOCK_STREAM, 0);
    assert_int_equal(inet_pton(family, text, four ? (void *)&in.sin_addr : (void *)&in6.sin6_addr),
                     1);
    if (connect(fd, four ? (struct sockaddr *)&in : (struct sockaddr *)&in6,
                four ? sizeof in : sizeof in6) == 0) {
        return fd;
    }
    close(fd);
    return -1;
}

struct pair {
    int client, server;
};

static struct pair pair_over(int listen_family, const char *listen_text, int family,
                             const char *text)
{
    in_port_t port;
    int listener = listen_on(listen_family, listen_text, &port);
    struct pair pair = {.client = http_whose_connect_to(family, text, port)};
    assert_true(pair.client >= 0);
    pair.server = accept(listener, NULL, NULL);
    assert_true(pair.server >= 0);
    close(listener);
    return pair;
}

static void close_pair(const struct pair *pair)
{
    close(pair->client);
    close(pair->server);
}

WHOSE_TEST(a_connection_over_loopback_is_its_users)
{
    static const struct {
        int listen_family, family;
        const char *listen, *to;
    } ways[] = {
        {AF_INET, AF_INET, "127.0.0.1", "127.0.0.1"},
        {AF_INET, AF_INET, "0.0.0.0", "127.1.2.3"},
        {AF_INET6, AF_INET6, "::1", "::1"},
        {AF_INET6, AF_INET6, "::", "::1"},
        {AF_INET6, AF_INET, "::", "127.0.0.1"},
        {AF_INET6, AF_INET6, "::", "::ffff:127.0.0.1"},
        {AF_INET, AF_INET6, "127.0.0.1", "::ffff:127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        struct pair pair =
            pair_over(ways[i].listen_family, ways[i].listen, ways[i].family, ways[i].to);
        struct whose_peer peer = whose_ask(&whose, pair.server);
        assert_int_equal(peer.kind, WHOSE_USER);
        assert_int_equal(peer.uid, geteuid());
        close_pair(&pair);
    }
}

WHOSE_TEST(a_unix_socket_is_a_proxys)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(whose_ask(&whose, pair[0]).kind, WHOSE_PROXY);
    close(pair[0]);
    close(pair[1]);
}

WHOSE_TEST(what_is_closed_is_nobodys)
{
    for (int i = 0; i < 3; i++) {
        struct pair pair = pair_over(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
        const struct linger reset = {1, 0};
        if (i == 0) {
            shutdown(pair.client, SHUT_WR);
        } else if (i == 1) {
            setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        if (i > 0) {
            close(pair.client);
        }
        assert_int_equal(whose_ask(&whose, pair.server).kind, WHOSE_UNKNOWN);
        if (i == 0) {
            close(pair.client);
        }
        close(pair.server);
    }
}

/* An address of this machine that is no loopback one; "" when there is none. */
static void find_address(char ret_text[INET_ADDRSTRLEN])
{
    struct ifaddrs *all = NULL;
    *ret_text = '\0';
    assert_int_equal(getifaddrs(&all), 0);
    for (struct ifaddrs *one = all; one; one = one->ifa_next) {
        if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET && one->ifa_flags & IFF_UP &&
            !(one->ifa_flags & IFF_LOOPBACK)) {
            inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)one->ifa_addr)->sin_addr, ret_text,
                      INET_ADDRSTRLEN);
        }
    }
    freeifaddrs(all);
}

WHOSE_TEST(other_addresses_are_elsewhere)
{
    char text[INET_ADDRSTRLEN];
    find_address(text);
    if (!*text) {
        skip();
    }
    OWNED(close_pair) struct pair pair = pair_over(AF_INET, "0.0.0.0", AF_INET, text);
    assert_int_equal(whose_ask(&whose, pair.server).kind, WHOSE_ELSEWHERE);
}

WHOSE_TEST(without_the_kernels_word_nobody_is_known)
{
    struct whose deaf = {.netlink = -1};
    OWNED(close_pair) struct pair pair = pair_over(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
    assert_int_equal(whose_ask(&deaf, pair.server).kind, WHOSE_UNKNOWN);
}

/* A sandbox without netlink, as containers and service managers make them. */
static void forbid_netlink(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        _exit(9);
    }
}

WHOSE_TEST(a_sandbox_without_netlink_is_told_of)
{
    char log[1024] = "";
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct whose here;
        forbid_netlink();
        dup2(ends[1], STDERR_FILENO);
        if (whose_init(&here, "", error) != 0) {
            _exit(1);
        }
        struct pair pair = pair_over(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
        _exit(whose_ask(&here, pair.server).kind == WHOSE_UNKNOWN ? 0 : 2);
    }
    close(ends[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(read(ends[0], log, sizeof log - 1) > 0);
    assert_non_null(strstr(log, "event=http_users_unknown"));
    assert_non_null(strstr(log, "set http.token_file"));
    close(ends[0]);
}

/* Connections that are closed at once, in every manner, until `tries` are through. */
static void be_a_stranger(in_port_t port, int tries)
{
    const struct linger reset = {1, 0};
    if (setgid(STRANGER) != 0 || setuid(STRANGER) != 0) {
        _exit(1);
    }
    for (int i = 0; i < tries; i++) {
        int fd = http_whose_connect_to(AF_INET, "127.0.0.1", port);
        if (fd < 0) {
            _exit(2);
        }
        if (i % 3 == 0) {
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        if (send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) < 0) {
            _exit(3);
        }
        if (i % 3 == 1) {
            shutdown(fd, SHUT_RDWR);
        }
        close(fd);
    }
    _exit(0);
}

WHOSE_TEST(a_stranger_that_hangs_up_is_never_root)
{
    enum { TRIES = 3000 };
    in_port_t port;
    int status;
    if (geteuid() != 0) {
        skip();
    }
    int listener = listen_on(AF_INET, "127.0.0.1", &port);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        be_a_stranger(port, TRIES);
    }
    for (int i = 0; i < TRIES; i++) {
        int server = accept(listener, NULL, NULL);
        assert_true(server >= 0);
        struct whose_peer peer = whose_ask(&whose, server);
        assert_int_not_equal(peer.kind, WHOSE_ELSEWHERE);
        if (peer.kind == WHOSE_USER) {
            assert_int_equal(peer.uid, STRANGER);
        }
        close(server);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_false(whose_may_ask(&whose, STRANGER));
    close(listener);
}

/* The kernel's answer */

struct answer {
    struct nlmsghdr header;
    struct inet_diag_msg found;
};

static const struct inet_diag_sockid asked = {
    .idiag_sport = 1, .idiag_dport = 2, .idiag_src = {3}, .idiag_dst = {4}};

static struct answer good_answer(void)
{
    return (struct answer){
        .header = {.nlmsg_len = sizeof(struct answer),
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_seq = 7},
        .found = {.idiag_state = TCP_ESTABLISHED, .idiag_inode = 9, .idiag_uid = 5, .id = asked}};
}

TEST(only_an_established_socket_with_an_inode_counts)
{
    struct answer good = good_answer(), bad[7];
    uid_t uid = 0;
    assert_true(whose_read(&good, sizeof good, 7, &asked, &uid));
    assert_int_equal(uid, 5);
    for (int i = 0; i < 7; i++) {
        bad[i] = good;
    }
    bad[0].found.idiag_inode = 0;
    bad[1].found.idiag_state = TCP_LISTEN;
    bad[2].found.idiag_state = TCP_TIME_WAIT;
    bad[3].header.nlmsg_type = NLMSG_ERROR;
    bad[4].header.nlmsg_seq = 6;
    bad[5].found.id.idiag_sport = 2;
    bad[6].header.nlmsg_len = sizeof(struct nlmsghdr);
    for (int i = 0; i < 7; i++) {
        assert_false(whose_read(&bad[i], sizeof bad[i], 7, &asked, &uid));
    }
    for (size_t size = 0; size < sizeof good; size++) {
        assert_false(whose_read(&good, size, 7, &asked, &uid));
    }
}

/* The users that may ask */

TEST(listed_users_and_root_may_ask)
{
    OWNED(whose_clear) struct whose listed;
    assert_int_equal(whose_init(&listed, " daemon  4242 ", error), 0);
    assert_true(whose_may_ask(&listed, geteuid()));
    assert_true(whose_may_ask(&listed, 0));
    assert_true(whose_may_ask(&listed, 4242));
    assert_true(whose_may_ask(&listed, 1)); /* daemon, on every Debian */
    assert_false(whose_may_ask(&listed, STRANGER));
}

TEST(members_of_the_group_may_ask)
{
    struct whose service = {.netlink = -1, .own = STRANGER, .has_group = true, .group = 1};
    assert_true(whose_may_ask(&service, 1)); /* daemon is of the group daemon */
    assert_false(whose_may_ask(&service, 2));
    assert_false(whose_may_ask(&service, 4242)); /* nobody has heard of it */
    service.has_group = false;
    assert_false(whose_may_ask(&service, 1));
}

TEST(users_that_are_not_there_stop_the_start)
{
    static const char *const bad[][2] = {
        {"root nobody-of-this-name", "http.users: 'nobody-of-this-name': there is no such user on"},
        {"65534", "http.users: '65534': it stands for all users that have no number here"},
        {"4294967295", "http.users: '4294967295': no user has this number"},
        {"99999999999999999999", "http.users: '99999999999999999999': no user has this number"},
        {"-1", "http.users: '-1': no user has this number"},
    };
    struct whose none;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(whose_init(&none, bad[i][0], error), -1);
        assert_memory_equal(error, bad[i][1], strlen(bad[i][1]));
        whose_clear(&none);
    }
}

TEST(headers_of_forwarders_are_known)
{
    static const char *const good[] = {"X-Forwarded-For",  "x-forwarded-proto", "X-Forwarded-User",
                                       "X-Forwarded-Host", "forwarded",         "VIA",
                                       "X-Real-IP"};
    static const char *const bad[] = {"Host", "X-Forward", "Vial", "X-Real", ""};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(whose_is_forwarding(good[i]));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(whose_is_forwarding(bad[i]));
    }
}

/* Where the page is */

TEST(a_page_has_an_address_that_a_browser_opens)
{
    static const char *const cases[][2] = {
        {"tcp://127.0.0.1:5580", "http://127.0.0.1:5580/"},
        {"tcp://*:80", "http://127.0.0.1:80/"},
        {"tcp://0.0.0.0:80", "http://127.0.0.1:80/"},
        {"tcp://[::]:80", "http://[::1]:80/"},
        {"tcp://[::1]:80", "http://[::1]:80/"},
        {"tcp://gpu7:5580", "http://gpu7:5580/"},
        {"ipc:///run/attnd/http", ""},
    };
    char url[PAGE_URL_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        page_url(cases[i][0], url);
        assert_string_equal(url, cases[i][1]);
    }
}

TEST(the_page_is_told_in_the_directory)
{
    char directory[] = "/tmp/attnd-page-XXXXXX", path[64], fresh[64], line[64] = "";
    char endpoint[ENDPOINT_MAX];
    static const mode_t modes[][2] = {{0700, 0600}, {0750, 0640}, {0755, 0644}};
    struct stat file;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/page", directory);
    snprintf(fresh, sizeof fresh, "%s/page.new", directory);
    assert_int_equal(symlink("/nonexistent/elsewhere", fresh), 0); /* not followed */
    for (int i = 0; i < 3; i++) {
        mode_t before = umask(i ? 077 : 0);
        assert_int_equal(chmod(directory, modes[i][0]), 0);
        assert_int_equal(page_url_write(directory, "tcp://127.0.0.1:5581"), 0);
        umask(before);
        assert_int_equal(stat(path, &file), 0);
        assert_int_equal(file.st_mode & 0777, modes[i][1]);
    }
    FILE *page = fopen(path, "r");
    assert_non_null(page);
    assert_int_equal(fread(line, 1, sizeof line - 1, page), strlen("http://127.0.0.1:5581/\n"));
    fclose(page);
    assert_string_equal(line, "http://127.0.0.1:5581/\n");
    assert_int_equal(access(fresh, F_OK), -1);
    assert_true(page_url_left(directory, endpoint));
    assert_string_equal(endpoint, "tcp://127.0.0.1:5581");
    assert_int_equal(page_url_write(directory, "tcp://gpu7:5581"), 0);
    assert_false(page_url_left(directory, endpoint));
    page_url_remove(directory);
    assert_false(page_url_left(directory, endpoint));
    assert_int_equal(rmdir(directory), 0);
    assert_int_equal(page_url_write(directory, "tcp://127.0.0.1:5581"), -1);
    assert_int_equal(errno, ENOENT);
}
