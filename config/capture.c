/* SPDX-License-Identifier: MIT */
/* Checks that a trainer could only warn about: a layer pattern without wildcards that names no
 * layer, so that nothing would ever be captured, is refused now. */
#include "config/capture.h"

#include "config/config.h"
#include "proto/header.h"

#include <stdlib.h>
#include <string.h>

#define WILDCARDS "*?["
#define WORD_BYTES                                                                                 \
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-" WILDCARDS "]!"

/* A decimal number without leading zeros, at most `max`; *text moves behind it. */
static bool capture_take_number(const char **text, uint32_t max, uint32_t *ret_number)
{
    const char *at = *text;
    uint32_t number = 0;
    for (; *at >= '0' && *at <= '9' && number <= max; at++) {
        number = number * 10 + (uint32_t)(*at - '0');
    }
    bool valid = at > *text && number <= max && (**text != '0' || at == *text + 1);
    *text = at;
    *ret_number = number;
    return valid;
}

static bool capture_take_word(const char **text, const char *first, const char *second)
{
    const char *word = strncmp(*text, first, strlen(first)) == 0 ? first : second;
    if (strncmp(*text, word, strlen(word)) != 0) {
        return false;
    }
    *text += strlen(word);
    return true;
}

/* "decoder.3.self" up to `end`. */
static bool is_layer(const char *text, const char *end)
{
    uint32_t layer;
    return capture_take_word(&text, "encoder.", "decoder.") &&
           capture_take_number(&text, LAYER_MAX, &layer) &&
           capture_take_word(&text, ".self", ".cross") && text == end;
}

static bool has_wildcard(const char *text, const char *end)
{
    return text + strcspn(text, WILDCARDS) < end;
}

const char *capture_layers_reason(const char *text)
{
    if (strlen(text) >= CONFIG_LAYERS_MAX) {
        return "too long";
    }
    for (;; text++) {
        const char *end = text + strspn(text, WORD_BYTES);
        if (end == text || (*end != '\0' && *end != ' ')) {
            return "not patterns of layers";
        }
        if (!has_wildcard(text, end) && !is_layer(text, end)) {
            return "names no layer";
        }
        if (*end == '\0') {
            return NULL;
        }
        text = end;
    }
}

/* "3", or "0-3"; *text moves behind it. */
static bool take_range(const char **text)
{
    uint32_t first, last;
    if (!capture_take_number(text, HEADS_TOTAL_MAX - 1, &first)) {
        return false;
    }
    if (**text != '-') {
        return true;
    }
    ++*text;
    return capture_take_number(text, HEADS_TOTAL_MAX - 1, &last) && first <= last;
}

const char *capture_heads_reason(const char *text)
{
    if (strlen(text) >= CONFIG_HEADS_MAX) {
        return "too long";
    }
    if (strcmp(text, "*") == 0) {
        return NULL;
    }
    while (take_range(&text)) {
        if (*text == '\0') {
            return NULL;
        }
        if (*text++ != ',') {
            break;
        }
    }
    return "not a list of heads";
}

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
