/* SPDX-License-Identifier: MIT */
/* input: the engine's input for one layer: shapes that were checked against each other, then the
 * contents. One thread. */
#ifndef CLIENTS_CLI_ANALYZE_INPUT_H
#define CLIENTS_CLI_ANALYZE_INPUT_H

#include "clients/cli/arrays/array.h"
#include "clients/cli/analyze/options.h"

/* layers: the arrays of all files, sorted into the layers they belong to. One thread. */

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
 * Returns 0 or -1. */
int layers_collect(const struct array_list *list, const struct naming *naming,
                   struct layers *ret_layers, char *reterr);
/* Leaves of each layer what its map takes, and no layer without one. Returns 0, or -1 when there is
 * no map. */
int layers_keep_maps(struct layers *layers, char *reterr);
void layers_clear(struct layers *layers);

struct input {
    struct layer_id id;
    enum tier tier;
    bool padding;                                  /* the mask is [B,Tk], of tokens and padding */
    struct attention attention;                    /* tiers attention, qk */
    struct weights weights;                        /* tier weights */
    const struct array *array[TENSOR_ROLE_COUNT];  /* what this tier uses */
    struct array_data contents[TENSOR_ROLE_COUNT]; /* while loaded */
    void *converted[TENSOR_ROLE_COUNT];            /* while loaded; owned */
};

/* A zeroed struct is empty. */
struct inputs {
    struct input *items; /* [count]; in the layers' order, a layer's tiers side by side */
    size_t count;
    /* what they point into */
    struct array_file *files; /* [file_count] */
    int file_count;
    struct array_list arrays;
    struct layers layers;
};

/* Opens the files of the options: their measurable inputs, with shapes and options checked and
 * nothing read yet; with `maps` only those that are maps of attention, or make them. Arrays that
 * belong to nothing are an error. Returns 0, or -1 with a sentence (ARRAY_ERROR_MAX bytes);
 * inputs_clear afterwards, on failure too. */
int inputs_open(const struct options *options, bool maps, struct inputs *inputs, char *reterr);
void inputs_clear(struct inputs *inputs);

/* Reads the contents; input_unload afterwards, on failure too. Returns 0, or -1 with
 * a sentence. */
int input_load(struct input *input, char *reterr);
void input_unload(struct input *input);

#endif
