/* SPDX-License-Identifier: MIT */
#include "daemon/http/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define HOST_MAX 256

/* The host of "host", "host:port", "[address]" or "[address]:port", without brackets. Returns false
 * when it is none of these, or too long. */
static bool host_of(const char *text, char ret_host[HOST_MAX])
{
    bool bracketed = text[0] == '[';
    const char *begin = text + bracketed;
    size_t length = strcspn(begin, bracketed ? "]" : ":");
    const char *rest = begin + length;
    if (length == 0 || length >= HOST_MAX || (bracketed && *rest++ != ']')) {
        return false;
    }
    if (*rest != '\0' && (*rest != ':' || strspn(rest + 1, "0123456789") != strlen(rest + 1))) {
        return false;
    }
    memcpy(ret_host, begin, length);
    ret_host[length] = '\0';
    return true;
}

static bool is_address(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static bool guard_is_listed(const char *host, const char *names)
{
    while (*names) {
        size_t length = strcspn(names, " ");
        if (length == strlen(host) && strncasecmp(names, host, length) == 0) {
            return true;
        }
        names += length + strspn(names + length, " ");
    }
    return false;
}

bool guard_host(const char *text, const char *names)
{
    char host[HOST_MAX];
    return text && host_of(text, host) &&
           (is_address(host) || strcasecmp(host, "localhost") == 0 || guard_is_listed(host, names));
}

bool guard_origin(const char *origin, const char *host)
{
    static const char *const schemes[] = {"http://", "https://"};
    if (!origin) {
        return true;
    }
    for (int i = 0; i < 2; i++) {
        if (strncasecmp(origin, schemes[i], strlen(schemes[i])) == 0) {
            return strcasecmp(origin + strlen(schemes[i]), host) == 0;
        }
    }
    return false;
}

const char *guard_token(const char *authorization)
{
    static const char scheme[] = "Bearer ";
    if (!authorization || strncasecmp(authorization, scheme, strlen(scheme)) != 0) {
        return NULL;
    }
    return authorization + strlen(scheme);
}

void guard_visitor_init(struct guard_visitor *visitor, enum guard_kind kind, const char *name)
{
    const char *prefix = kind == GUARD_USER ? "user:" : "";
    int length = snprintf(visitor->who, sizeof visitor->who, "%s%s", prefix, name ? name : "");
    if (length < 0 || (size_t)length >= sizeof visitor->who) {
        *visitor->who = '\0';
    }
    visitor->kind = kind;
    visitor->is_own = false;
    *visitor->jobs = '\0';
}

bool guard_judge(struct guard_visitor *visitor, const struct access *visitors)
{
    if (visitor->kind == GUARD_LOCAL) {
        strcpy(visitor->jobs, "*");
        return true;
    }
    *visitor->jobs = '\0';
    return visitors && *visitor->who &&
           access_read_jobs(visitors, visitor->who, visitor->kind == GUARD_USER, visitor->jobs);
}

bool guard_may(const struct guard_visitor *visitor, const struct access *visitors,
               enum access_role role, const char *job)
{
    if (visitor->kind == GUARD_LOCAL) {
        return visitor->is_own || role != ACCESS_ADMIN;
    }
    return access_visitor_may(visitors, visitor->who, visitor->kind == GUARD_USER, role, job);
}
