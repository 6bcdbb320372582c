/* SPDX-License-Identifier: MIT */
/* layers: the layers of a run by their names, for plans that name some, and for sentences. */
#include "daemon/control/internal.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

/* Layers that a sentence names at most. */
#define LAYERS_NAMED_MAX 6

bool layers_take(const char *patterns, struct layer_id layer)
{
    char name[LAYER_NAME_MAX], pattern[CONFIG_LAYERS_MAX];
    layer_name(layer, name);
    while (*(patterns += strspn(patterns, " "))) {
        size_t length = strcspn(patterns, " ");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, patterns);
        if (fnmatch(pattern, name, 0) == 0) {
            return true;
        }
        patterns += length;
    }
    return false;
}

void layers_list(const struct run *run, char ret_text[LAYERS_LIST_MAX])
{
    char name[LAYER_NAME_MAX];
    size_t used = 0;
    int index = 0;
    *ret_text = '\0';
    for (const struct stream *stream = run->streams; stream && index <= LAYERS_NAMED_MAX;
         stream = stream->hh.next, index++) {
        used += (size_t)snprintf(ret_text + used, LAYERS_LIST_MAX - used, "%s%s", index ? ", " : "",
                                 index < LAYERS_NAMED_MAX ? layer_name(stream->id, name) : "...");
    }
}
