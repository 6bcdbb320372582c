/* SPDX-License-Identifier: MIT */
/* files: maps in array files, placed and checked as attnctl analyze does. Attention weights come
 * row by row through a stream that stays open from head to head, so that a packed entry is unpacked
 * once while heads are asked for in their order. Queries and keys, and weights in Fortran order,
 * are in memory, those of one layer at a time. */
#include "clients/cli/source/internal.h"

#include "proto/err.h"
#include "clients/cli/analyze/input.h"
#include "workers/linear/spectrum.h"
#include "clients/cli/arrays/array.h"

#include <stdlib.h>

/* Bytes of rows that are read at once. */
#define READ_BYTES ((size_t)256 << 10)

struct files {
    struct options options;
    struct inputs inputs;
    struct input **input; /* [source->layer_count]; of `inputs` */
    struct array_stream stream;
    struct input *loaded; /* queries and keys; NULL = none */
};

static void free_files(void *own)
{
    struct files *files = own;
    array_stream_close(&files->stream);
    if (files->loaded) {
        input_unload(files->loaded);
    }
    free(files->input);
    inputs_clear(&files->inputs);
    options_clear(&files->options);
    free(files);
}

/* Rows ---------------------------------------------------------------------------------------- */

/* A map in the order of its rows. */
static int give_plain(struct files *files, const struct input *input, uint32_t sample,
                      uint32_t head, const struct sink *sink, char *reterr)
{
    const struct attention *a = &input->attention;
    const struct array *array = input->array[TENSOR_WEIGHTS];
    size_t size = a->keys * dtype_size(a->dtype);
    uint32_t rows = size < READ_BYTES ? (uint32_t)(READ_BYTES / size) : 1;
    uint64_t from = ((uint64_t)sample * a->heads + head) * a->queries * size;
    void *bytes = malloc(rows * size);
    float *row = malloc(a->keys * sizeof *row);
    int rc = bytes && row ? 0 : ERR_MEMORY;
    if (rc != 0) {
        source_fail_memory(reterr);
    } else if (!array_stream_reaches(&files->stream, array, from)) {
        array_stream_close(&files->stream);
        rc = array_stream_open(array, &files->stream, reterr);
    }
    /* As many rows at a time as READ_BYTES hold, one at least. */
    for (uint32_t i = 0; i < a->queries && rc == 0; i++) {
        uint32_t in_block = i % rows, left = a->queries - i;
        if (in_block == 0) {
            rc = array_stream_read(&files->stream, from + i * size, bytes,
                                   (left < rows ? left : rows) * size, reterr);
        }
        if (rc == 0) {
            source_convert((char *)bytes + in_block * size, a->dtype, a->keys, row);
            sink->visit(sink->data, i, row);
        }
    }
    free(bytes);
    free(row);
    return rc;
}

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
    const struct array *weights = input->array[TENSOR_WEIGHTS];
    char error[SOURCE_ERROR_MAX];
    if (input->tier == TIER_QK || weights->fortran) { /* all of it is in memory then */
        const struct attention *a = &input->attention;
        int rc = files_load(files, input, reterr);
        if (rc != 0) {
            return input_exit_of(rc);
        }
        size_t map = (size_t)a->queries * a->keys * dtype_size(a->dtype);
        size_t from = ((size_t)sample * a->heads + head) * map;
        return input->tier == TIER_QK ? source_give_qk(a, sample, head, sink, reterr)
                                      : source_give_map((const char *)a->weights + from, a->dtype,
                                                        a->queries, a->keys, sink, reterr);
    }
    int rc = give_plain(files, input, sample, head, sink, error);
    if (rc == 0) {
        return CLI_OK;
    }
    return source_fail(reterr, input_exit_of(rc), "%.200s: %.700s", weights->file->path, error);
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

static int files_fill_layers(struct files *files, struct source *source, char *reterr)
{
    size_t count = files->inputs.count;
    source->layers = calloc(count, sizeof *source->layers);
    files->input = calloc(count, sizeof(struct input *));
    if (!source->layers || !files->input) {
        return source_fail_memory(reterr);
    }
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
    return CLI_OK;
}

int source_open_files(const struct source_request *request, struct source *source, char *reterr)
{
    static const struct source_ops ops = {files_rows, NULL, NULL, free_files};
    struct files *files = calloc(1, sizeof *files);
    if (!files) {
        return source_fail_memory(reterr);
    }
    source->kind = SOURCE_FILES;
    source->ops = &ops;
    source->own = files;
    spectrum_global_init();
    int code = files_set_options(request, &files->options, reterr);
    if (code == CLI_OK) {
        int rc = inputs_open(&files->options, true, &files->inputs, reterr);
        code = rc == 0 ? CLI_OK : input_exit_of(rc);
    }
    return code == CLI_OK ? files_fill_layers(files, source, reterr) : code;
}
