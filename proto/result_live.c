/* SPDX-License-Identifier: MIT */
/* One message's numbers of a layer, for readers (live) and for files (analysis). */
#include "proto/result_internal.h"

static uint32_t count_values(const struct layer_numbers *numbers, bool spectrum)
{
    uint32_t count = 0;

    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        count += numbers->value[i] && metric_in_spectrum(i) == spectrum;
    }
    return count;
}

static void result_live_put_values(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (numbers->value[i] && metric_in_spectrum(i) == spectrum) {
            part_list(writer, metric_info[i].name, numbers->value[i], numbers->heads);
        }
    }
}

static void result_live_put_heads(struct mpk_writer *writer, const struct layer_numbers *numbers)
{
    mpk_put_str(writer, "heads");
    mpk_put_map(writer, count_values(numbers, false) + (numbers->pattern != NULL));
    result_live_put_values(writer, numbers, false);
    if (numbers->pattern) {
        part_pattern(writer, "pattern", numbers->pattern, numbers->heads);
    }
}

/* The rate is about first_token. */
static bool has_sink_rate(const struct layer_numbers *numbers)
{
    return numbers->value[METRIC_FIRST_TOKEN] != NULL;
}

static bool has_local_window(const struct layer_numbers *numbers)
{
    return numbers->value[METRIC_LOCAL_MASS] != NULL;
}

static uint32_t result_live_count_aggregates(const struct layer_numbers *numbers)
{
    uint32_t count = 0;

    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        count += numbers->has_aggregate[a];
    }
    return count;
}

static void result_live_put_aggregates(struct mpk_writer *writer,
                                       const struct layer_numbers *numbers)
{
    uint32_t count = result_live_count_aggregates(numbers);

    if (count == 0) {
        return;
    }
    mpk_put_str(writer, "aggregate");
    mpk_put_map(writer, count);
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        if (!numbers->has_aggregate[a]) {
            continue;
        }
        mpk_put_str(writer, aggregate_name[a]);
        mpk_put_map(writer, MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            part_real(writer, map_stat_name[s], numbers->aggregate[a][s]);
        }
    }
}

static void result_live_put_vector(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   enum vector vector)
{
    mpk_put_str(writer, vector_info[vector].name);
    mpk_put_array(writer, numbers->heads);
    for (uint32_t h = 0; h < numbers->heads; h++) {
        part_vector_row(writer, vector,
                        numbers->vector[vector] + (size_t)h * vector_info[vector].width);
    }
}

static uint32_t result_live_count_spectrum(const struct layer_numbers *numbers)
{
    uint32_t count = count_values(numbers, true);

    for (unsigned v = 0; v < VECTOR_COUNT; v++) {
        count += numbers->vector[v] != NULL;
    }
    return count;
}

static void result_live_put_spectrum(struct mpk_writer *writer, const struct layer_numbers *numbers)
{
    uint32_t count = result_live_count_spectrum(numbers);

    if (count == 0) {
        return;
    }
    mpk_put_str(writer, "spectrum");
    mpk_put_map(writer, count);
    result_live_put_values(writer, numbers, true);
    for (unsigned v = 0; v < VECTOR_COUNT; v++) {
        if (numbers->vector[v]) {
            result_live_put_vector(writer, numbers, (enum vector)v);
        }
    }
}

/* Keys that put_numbers writes; `heads` is always there. */
static uint32_t count_numbers(const struct layer_numbers *numbers)
{
    return 1 + (uint32_t)has_local_window(numbers) + (uint32_t)has_sink_rate(numbers) +
           (result_live_count_aggregates(numbers) > 0) + (result_live_count_spectrum(numbers) > 0) +
           part_pairs_count(&numbers->pairs);
}

static void result_live_put_numbers(struct mpk_writer *writer, const struct layer_numbers *numbers)
{
    result_live_put_heads(writer, numbers);
    if (has_local_window(numbers)) {
        part_number(writer, "local_window", numbers->local_window);
    }
    if (has_sink_rate(numbers)) {
        part_real(writer, "sink_rate", numbers->sink_rate);
    }
    result_live_put_aggregates(writer, numbers);
    result_live_put_spectrum(writer, numbers);
    part_pairs(writer, &numbers->pairs, numbers->heads);
}

void live_encode(const struct live_result *live, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &live->numbers;
    bool similarity = numbers->similarity.cosine != NULL;

    /* besides: rank, snapshot */
    mpk_put_map(writer, PART_COMMON_PAIRS + PART_LAYER_PAIRS +
                            part_module_count(live->layer.module) +
                            part_rows_of_count(&live->layer) + 2 + count_numbers(numbers) +
                            (uint32_t)similarity + (numbers->weights != NULL));
    part_common(writer, "live", &live->common);
    part_layer(writer, &live->layer);
    part_number(writer, "rank", live->rank);
    result_live_put_numbers(writer, numbers);
    if (similarity) {
        mpk_put_str(writer, "similarity");
        mpk_put_map(writer, PART_SIMILARITY_PAIRS);
        part_similarity(writer, &numbers->similarity, numbers->heads);
    }
    if (numbers->weights) {
        part_weights(writer, numbers->weights);
    }
    part_flag(writer, "snapshot", false);
}

static void put_known_id(struct mpk_writer *writer, const struct analysis_layer *layer)
{
    mpk_put_str(writer, "stack");
    if (layer->stack_known) {
        mpk_put_str(writer, stack_name(layer->layer.id.stack));
    } else {
        mpk_put_nil(writer);
    }
    mpk_put_str(writer, "layer");
    if (layer->layer_known) {
        mpk_put_u64(writer, layer->layer.id.layer);
    } else {
        mpk_put_nil(writer);
    }
    mpk_put_str(writer, "site");
    if (layer->site_known) {
        mpk_put_str(writer, site_name(layer->layer.id.site));
    } else {
        mpk_put_nil(writer);
    }
}

void analysis_encode_layer(const struct analysis_layer *layer, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &layer->numbers;
    bool similarity = numbers->similarity.cosine != NULL;

    mpk_put_map(writer, PART_LAYER_PAIRS + part_rows_of_count(&layer->layer) +
                            count_numbers(numbers) + (similarity ? PART_SIMILARITY_PAIRS : 0u) +
                            (numbers->weights != NULL));
    put_known_id(writer, layer);
    part_layer_state(writer, &layer->layer);
    result_live_put_numbers(writer, numbers);
    if (similarity) {
        part_similarity(writer, &numbers->similarity, numbers->heads);
    }
    if (numbers->weights) {
        part_weights(writer, numbers->weights);
    }
}
