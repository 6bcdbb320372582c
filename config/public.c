/* SPDX-License-Identifier: MIT */
/* public: values of settings without the secrets in them. An address of a webhook is a password by
 * itself, and so can be any argument of a command. */
#include "config/config.h"

#include <string.h>

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* The last part of the program's path. */
static void public_command(const char *value, char *ret_text)
{
    size_t program = strcspn(value, " "), name = program;
    while (name > 0 && value[name - 1] != '/') {
        name--;
    }
    snprintf(ret_text, CONFIG_PUBLIC_MAX, "%.*s%s", (int)(program - name), value + name,
             value[program] ? " ..." : "");
}

/* Whether it is host or host:port as they are commonly written, so that nothing else can be in it.
 */
static bool public_is_host(const char *text, size_t length)
{
    size_t host = text[0] == '[' ? strcspn(text, "]") + 1 : strcspn(text, ":");
    if (host >= length) {
        host = length;
    } else if (text[host] != ':' || strspn(text + host + 1, "0123456789") != length - host - 1) {
        return false;
    }
    for (size_t i = 0; i < host; i++) {
        if (!strchr(letters, text[i]) && !strchr("0123456789.-_[]:", text[i])) {
            return false;
        }
    }
    return host > 0;
}

/* Scheme, host and port. */
static void public_url(const char *value, char *ret_text)
{
    const char *colon = value + strspn(value, letters);
    if (strncmp(colon, "://", 3) != 0) {
        strcpy(ret_text, "...");
        return;
    }
    const char *host = colon + 3, *end = host + strcspn(host, "/?#\\");
    for (const char *at = host; at < end; at++) {
        if (*at == '@') {
            host = at + 1;
        }
    }
    if (!public_is_host(host, (size_t)(end - host))) {
        host = end;
    }
    bool whole = host == colon + 3 && (!*end || strcmp(end, "/") == 0);
    snprintf(ret_text, CONFIG_PUBLIC_MAX, "%.*s%.*s%s", (int)(colon + 3 - value), value,
             (int)(end - host), host,
             whole         ? end
             : host == end ? "..."
                           : "/...");
}

/* Servers with commas, without who logs in there. */
static void public_servers(const char *value, char *ret_text)
{
    size_t size = 0;
    while (*value) {
        size_t length = strcspn(value, ",");
        const char *scheme = strstr(value, "://"), *at = memrchr(value, '@', length);
        bool has_login = scheme && at && at > scheme && scheme < value + length;
        const char *rest = has_login ? at : value;
        int written =
            snprintf(ret_text + size, CONFIG_PUBLIC_MAX - size, "%.*s%s%.*s%s",
                     has_login ? (int)(scheme + 3 - value) : 0, value, has_login ? "..." : "",
                     (int)(value + length - rest), rest, value[length] ? "," : "");
        size += (size_t)written;
        value += length + (value[length] == ',');
        if (size + 8 >= CONFIG_PUBLIC_MAX) {
            break;
        }
    }
}

const char *config_public(const char *section, const char *name, const char *value,
                          char buffer[CONFIG_PUBLIC_MAX])
{
    if (strcmp(section, "fleet") == 0 && strcmp(name, "url") == 0 && strchr(value, '@')) {
        public_servers(value, buffer);
        return buffer;
    }
    if (strcmp(section, "alerts") != 0 || !*value) {
        return value;
    }
    if (strcmp(name, "webhook") == 0) {
        public_url(value, buffer);
    } else if (strcmp(name, "command") == 0) {
        public_command(value, buffer);
    } else {
        return value;
    }
    return buffer;
}
