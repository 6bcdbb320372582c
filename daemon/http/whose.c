/* SPDX-License-Identifier: MIT */
/* The question is about the exact connection as the other end sees it: its own address first.
 * IPv4 addresses that are mapped into IPv6 are asked about as IPv4, which finds sockets of both
 * families. That our own end is still established afterwards proves that the other one was the
 * same socket all the time: its port cannot have been given to anybody else. */
#include "daemon/http/whose.h"

#include "config/config.h"
#include "daemon/base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* Stands for users that the kernel cannot name here, unless it says otherwise. */
#define OVERFLOW_UID 65534
/* More of the user database's texts than any entry has, and more groups than a user has. */
#define ENTRY_MAX  16384
#define GROUPS_MAX 4096

/* The question */

/* Loopback addresses, with IPv4 ones that are mapped into IPv6 as IPv4. */
union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_storage room;
};

static void whose_unmap(union address *address)
{
    struct in_addr in;
    if (address->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&address->in6.sin6_addr)) {
        return;
    }
    in_port_t port = address->in6.sin6_port;
    memcpy(&in, address->in6.sin6_addr.s6_addr + 12, sizeof in);
    address->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr = in};
}

static bool is_loopback(const union address *address)
{
    if (address->any.sa_family == AF_INET) {
        return ntohl(address->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    return address->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&address->in6.sin6_addr);
}

static bool whose_send(struct whose *whose, int family, const struct inet_diag_sockid *socket)
{
    static const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 question;
    } request = {
        .header = {.nlmsg_len = sizeof request,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST,
                   .nlmsg_seq = ++whose->sequence},
        .question = {.sdiag_family = (uint8_t)family,
                     .sdiag_protocol = IPPROTO_TCP,
                     .idiag_states = UINT32_MAX,
                     .id = *socket},
    };
    return sendto(whose->netlink, &request, sizeof request, MSG_DONTWAIT,
                  (const struct sockaddr *)&kernel, sizeof kernel) == (ssize_t)sizeof request;
}

/* A socket of the family IPv6 that speaks IPv4 is shown with its addresses mapped. */
static bool is_same_address(const uint32_t found[4], const uint32_t asked[4])
{
    const uint32_t mapped[4] = {0, 0, htonl(0xffff), asked[0]};
    bool is_four = !asked[1] && !asked[2] && !asked[3];
    return memcmp(found, asked, 4 * sizeof *found) == 0 ||
           (is_four && memcmp(found, mapped, sizeof mapped) == 0);
}

static bool whose_is_same(const struct inet_diag_sockid *found,
                          const struct inet_diag_sockid *asked)
{
    return found->idiag_sport == asked->idiag_sport && found->idiag_dport == asked->idiag_dport &&
           is_same_address(found->idiag_src, asked->idiag_src) &&
           is_same_address(found->idiag_dst, asked->idiag_dst);
}

bool whose_read(const void *answer, size_t size, uint32_t sequence,
                const struct inet_diag_sockid *socket, uid_t *ret_uid)
{
    struct nlmsghdr header;
    struct inet_diag_msg found;
    if (size < NLMSG_HDRLEN + sizeof found) {
        return false;
    }
    memcpy(&header, answer, sizeof header);
    memcpy(&found, (const char *)answer + NLMSG_HDRLEN, sizeof found);
    if (header.nlmsg_seq != sequence || header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        header.nlmsg_len < NLMSG_HDRLEN + sizeof found || !whose_is_same(&found.id, socket) ||
        found.idiag_state != TCP_ESTABLISHED || found.idiag_inode == 0) {
        return false;
    }
    *ret_uid = found.idiag_uid;
    return true;
}

/* The kernel has answered when the question has been sent. */
static bool whose_find(struct whose *whose, int family, const struct inet_diag_sockid *socket,
                       uid_t *ret_uid)
{
    char answer[2048];
    struct nlmsghdr header;
    if (whose->netlink < 0 || !whose_send(whose, family, socket)) {
        return false;
    }
    ssize_t size;
    do {
        size = recv(whose->netlink, answer, sizeof answer, MSG_DONTWAIT);
        if (size < (ssize_t)sizeof header) {
            return false;
        }
        memcpy(&header, answer, sizeof header);
    } while (header.nlmsg_seq != whose->sequence); /* of an earlier question */
    return whose_read(answer, (size_t)size, whose->sequence, socket, ret_uid);
}

static bool is_established(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           info.tcpi_state == TCP_ESTABLISHED;
}

struct whose_peer whose_ask(struct whose *whose, int fd)
{
    const struct whose_peer unknown = {.kind = WHOSE_UNKNOWN};
    union address theirs, ours;
    socklen_t their_size = sizeof theirs, our_size = sizeof ours;
    struct whose_peer peer = {.kind = WHOSE_USER};
    if (getpeername(fd, &theirs.any, &their_size) != 0 ||
        getsockname(fd, &ours.any, &our_size) != 0) {
        return unknown;
    }
    if (ours.any.sa_family == AF_UNIX) {
        return (struct whose_peer){.kind = WHOSE_PROXY};
    }
    whose_unmap(&theirs);
    whose_unmap(&ours);
    if (!is_loopback(&theirs) || !is_loopback(&ours)) {
        return (struct whose_peer){.kind = WHOSE_ELSEWHERE};
    }
    /* From the other end's view. */
    struct inet_diag_sockid socket = {.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}};
    if (theirs.any.sa_family == AF_INET) {
        socket.idiag_sport = theirs.in.sin_port;
        socket.idiag_dport = ours.in.sin_port;
        memcpy(socket.idiag_src, &theirs.in.sin_addr, sizeof theirs.in.sin_addr);
        memcpy(socket.idiag_dst, &ours.in.sin_addr, sizeof ours.in.sin_addr);
    } else {
        socket.idiag_sport = theirs.in6.sin6_port;
        socket.idiag_dport = ours.in6.sin6_port;
        memcpy(socket.idiag_src, &theirs.in6.sin6_addr, sizeof theirs.in6.sin6_addr);
        memcpy(socket.idiag_dst, &ours.in6.sin6_addr, sizeof ours.in6.sin6_addr);
    }
    if (!whose_find(whose, theirs.any.sa_family, &socket, &peer.uid) || !is_established(fd) ||
        peer.uid == whose->overflow) {
        return unknown;
    }
    return peer;
}

/* The users that may ask */

bool whose_is_own(const struct whose *whose, uid_t uid)
{
    return uid == whose->own || uid == 0;
}

bool whose_may_ask(const struct whose *whose, uid_t uid)
{
    if (whose_is_own(whose, uid)) {
        return true;
    }
    for (unsigned i = 0; i < whose->user_count; i++) {
        if (whose->users[i] == uid) {
            return true;
        }
    }
    if (!whose->has_group) {
        return false;
    }
    struct passwd user, *found = NULL;
    char texts[ENTRY_MAX];
    static _Thread_local gid_t groups[GROUPS_MAX];
    int count = GROUPS_MAX;
    if (getpwuid_r(uid, &user, texts, sizeof texts, &found) != 0 || !found) {
        return false;
    }
    if (getgrouplist(user.pw_name, user.pw_gid, groups, &count) < 0) {
        count = GROUPS_MAX; /* those that found room */
    }
    for (int i = 0; i < count; i++) {
        if (groups[i] == whose->group) {
            return true;
        }
    }
    return false;
}

bool whose_is_forwarding(const char *header)
{
    static const char *const names[] = {"Forwarded", "Via", "X-Real-IP"};
    if (strncasecmp(header, "X-Forwarded", strlen("X-Forwarded")) == 0) {
        return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcasecmp(header, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Start */

static int whose_refuse(const char *word, const char *why, char *reterr)
{
    snprintf(reterr, CONFIG_ERROR_MAX,
             "http.users: '%.256s': %s (valid: names or numbers of users, between blanks)", word,
             why);
    return -1;
}

static int whose_add(struct whose *whose, const char *word, char *reterr)
{
    struct passwd user, *found = NULL;
    char texts[ENTRY_MAX], *end;
    unsigned long uid = strtoul(word, &end, 10);
    if (*end) {
        if (getpwnam_r(word, &user, texts, sizeof texts, &found) != 0 || !found) {
            return whose_refuse(word, "there is no such user on this machine", reterr);
        }
        uid = user.pw_uid;
    } else if (uid >= UINT32_MAX) {
        return whose_refuse(word, "no user has this number", reterr);
    }
    if (uid == whose->overflow) {
        return whose_refuse(word, "it stands for all users that have no number here", reterr);
    }
    if (whose->user_count == WHOSE_USERS_MAX) {
        return whose_refuse(word, "more than 64 users; make a group, or use a token", reterr);
    }
    whose->users[whose->user_count++] = (uid_t)uid;
    return 0;
}

static uid_t read_overflow_uid(void)
{
    unsigned uid = OVERFLOW_UID;
    FILE *file = fopen("/proc/sys/kernel/overflowuid", "re");
    if (file) {
        (void)!fscanf(file, "%u", &uid);
        fclose(file);
    }
    return uid;
}

/* Whether the kernel says whose a connection of our own is. Where there is no IPv4 loopback it is
 * believed to. */
static bool whose_works(struct whose *whose)
{
    union address address = {
        .in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address.in;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), server = -1;
    bool works = true;
    if (listener >= 0 && client >= 0 && bind(listener, &address.any, size) == 0 &&
        listen(listener, 1) == 0 && getsockname(listener, &address.any, &size) == 0 &&
        connect(client, &address.any, size) == 0 &&
        (server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        struct whose_peer peer = whose_ask(whose, server);
        works = peer.kind == WHOSE_USER && peer.uid == whose->own;
    }
    const int sockets[] = {listener, client, server};
    for (int i = 0; i < 3; i++) {
        if (sockets[i] >= 0) {
            close(sockets[i]);
        }
    }
    return works;
}

int whose_init(struct whose *whose, const char *users, char *reterr)
{
    *whose = (struct whose){.netlink = -1, .own = geteuid(), .overflow = read_overflow_uid()};
    char copy[CONFIG_TEXT_MAX], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", users);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        if (whose_add(whose, word, reterr) != 0) {
            return -1;
        }
    }
    struct group group, *found = NULL;
    static char texts[4 * ENTRY_MAX];
    if (getgrnam_r("attnd", &group, texts, sizeof texts, &found) == 0 && found &&
        found->gr_gid == getegid()) {
        whose->has_group = true;
        whose->group = found->gr_gid;
    }
    whose->netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (!whose_works(whose)) {
        log_event(LOG_WARNING, "http_users_unknown",
                  LOG_STR("reason", "the kernel does not say whose a connection is "
                                    "(NETLINK_SOCK_DIAG): every request needs a token"),
                  LOG_STR("advice", "set http.token_file"));
    }
    return 0;
}

void whose_clear(struct whose *whose)
{
    if (whose->netlink > 0) {
        close(whose->netlink);
    }
    whose->netlink = -1;
}
