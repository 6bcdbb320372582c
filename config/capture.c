/* SPDX-License-Identifier: MIT */
/* Checks that a trainer could only warn about: a layer pattern without wildcards that names no
 * layer, so that nothing would ever be captured, is refused now. */
#include "config/capture.h"

#include "config/config.h"
#include "proto/header.h"

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
