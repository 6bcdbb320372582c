/* SPDX-License-Identifier: MIT */
/* How alike the heads of a layer are, head by head. */
#include "clients/cli/plot/measures.h"

#include "clients/cli/plot/label.h"

#include <inttypes.h>
#include <stdlib.h>

static int draw(struct plot *plot, const struct choice *choice, const double *matrix,
                struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    uint32_t heads = layer->heads;
    char title[TITLE_MAX], place[PLACE_TEXT_MAX], details[DETAILS_MAX];
    float *values = malloc((size_t)heads * heads * sizeof(*values));
    if (!values)
        return plot_fail_memory(plot);
    for (uint32_t i = 0; i < heads * heads; i++)
        values[i] = (float)matrix[i];
    struct cell_axis axis = {.title = "head", .count = heads, .total = heads};
    struct panel panel = {
        .heat = {
            .values = values, .rows = heads, .columns = heads, .queries = heads, .keys = heads}};
    panel.x = panel.y = axis;
    struct panels panels = {.items = &panel,
                            .count = 1,
                            .shared = true,
                            .numbers = true,
                            .bar_title = plot->options.js ? "Jensen-Shannon divergence (nats)"
                                                          : "cosine similarity"};
    place_layer(layer->id, place);
    plot_maps_details(plot, choice->layer, details);
    snprintf(title, sizeof(title), "%s, similarity of heads%s", place, details);
    struct page page = plot_page(plot, WIDTH_ONE, title);
    int code = plot_panels(plot, &panels, &page, ret_file);
    free(values);
    return code;
}

static int measure_and_draw(struct plot *plot, const struct choice *choice, const float *values,
                            struct bytes *ret_file)
{
    struct attention attention = measures_attention(&plot->layers[choice->layer], values);
    struct measure *measure = NULL;
    int code = measures_run(plot, &attention, METRIC_GROUP_SIMILARITY, &measure);
    if (code != CLI_OK)
        return code;
    const struct measured *measured = measure_result(measure);
    const double *matrix = plot->options.js ? measured->head_js : measured->head_similarity;
    code = matrix ? draw(plot, choice, matrix, ret_file) : plot_fail_memory(plot);
    measure_free(&measure);
    return code;
}

int kind_similarity(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    float *values = NULL;
    int code = plot_maps_read_heads(plot, choice->layer, &values);
    if (code == CLI_OK)
        code = measures_check(plot, choice->layer, "similarity");
    if (code == CLI_OK)
        code = measure_and_draw(plot, choice, values, ret_file);
    free(values);
    return code;
}
