/* SPDX-License-Identifier: MIT */
/* layers: the layers of a run by their names, for sentences. */
#include "daemon/control/internal.h"

#include <stdio.h>

/* Layers that a sentence names at most. */
#define LAYERS_NAMED_MAX 6

void layers_on_unmeasured(void *data, const char *layer)
{
    mpk_put_str(data, layer);
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
