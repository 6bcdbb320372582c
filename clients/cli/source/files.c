/* SPDX-License-Identifier: MIT */
/* files: maps in array files, placed, checked and loaded as attnctl analyze does: those of one
 * layer are in memory at a time. */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/system.h"
#include "proto/err.h"
#include "clients/cli/analyze/input.h"
#include "workers/linear/spectrum.h"
#include "clients/cli/arrays/array.h"

#include <stdlib.h>

struct files {
    struct options options;
    struct inputs inputs;
    struct input **input; /* [source->layer_count]; of `inputs` */
    struct input *loaded; /* NULL = none */
};

static void free_files(void *own)
{
    struct files *files = own;
    if (files->loaded) {
        input_unload(files->loaded);
    }
    free(files->input);
    inputs_clear(&files->inputs);
    options_clear(&files->options);
    free(files);
}

/* Rows ---------------------------------------------------------------------------------------- */

static int files_load(struct files *files, struct input *input, char *reterr)
{
    if (files->loaded == input) {
        return 0;
    }
    if (files->loaded) {
        input_unload(files->loaded);
    }
    int rc = input_load(input, reterr);
    files->loaded = rc == 0 ? input : NULL;
    if (rc != 0) {
        input_unload(input);
    }
    return rc;
}

static int files_rows(struct source *source, size_t layer, uint32_t sample, uint32_t head,
                      const struct sink *sink, char *reterr)
{
    struct files *files = source->own;
    struct input *input = files->input[layer];
    const struct attention *a = &input->attention;
    int rc = files_load(files, input, reterr);
    if (rc != 0) {
        return input_exit_of(rc);
    }
    if (input->tier == TIER_QK) {
        return source_give_qk(a, sample, head, sink, reterr);
    }
    source_give_weights(a, sample, head, sink);
    return CLI_OK;
}

/* Opening ------------------------------------------------------------------------------------- */

/* The defaults of analyze, and the values of the request. */
static int files_set_options(const struct source_request *request, struct options *ret_options,
                             char *reterr)
{
    char *nothing[] = {(char *)"attnctl", NULL};
    int rc = options_parse(1, nothing, ret_options, reterr);
    if (rc != 0) {
        return input_exit_of(rc);
    }
    if (request->naming) {
        ret_options->naming = *request->naming;
    }
    ret_options->causal = request->causal;
    ret_options->window = request->window;
    ret_options->softcap = request->softcap;
    if (request->scale != 0) {
        ret_options->scale = request->scale;
    }
    ret_options->files = request->files;
    ret_options->file_count = request->file_count;
    return CLI_OK;
}

int source_open_files(const struct source_request *request, struct source *source, char *reterr)
{
    static const struct source_ops ops = {files_rows, NULL, NULL, free_files};
    struct files *files = memory_new(1, sizeof *files);
    source->kind = SOURCE_FILES;
    source->ops = &ops;
    source->own = files;
    spectrum_global_init();
    int code = files_set_options(request, &files->options, reterr);
    if (code == CLI_OK) {
        int rc = inputs_open(&files->options, true, &files->inputs, reterr);
        code = rc == 0 ? CLI_OK : input_exit_of(rc);
    }
    if (code == CLI_OK) {
        size_t count = files->inputs.count;
        source->layers = memory_new(count, sizeof *source->layers);
        files->input = memory_new(count, sizeof(struct input *));
        for (size_t i = 0; i < count; i++) {
            files->input[i] = &files->inputs.items[i];
            const struct input *input = files->input[i];
            const struct attention *a = &input->attention;
            bool qk = input->tier == TIER_QK;
            source->layers[i] = (struct source_layer){
                .id = input->id,
                .tier = qk ? MESSAGE_QK : MESSAGE_ATTENTION,
                .batch = a->batch,
                .heads = a->heads,
                .queries = a->queries,
                .keys = a->keys,
                .rows = a->queries,
                .columns = a->keys,
                .causal = a->causal,
                .q_offset = a->q_offset,
                .tolerance = attention_tolerance(qk ? DTYPE_F32 : a->dtype),
            };
        }
        source->layer_count = count;
    }
    return code;
}
