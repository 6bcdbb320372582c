/* SPDX-License-Identifier: MIT */
/* One map of all heads of a layer, in each of the ways that attnd knows: their sum, mean and
 * largest weights, and sums weighted by what the user gives or by the heads' importance. */
#include "clients/cli/plot/measures.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct blend {
    const struct source_layer *layer;
    struct head_maps *maps;
    float *values[AGGREGATE_COUNT]; /* [rows][columns]; NULL = none */
};

/* sum_h weight[h] A_h */
static int add_weighted(struct plot *plot, struct blend *aggregate, enum aggregate kind,
                        const double *weights)
{
    size_t cells = (size_t)aggregate->layer->rows * aggregate->layer->columns;
    double *sum = calloc(cells, sizeof(*sum));
    float *values = malloc(cells * sizeof(*values));
    if (sum && values) {
        head_maps_add_weighted(aggregate->maps, weights, sum);
        for (size_t i = 0; i < cells; i++)
            values[i] = (float)sum[i];
    }
    free(sum);
    if (!sum || !values) {
        free(values);
        return plot_fail_memory(plot);
    }
    aggregate->values[kind] = values;
    return CLI_OK;
}

static int copy(struct plot *plot, struct blend *aggregate, enum aggregate kind, const float *from)
{
    size_t bytes = (size_t)aggregate->layer->rows * aggregate->layer->columns * sizeof(*from);
    aggregate->values[kind] = malloc(bytes);
    if (!aggregate->values[kind])
        return plot_fail_memory(plot);
    memcpy(aggregate->values[kind], from, bytes);
    return CLI_OK;
}

static int add_sum(struct plot *plot, struct blend *aggregate)
{
    double *ones = malloc(aggregate->layer->heads * sizeof(*ones));
    if (!ones)
        return plot_fail_memory(plot);
    for (uint32_t h = 0; h < aggregate->layer->heads; h++)
        ones[h] = 1;
    int code = add_weighted(plot, aggregate, AGGREGATE_SUM, ones);
    free(ones);
    return code;
}

static int add_importance(struct plot *plot, struct blend *aggregate,
                          const struct attention *attention)
{
    struct measure *measure = NULL;
    int code = measures_run(plot, attention, METRIC_GROUP_IMPORTANCE, &measure);
    if (code != CLI_OK)
        return code;
    const double *importance = measure_result(measure)->value[METRIC_IMPORTANCE];
    if (importance)
        code = add_weighted(plot, aggregate, AGGREGATE_IMPORTANCE, importance);
    measure_free(&measure);
    return code;
}

static int add_given(struct plot *plot, struct blend *aggregate)
{
    const struct plot_options *options = &plot->options;
    if (options->head_weight_count == 0)
        return CLI_OK;
    if (options->head_weight_count != aggregate->layer->heads)
        return plot_fail(plot, CLI_USAGE,
                         "--head-weights: %" PRIu32 " of them, but %" PRIu32 " heads",
                         options->head_weight_count, aggregate->layer->heads);
    return add_weighted(plot, aggregate, AGGREGATE_WEIGHTED, options->head_weights);
}

/* Of pooled maps only what is linear in them is right. */
static int work_out(struct plot *plot, struct blend *aggregate, const struct attention *attention)
{
    const struct source_layer *layer = aggregate->layer;
    bool whole = layer->rows == layer->queries && layer->columns == layer->keys;
    int code = add_sum(plot, aggregate);
    if (code == CLI_OK)
        code = copy(plot, aggregate, AGGREGATE_MEAN, aggregate->maps->mean);
    if (code == CLI_OK && whole)
        code = copy(plot, aggregate, AGGREGATE_MAX, aggregate->maps->max);
    if (code == CLI_OK)
        code = add_given(plot, aggregate);
    if (code == CLI_OK && whole)
        code = add_importance(plot, aggregate, attention);
    return code;
}

static int draw(struct plot *plot, const struct choice *choice, const struct blend *aggregate,
                const struct map_texts *texts, struct bytes *ret_file)
{
    static const char *const titles[AGGREGATE_COUNT] = {[AGGREGATE_SUM] = "sum",
                                                        [AGGREGATE_MEAN] = "mean",
                                                        [AGGREGATE_MAX] = "max",
                                                        [AGGREGATE_WEIGHTED] = "weighted",
                                                        [AGGREGATE_IMPORTANCE] = "by importance"};
    struct panel panels[AGGREGATE_COUNT];
    struct panels all = {.items = panels, .bar_title = ""};
    char title[TITLE_MAX], place[PLACE_TEXT_MAX], details[DETAILS_MAX];
    for (int i = 0; i < AGGREGATE_COUNT; i++) {
        if (!aggregate->values[i])
            continue;
        panels[all.count] = plot_maps_panel(aggregate->layer, aggregate->values[i], texts);
        snprintf(panels[all.count].title, PANEL_TITLE_MAX, "%s", titles[i]);
        all.count++;
    }
    all.columns = plot->options.columns ? plot->options.columns : all.count > 4 ? 3 : 2;
    place_layer(plot->layers[choice->layer].id, place);
    plot_maps_details(plot, choice->layer, details);
    snprintf(title, sizeof(title), "%s, %" PRIu32 " heads in one map%s", place,
             aggregate->layer->heads, details);
    struct page page = plot_page(plot, all.columns > 2 ? WIDTH_TWO : 5, title);
    return plot_panels(plot, &all, &page, ret_file);
}

static int aggregate_values(struct plot *plot, const struct choice *choice, const float *values,
                            struct blend *aggregate)
{
    struct attention attention = measures_attention(&plot->layers[choice->layer], values);
    uint32_t size = attention.queries > attention.keys ? attention.queries : attention.keys;
    struct scratch scratch = {0};
    int rc = head_maps_new(&attention, 0, size, isa_best(), &scratch, &aggregate->maps);
    scratch_clear(&scratch);
    return rc == 0 ? work_out(plot, aggregate, &attention) : plot_fail_memory(plot);
}

int kind_aggregate(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    struct blend aggregate = {.layer = &plot->layers[choice->layer]};
    struct map_texts texts = {NULL, NULL};
    float *values = NULL;
    int code = plot_maps_read_heads(plot, choice->layer, &values);
    if (code == CLI_OK)
        code = aggregate_values(plot, choice, values, &aggregate);
    if (code == CLI_OK)
        code = plot_maps_texts(plot, choice->layer, &texts);
    if (code == CLI_OK)
        code = draw(plot, choice, &aggregate, &texts, ret_file);
    plot_maps_texts_clear(&texts);
    head_maps_free(&aggregate.maps);
    for (int i = 0; i < AGGREGATE_COUNT; i++)
        free(aggregate.values[i]);
    free(values);
    return code;
}
