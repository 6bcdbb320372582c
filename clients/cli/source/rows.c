/* SPDX-License-Identifier: MIT */
/* rows: weights as they are stored, or queries and keys, as rows of f32. */
#include "clients/cli/source/internal.h"

#include "clients/cli/base/system.h"

#include "workers/base/isa.h"
#include "workers/qk/qk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int source_fail(char *reterr, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reterr, SOURCE_ERROR_MAX, format, args);
    va_end(args);
    return code;
}

/* Entries that are made of queries and keys at a time. */
#define BLOCK_ENTRIES ((size_t)1 << 20)

/* A row of the whole map: padding goes no further. */
static void give_row(const struct source_layer *layer, uint32_t row, const float *weights,
                     const struct sink *sink)
{
    if (row >= layer->first_query && row - layer->first_query < layer->rows) {
        sink->visit(sink->data, row - layer->first_query, weights + layer->first_key);
    }
}

/* As f32, which is exact except for f64. */
static void give_weights(const struct attention *a, const struct source_layer *layer,
                         uint32_t sample, uint32_t head, const struct sink *sink)
{
    double *numbers = memory_new(a->keys, sizeof *numbers);
    float *row = memory_new(a->keys, sizeof *row);
    for (uint32_t i = 0; i < a->queries; i++) {
        attention_load_row(a, sample, head, i, numbers);
        for (uint32_t j = 0; j < a->keys; j++) {
            row[j] = (float)numbers[j];
        }
        give_row(layer, i, row, sink);
    }
    free(numbers);
    free(row);
}

void source_give(const struct attention *a, const struct source_layer *layer, uint32_t sample,
                 uint32_t head, const struct sink *sink)
{
    if (a->weights) {
        give_weights(a, layer, sample, head, sink);
        return;
    }
    /* The same attention as if the batch had this sample and this head alone. */
    struct attention one = *a;
    size_t q = ((size_t)sample * a->heads + head) * a->queries * a->qk.head_dim;
    size_t kv_head = (size_t)sample * a->qk.kv_heads + head / (a->heads / a->qk.kv_heads);
    size_t k = kv_head * a->keys * a->qk.head_dim;
    one.batch = one.heads = one.qk.kv_heads = 1;
    one.qk.q = (const char *)a->qk.q + q * dtype_size(a->qk.q_dtype);
    one.qk.k = (const char *)a->qk.k + k * dtype_size(a->qk.k_dtype);
    one.qk.v = NULL;
    one.tokens = NULL;
    one.q_len = a->q_len ? a->q_len + sample : NULL;
    one.k_len = a->k_len ? a->k_len + sample : NULL;
    one.mask = a->mask ? a->mask + (size_t)sample * a->queries * a->keys : NULL;
    one.documents = a->documents ? a->documents + (size_t)sample * a->keys : NULL;
    struct scratch scratch = {0};
    size_t most = BLOCK_ENTRIES / a->keys;
    uint32_t block = most < 1 ? 1 : most < a->queries ? (uint32_t)most : a->queries;
    float *rows = memory_new((size_t)block * a->keys, sizeof *rows);
    for (uint32_t begin = 0; begin < one.queries; begin += block) {
        uint32_t end = one.queries - begin < block ? one.queries : begin + block;
        if (qk_weights(&one, begin, end, rows, isa_best(), &scratch) != 0) {
            memory_short(); /* all that can fail there */
        }
        for (uint32_t i = begin; i < end; i++) {
            give_row(layer, i, rows + (size_t)(i - begin) * one.keys, sink);
        }
    }
    free(rows);
    scratch_clear(&scratch);
}
