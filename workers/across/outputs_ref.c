/* SPDX-License-Identifier: MIT */
/* outputs_ref: a row as sent is gathered, judged, and handed to the formulas (rows/output_ref.c).
 */
#include "workers/across/outputs_ref.h"

#include "proto/err.h"

uint64_t outputs_ref_bytes(const struct attention *a)
{
    uint64_t doubles = 3 * (uint64_t)a->keys + 3 * (uint64_t)a->qk.value_dim;
    return doubles * sizeof(double) + (uint64_t)a->keys * sizeof(uint32_t);
}

void outputs_ref_begin(struct outputs_ref *ref, const struct attention *a, void *memory)
{
    size_t keys = a->keys, dim = a->qk.value_dim;
    double *f64 = memory;
    *ref = (struct outputs_ref){
        .a = a,
        .sent = f64,
        .weight = f64 + keys,
        .room = {.share = f64 + 2 * keys,
                 .vector = f64 + 3 * keys,
                 .output = f64 + 3 * keys + dim,
                 .written = f64 + 3 * keys + 2 * dim},
        .key = (uint32_t *)(void *)(f64 + 3 * keys + 3 * dim),
    };
}

void outputs_ref_row(const struct outputs_ref *ref, struct head_block *head, uint32_t b, uint32_t h,
                     uint32_t i)
{
    const struct attention *a = ref->a;
    uint32_t n = attention_valid_keys(a, b, i, ref->key);
    attention_load_row(a, b, h, i, ref->sent);
    row_gather(ref->sent, ref->key, n, ref->weight);
    struct row r = {
        .position = attention_position(a, i), .n = n, .key = ref->key, .weight = ref->weight};
    if (row_sound(a, &r, row_sum(&r))) {
        output_ref_add(&ref->room, a, &head[h], b, h, i, &r);
    }
}

int outputs_ref_compute(struct head_block *head, const struct attention *a, uint32_t row_begin,
                        uint32_t row_end, struct scratch *scratch)
{
    uint64_t bytes = outputs_ref_bytes(a);
    void *memory = bytes <= SIZE_MAX ? scratch_take(scratch, (size_t)bytes) : NULL;
    if (!memory) {
        return ERR_MEMORY;
    }
    struct outputs_ref ref;
    outputs_ref_begin(&ref, a, memory);
    for (uint32_t b = 0; b < a->batch; b++) {
        for (uint32_t i = row_begin; i < row_end; i++) {
            scratch_pause(scratch);
            bool valid = attention_query_valid(a, b, i);
            for (uint32_t h = 0; valid && h < a->heads; h++) {
                outputs_ref_row(&ref, head, b, h, i);
            }
        }
    }
    return 0;
}
