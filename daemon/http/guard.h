/* SPDX-License-Identifier: MIT */
/* guard: decides who may ask. Pure functions over header texts.
 *
 * A page of somebody else's that is open in a browser on this machine can reach loopback as well.
 * Two checks keep it out: the Host a browser names must be an address, localhost or one of
 * http.hosts (a name that an attacker lets point here is none of these), and an Origin must be that
 * host itself. */
#ifndef DAEMON_HTTP_GUARD_H
#define DAEMON_HTTP_GUARD_H

#include "config/access.h"

/* `host` is a Host header, with or without port; `names` are separated by blanks. NULL is refused.
 */
bool guard_host(const char *host, const char *names);
/* `origin` is an Origin header or NULL, `host` one that guard_host let pass. */
bool guard_origin(const char *origin, const char *host);

/* Somebody who asks, and the jobs they may see. */
enum guard_kind {
    GUARD_LOCAL, /* a user of this machine that attnd answers: all jobs, and `plan` */
    GUARD_TOKEN,
    GUARD_USER, /* that a proxy names */
};
struct guard_visitor {
    enum guard_kind kind;
    bool is_own;                  /* LOCAL: attnd's own user or root, who may do everything */
    char who[ACCESS_WHO_MAX + 1]; /* the token, or "user:NAME" */
    char jobs[ACCESS_JOBS_MAX];   /* see access_jobs_match */
};

/* The token that an Authorization header (or NULL) brings; NULL when it brings none. */
const char *guard_token(const char *authorization);
/* Makes a visitor who brings this token, or is this user; what is too long is nobody. */
void guard_visitor_init(struct guard_visitor *visitor, enum guard_kind kind, const char *name);
/* Reads the visitor's jobs from the list, NULL: there is none. Returns whether attnd answers them.
 */
bool guard_judge(struct guard_visitor *visitor, const struct access *visitors);
/* Whether a visitor who was let in has a role for a job. */
bool guard_may(const struct guard_visitor *visitor, const struct access *visitors,
               enum access_role role, const char *job);

#endif
