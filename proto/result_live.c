/* SPDX-License-Identifier: MIT */
/* One message's numbers of a layer, for readers (live) and for files (analysis). */
#include "proto/result_internal.h"

static void result_live_put_values(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (numbers->value[i] && metric_in_spectrum(i) == spectrum) {
            part_list(writer, metric_info[i].name, numbers->value[i], numbers->heads);
        }
    }
}

static void result_live_put_vector(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   enum vector vector)
{
    mpk_pair_array(writer, vector_info[vector].name, numbers->heads);
    for (uint32_t h = 0; h < numbers->heads; h++) {
        part_vector_row(writer, vector,
                        numbers->vector[vector] + (size_t)h * vector_info[vector].width);
    }
}

static void result_live_put_numbers(struct mpk_writer *writer, const struct layer_numbers *numbers)
{
    struct mpk_open heads = mpk_open(writer, "heads");
    result_live_put_values(writer, numbers, false);
    if (numbers->pattern) {
        part_pattern(writer, "pattern", numbers->pattern, numbers->heads);
    }
    mpk_close_map(writer, &heads);
    if (numbers->value[METRIC_LOCAL_MASS]) {
        mpk_pair_u64(writer, "local_window", numbers->local_window);
    }
    if (numbers->value[METRIC_FIRST_TOKEN]) { /* the rate is about it */
        mpk_pair_f64(writer, "sink_rate", numbers->sink_rate);
    }
    struct mpk_open aggregates = mpk_open(writer, "aggregate");
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        if (!numbers->has_aggregate[a]) {
            continue;
        }
        mpk_pair_map(writer, aggregate_name[a], MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            mpk_pair_f64(writer, map_stat_name[s], numbers->aggregate[a][s]);
        }
    }
    mpk_close_map_if_any(writer, &aggregates);
    struct mpk_open spectrum = mpk_open(writer, "spectrum");
    result_live_put_values(writer, numbers, true);
    for (unsigned v = 0; v < VECTOR_COUNT; v++) {
        if (numbers->vector[v]) {
            result_live_put_vector(writer, numbers, (enum vector)v);
        }
    }
    mpk_close_map_if_any(writer, &spectrum);
    part_pairs(writer, &numbers->pairs, numbers->heads);
}

void live_encode(const struct live_result *live, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &live->numbers;
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "live", &live->common);
    part_layer(writer, &live->layer);
    mpk_pair_u64(writer, "rank", live->rank);
    result_live_put_numbers(writer, numbers);
    part_similarity(writer, "similarity", &numbers->similarity, numbers->heads);
    part_weights(writer, numbers->weights);
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

void analysis_encode_layer(const struct analysis_layer *layer, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &layer->numbers;
    struct mpk_open map = mpk_open(writer, NULL);
    struct layer_id id = layer->layer.id;
    mpk_pair_str(writer, "stack", layer->stack_known ? stack_name(id.stack) : NULL);
    mpk_pair_u64_or_nil(writer, "layer", layer->layer_known, id.layer);
    mpk_pair_str(writer, "site", layer->site_known ? site_name(id.site) : NULL);
    part_layer_state(writer, &layer->layer);
    result_live_put_numbers(writer, numbers);
    part_similarity(writer, NULL, &numbers->similarity, numbers->heads);
    part_weights(writer, numbers->weights);
    mpk_close_map(writer, &map);
}
