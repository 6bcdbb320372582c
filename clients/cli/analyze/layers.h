/* SPDX-License-Identifier: MIT */
/* layers: the arrays of all files, sorted into the layers they belong to. One thread. */
#ifndef CLIENTS_CLI_ANALYZE_LAYERS_H
#define CLIENTS_CLI_ANALYZE_LAYERS_H

#include "clients/cli/arrays/array.h"
#include "clients/cli/arrays/name.h"

/* One attention of the model; its arrays are borrowed from the list. */
struct layer_arrays {
    struct layer_id id;
    const struct array *array[TENSOR_ROLE_COUNT]; /* NULL = not there */
};

struct layers {
    struct layer_arrays *items; /* [count]; encoder before decoder, by layer, self before cross */
    size_t count;
    bool mixed; /* there are layers of both stacks */
};

/* Places every array of the list. On failure there is nothing to clear, and reterr
 * (ARRAY_ERROR_MAX bytes) names the array and its file, or the pattern that is about no array.
 * Returns 0, or -1 or ERR_MEMORY. */
int layers_collect(const struct array_list *list, const struct naming *naming,
                   struct layers *ret_layers, char *reterr);
/* Leaves of each layer what its map takes, and no layer without one. Returns 0, or -1 when there is
 * no map. */
int layers_keep_maps(struct layers *layers, char *reterr);
void layers_clear(struct layers *layers);

#endif
