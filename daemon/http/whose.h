/* SPDX-License-Identifier: MIT */
/* whose: asks the kernel for the user at the other end of a connection.
 *
 * Over loopback the other end is a socket of this machine, and the kernel (NETLINK_SOCK_DIAG) knows
 * who opened it. The user counts only while both
 * ends are established and the other one has an inode: a socket whose process has closed it is
 * reported as root's. HTTP thread, except whose_init and whose_clear. */
#ifndef DAEMON_HTTP_WHOSE_H
#define DAEMON_HTTP_WHOSE_H

#include <linux/inet_diag.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WHOSE_USERS_MAX 64

enum whose_kind {
    WHOSE_USER,      /* of this machine; the uid is known */
    WHOSE_PROXY,     /* over the Unix socket, which is for a proxy: for somebody behind it */
    WHOSE_ELSEWHERE, /* not over loopback */
    WHOSE_UNKNOWN,   /* over loopback, but the kernel does not say, or says "no user known here" */
};

struct whose_peer {
    enum whose_kind kind;
    uid_t uid; /* of WHOSE_USER */
};

struct whose {
    int netlink; /* -1: the kernel cannot be asked */
    uint32_t sequence;
    uid_t overflow; /* stands for users that this user namespace does not know */
    uid_t own;
    uid_t users[WHOSE_USERS_MAX];
    unsigned user_count;
    bool has_group; /* members of `group` are let in */
    gid_t group;
};

/* `users` is http.users: names or numbers between blanks. Members of the group `attnd` are let in
 * when it is the group that attnd runs as: a service. Asks the kernel about a connection of its own
 * and logs when there is no answer. Returns 0, or -1 with a sentence in reterr (CONFIG_ERROR_MAX
 * bytes). */
int whose_init(struct whose *whose, const char *users, char *reterr);
/* Accepts one that is all zero. */
void whose_clear(struct whose *whose);

/* The user at the other end of this connected socket. One round trip to the kernel, no waiting. */
struct whose_peer whose_ask(struct whose *whose, int fd);

/* Whether this user may ask: attnd's own, root, one of http.users, a member of the group. The
 * system's user database is asked about members only. */
bool whose_may_ask(const struct whose *whose, uid_t uid);

/* Whether it is attnd's own or root. */
bool whose_is_own(const struct whose *whose, uid_t uid);

/* Whether a header says that somebody forwards requests of others. */
bool whose_is_forwarding(const char *header);

/* The part of whose_ask that reads what the kernel answered, `size` bytes, to a question about
 * `socket` with this number. Returns whether it names an established socket that has an inode. */
bool whose_read(const void *answer, size_t size, uint32_t sequence,
                const struct inet_diag_sockid *socket, uid_t *ret_uid);

#endif
