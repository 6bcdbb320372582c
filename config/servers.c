/* SPDX-License-Identifier: MIT */
#include "config/servers.h"

#include "config/config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS  "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* `host`, `host:port` or `[address]:port` of `size` bytes. */
static const char *servers_place_reason(const char *place, size_t size)
{
    bool is_address = size > 0 && *place == '[';
    size_t host = is_address ? 1 + strspn(place + 1, DIGITS "abcdefABCDEF:.")
                             : strspn(place, DIGITS LETTERS ".-_");
    host += is_address && place[host] == ']';
    const char *port = place + host + 1;
    if (host == 0 || (is_address && place[host - 1] != ']')) {
        return host == 0 && (size == 0 || *place == ':') ? "the host is missing"
                                                         : "the host is not a name or an address";
    }
    if (host == size) {
        return NULL;
    }
    size_t digits = strspn(port, DIGITS);
    if (place[host] != ':') {
        return "the host is not a name or an address";
    }
    bool is_number = digits > 0 && digits <= 5 && host + 1 + digits == size;
    unsigned long number = is_number ? strtoul(port, NULL, 10) : 0;
    return number >= 1 && number <= UINT16_MAX ? NULL : "the port is not 1 to 65535";
}

const char *servers_reason(const char *text)
{
    size_t count = 0;
    while (*text) {
        size_t size = strcspn(text, ",");
        size_t scheme = strncmp(text, "nats://", 7) == 0  ? 7
                        : strncmp(text, "tls://", 6) == 0 ? 6
                                                          : 0;
        const char *login = memrchr(text, '@', size);
        const char *place = login ? login + 1 : text + scheme;
        if (!scheme) {
            return "a server does not begin with nats:// or tls://";
        }
        const char *reason = servers_place_reason(place, size - (size_t)(place - text));
        if (reason) {
            return reason;
        }
        if (++count > CONFIG_SERVERS_MAX) {
            return "too many servers";
        }
        text += size + (text[size] == ',');
        text += strspn(text, " ");
    }
    return NULL;
}

const char *servers_domains_reason(const char *text)
{
    for (size_t count = 0; *text; count++) {
        size_t size = strspn(text, DIGITS LETTERS "-_");
        if (size == 0 || size > CONFIG_DOMAIN_MAX || (text[size] && text[size] != ' ')) {
            return "not names between blanks";
        }
        if (count == CONFIG_DOMAINS_MAX) {
            return "too many domains";
        }
        text += size + (text[size] == ' ');
    }
    return NULL;
}
