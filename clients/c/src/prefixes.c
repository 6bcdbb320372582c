/* SPDX-License-Identifier: MIT */
#include "clients/c/src/prefixes.h"

#include <stdlib.h>
#include <string.h>

static size_t prefixes_find(const struct prefixes *prefixes, const char *text, size_t len)
{
    size_t i = 0;
    while (i < prefixes->count &&
           !(prefixes->items[i].len == len && memcmp(prefixes->items[i].text, text, len) == 0)) {
        i++;
    }
    return i;
}

static bool prefixes_add(struct prefixes *prefixes, const char *text, size_t len)
{
    if (prefixes_find(prefixes, text, len) < prefixes->count || prefixes->count == PREFIXES_MAX) {
        return true;
    }
    struct prefix *items = realloc(prefixes->items, (prefixes->count + 1) * sizeof *items);
    prefixes->items = items ? items : prefixes->items;
    char *copy = items ? malloc(len + 1) : NULL;
    if (!copy) {
        return false;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    prefixes->items[prefixes->count++] = (struct prefix){copy, len};
    return true;
}

bool prefixes_apply(struct prefixes *prefixes, const void *notice, size_t len)
{
    const char *bytes = notice;
    if (len > 0 && bytes[0] == 1) {
        return prefixes_add(prefixes, bytes + 1, len - 1);
    }
    if (len > 0 && bytes[0] == 0) {
        size_t at = prefixes_find(prefixes, bytes + 1, len - 1);
        if (at != prefixes->count) {
            free(prefixes->items[at].text);
            prefixes->items[at] = prefixes->items[--prefixes->count];
        }
    }
    return true;
}

bool prefixes_match(const struct prefixes *prefixes, const char *topic)
{
    for (size_t i = 0; i < prefixes->count; i++) {
        if (strncmp(topic, prefixes->items[i].text, prefixes->items[i].len) == 0) {
            return true;
        }
    }
    return false;
}

bool prefixes_touch(const struct prefixes *prefixes, const char *root)
{
    size_t root_len = strlen(root);
    for (size_t i = 0; i < prefixes->count; i++) {
        size_t len = prefixes->items[i].len;
        if (memcmp(root, prefixes->items[i].text, len < root_len ? len : root_len) == 0) {
            return true;
        }
    }
    return false;
}

bool prefixes_have(const struct prefixes *prefixes, const char *text)
{
    return prefixes_find(prefixes, text, strlen(text)) < prefixes->count;
}

void prefixes_clear(struct prefixes *prefixes)
{
    for (size_t i = 0; i < prefixes->count; i++) {
        free(prefixes->items[i].text);
    }
    free(prefixes->items);
    *prefixes = (struct prefixes){0};
}
