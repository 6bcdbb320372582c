/* SPDX-License-Identifier: MIT */
#include "proto/result_internal.h"

#include <math.h>

static void result_part_put_reals(struct mpk_writer *writer, const double *list, uint32_t length)
{
    mpk_put_array(writer, length);
    for (uint32_t i = 0; i < length; i++) {
        mpk_put_f64(writer, list[i]);
    }
}

void part_list(struct mpk_writer *writer, const char *key, const double *list, uint32_t length)
{
    mpk_put_str(writer, key);
    result_part_put_reals(writer, list, length);
}

void part_matrix(struct mpk_writer *writer, const char *key, const double *matrix, uint32_t rows,
                 uint32_t columns)
{
    mpk_pair_array(writer, key, rows);
    for (uint32_t i = 0; i < rows; i++) {
        result_part_put_reals(writer, matrix + (size_t)i * columns, columns);
    }
}

void part_vector_row(struct mpk_writer *writer, enum vector vector, const double *row)
{
    uint32_t length = vector_info[vector].width;
    while (vector_info[vector].ends && length > 0 && isnan(row[length - 1])) {
        length--;
    }
    result_part_put_reals(writer, row, length);
}

/* ---- keys of all, and of layers ---- */

void run_hex(const uint8_t run[RUN_BYTES], char ret_hex[2 * RUN_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < RUN_BYTES; i++) {
        ret_hex[2 * i] = digits[run[i] >> 4];
        ret_hex[2 * i + 1] = digits[run[i] & 15];
    }
    ret_hex[2 * RUN_BYTES] = '\0';
}

void part_common(struct mpk_writer *writer, const char *kind, const struct result_common *common)
{
    char run[2 * RUN_BYTES + 1];
    run_hex(common->run, run);
    mpk_pair_u64(writer, "v", PROTO_VERSION);
    mpk_pair_str(writer, "kind", kind);
    mpk_pair_str(writer, "job", common->job);
    mpk_pair_str(writer, "run", run);
    mpk_pair_u64(writer, "epoch", common->epoch);
    mpk_pair_u64(writer, "step", common->step);
    mpk_pair_u64(writer, "time_ns", common->time_ns);
}

void part_layer_id(struct mpk_writer *writer, struct layer_id id)
{
    mpk_pair_str(writer, "stack", stack_name(id.stack));
    mpk_pair_u64(writer, "layer", id.layer);
    mpk_pair_str(writer, "site", site_name(id.site));
}

void part_module(struct mpk_writer *writer, const char *module)
{
    if (module) {
        mpk_pair_str(writer, "module", module);
    }
}

/* Weight matrices have no [B, H, Tq, Tk]. */
static void result_part_put_shape(struct mpk_writer *writer, const struct result_layer *layer)
{
    mpk_put_str(writer, "shape");
    if (layer->tier == MESSAGE_WEIGHTS) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_array(writer, 4);
    for (unsigned i = 0; i < 4; i++) {
        mpk_put_u64(writer, layer->shape[i]);
    }
}

void part_layer_state(struct mpk_writer *writer, const struct result_layer *layer)
{
    mpk_pair_str(writer, "tier", message_type_name(layer->tier));
    result_part_put_shape(writer, layer);
    mpk_pair_bool(writer, "causal", layer->causal);
    mpk_pair_u64(writer, "rows", layer->rows);
    if (layer->rows_of > layer->rows) {
        mpk_pair_u64(writer, "rows_of", layer->rows_of);
    }
    mpk_pair_u64(writer, "invalid_rows", layer->invalid_rows);
    mpk_pair_f64(writer, "row_sum_error", layer->row_sum_error);
}

void part_layer(struct mpk_writer *writer, const struct result_layer *layer)
{
    part_layer_id(writer, layer->id);
    part_module(writer, layer->module);
    part_layer_state(writer, layer);
}

void part_dropped(struct mpk_writer *writer, const struct reason_count *dropped, uint32_t count)
{
    mpk_pair_map(writer, "dropped", count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_pair_u64(writer, dropped[i].reason, dropped[i].count);
    }
}

/* ---- pairs, similarity, patterns ---- */

static void put_pair_list(struct mpk_writer *writer, const struct pair *pairs, uint32_t count)
{
    mpk_put_array(writer, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(writer, 3);
        mpk_pair_u64(writer, "query", pairs[i].query);
        mpk_pair_u64(writer, "key", pairs[i].key);
        mpk_pair_f64(writer, "weight", pairs[i].weight);
    }
}

void part_pairs(struct mpk_writer *writer, const struct result_pairs *pairs, uint32_t heads)
{
    if (pairs->pairs) {
        mpk_put_str(writer, "top_pairs");
        put_pair_list(writer, pairs->pairs, pairs->count);
    }
    if (!pairs->head_pairs) {
        return;
    }
    mpk_pair_array(writer, "head_top_pairs", heads);
    for (uint32_t h = 0; h < heads; h++) {
        put_pair_list(writer, pairs->head_pairs + (size_t)h * pairs->head_limit,
                      pairs->head_count[h]);
    }
}

void part_similarity(struct mpk_writer *writer, const char *key,
                     const struct result_similarity *similarity, uint32_t heads)
{
    if (!similarity->cosine) {
        return;
    }
    if (key) {
        mpk_pair_map(writer, key, 4);
    }
    part_matrix(writer, "head_similarity", similarity->cosine, heads, heads);
    part_matrix(writer, "head_js", similarity->js, heads, heads);
    mpk_pair_array(writer, "redundant_pairs", similarity->redundant_count);
    for (uint32_t i = 0; i < similarity->redundant_count; i++) {
        mpk_put_map(writer, 2);
        mpk_pair_array(writer, "heads", 2);
        mpk_put_u64(writer, similarity->redundant[i].g);
        mpk_put_u64(writer, similarity->redundant[i].h);
        mpk_pair_f64(writer, "js", similarity->redundant[i].js);
    }
    mpk_pair_u64(writer, "redundant_total", similarity->redundant_total);
}

void part_pattern(struct mpk_writer *writer, const char *key, const enum pattern *pattern,
                  uint32_t heads)
{
    mpk_pair_array(writer, key, heads);
    for (uint32_t h = 0; h < heads; h++) {
        mpk_put_str(writer, pattern_name[pattern[h]]);
    }
}
