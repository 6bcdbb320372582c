/* SPDX-License-Identifier: MIT */
#include "daemon/http/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
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

static bool is_token(const char *text, const char *token)
{
    size_t length = strlen(text), wanted = strlen(token);
    unsigned char differs = length != wanted;
    for (size_t i = 0; i < length; i++) {
        differs |= (unsigned char)(text[i] ^ token[i % wanted]);
    }
    return !differs;
}

bool guard_token(const char *authorization, const char *parameter, const char *token)
{
    static const char scheme[] = "Bearer ";
    if (!*token) {
        return true;
    }
    if (authorization && strncasecmp(authorization, scheme, strlen(scheme)) == 0) {
        return is_token(authorization + strlen(scheme), token);
    }
    return parameter && is_token(parameter, token);
}
