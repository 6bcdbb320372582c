/* SPDX-License-Identifier: MIT */
/* guard: decides who may ask. Pure functions over header texts.
 *
 * A page of somebody else's that is open in a browser on this machine can reach loopback as well.
 * Two checks keep it out: the Host a browser names must be an address, localhost or one of
 * http.hosts (a name that an attacker lets point here is none of these), and an Origin must be that
 * host itself. */
#ifndef DAEMON_HTTP_GUARD_H
#define DAEMON_HTTP_GUARD_H

#include <stdbool.h>

/* `host` is a Host header, with or without port; `names` are separated by blanks. NULL is refused.
 */
bool guard_host(const char *host, const char *names);
/* `origin` is an Origin header or NULL, `host` one that guard_host let pass. */
bool guard_origin(const char *origin, const char *host);
/* Whether `authorization` (a header, or NULL) or `parameter` (or NULL) brings the token. In time
 * that does not depend on how much of it is right. "" as token lets everybody pass. */
bool guard_token(const char *authorization, const char *parameter, const char *token);

#endif
