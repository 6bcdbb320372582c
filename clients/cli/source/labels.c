/* SPDX-License-Identifier: MIT */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/system.h"
#include "proto/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void labels_add(struct labels *labels, const char *text, size_t len)
{
    len = strnlen(text, len);
    if (labels->count == LABELS_MAX) {
        return;
    }
    if (labels->count == labels->room) {
        labels->room = labels->room ? 2 * labels->room : 64;
        labels->items = memory_grow(labels->items, labels->room, sizeof *labels->items);
    }
    /* A copy of valid UTF-8; a byte that is none takes three. */
    char *copy = memory_new(3 * len + 1, 1), *to = copy;
    while (len > 0) {
        uint32_t code;
        size_t taken = utf8_take(text, len, &code);
        to += utf8_put(code, to);
        text += taken;
        len -= taken;
    }
    *to = '\0';
    labels->items[labels->count++] = copy;
}

void labels_add_list(struct labels *labels, const msgpack_object *list)
{
    uint32_t count = list && list->type == MSGPACK_OBJECT_ARRAY ? list->via.array.size : 0;
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *item = &list->via.array.ptr[i];
        if (item->type == MSGPACK_OBJECT_STR) {
            labels_add(labels, item->via.str.ptr, item->via.str.size);
        }
    }
}

void labels_add_words(struct labels *labels, const char *text)
{
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t len = strcspn(text, " ");
        labels_add(labels, text, len);
        text += len;
    }
}

int labels_add_file(struct labels *labels, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return -1;
    }
    char *line = NULL;
    size_t size = 0;
    ssize_t got;
    while ((errno = 0, got = getline(&line, &size, file)) >= 0) {
        size_t len = (size_t)got;
        len -= len > 0 && line[len - 1] == '\n';
        len -= len > 0 && line[len - 1] == '\r';
        labels_add(labels, line, len);
    }
    int number = errno, rc = feof(file) ? 0 : -1;
    free(line);
    fclose(file);
    errno = number;
    return rc;
}

const char *labels_get(const struct labels *labels, uint32_t index)
{
    return index < labels->count ? labels->items[index] : NULL;
}

void labels_clear(struct labels *labels)
{
    while (labels->count > 0) {
        free(labels->items[--labels->count]);
    }
    free(labels->items);
    *labels = (struct labels){0};
}
