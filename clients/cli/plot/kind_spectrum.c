/* SPDX-License-Identifier: MIT */
/* The singular values of each head's map, largest first, as far as the engine lists them. */
#include "chart.h"
#include "measures.h"

#include "label.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* More heads than can be told apart by name are coloured in their order. */
#define NAMED_MOST 8

static uint32_t color_of(const struct plot *plot, uint32_t head, uint32_t heads)
{
    if (heads <= NAMED_MOST)
        return chart_color(head);
    return plot->options.colors.color[20 + 200 * head / (heads - 1)];
}

/* Of many heads the first and the last are named: the colours go from one to the other. */
static bool is_named(uint32_t head, uint32_t heads)
{
    return heads <= NAMED_MOST || head == 0 || head == heads - 1 || head == heads / 2;
}

static void make_lines(const struct plot *plot, uint32_t heads, const double *x,
                       const double *values, struct chart_line *ret_lines)
{
    for (uint32_t head = 0; head < heads; head++) {
        ret_lines[head] = (struct chart_line){.x = x,
                                              .y = values + (size_t)head * SINGULAR_VALUES_MAX,
                                              .count = SINGULAR_VALUES_MAX,
                                              .color = color_of(plot, head, heads),
                                              .width = 0.9,
                                              .dots = true};
        if (is_named(head, heads))
            snprintf(ret_lines[head].name, CHART_NAME_MAX, "head %" PRIu32, head);
    }
}

static int draw(struct plot *plot, const struct choice *choice, const double *values,
                struct bytes *ret_file)
{
    const struct source_layer *layer = &plot->layers[choice->layer];
    double x[SINGULAR_VALUES_MAX];
    char title[TITLE_MAX], place[PLACE_TEXT_MAX], details[DETAILS_MAX];
    uint32_t shown = layer->rows < layer->columns ? layer->rows : layer->columns;
    struct chart_line *lines = calloc(layer->heads, sizeof(*lines));
    if (!lines)
        return plot_fail_memory(plot);
    for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++)
        x[i] = i + 1;
    make_lines(plot, layer->heads, x, values, lines);
    for (uint32_t head = 0; head < layer->heads; head++)
        lines[head].count = shown < SINGULAR_VALUES_MAX ? shown : SINGULAR_VALUES_MAX;
    plot_maps_layer_text(layer, place);
    plot_maps_details(plot, choice->layer, details);
    snprintf(title, sizeof(title), "%s, singular values of the heads' maps%s", place, details);
    struct chart chart = {.lines = lines,
                          .line_count = layer->heads,
                          .x_title = "index",
                          .y_title = "singular value",
                          .powers = true,
                          .low = plot->options.vmin,
                          .high = plot->options.vmax};
    int code = plot_chart(plot, &chart, WIDTH_ONE, title, ret_file);
    free(lines);
    return code;
}

static int measure_and_draw(struct plot *plot, const struct choice *choice, const float *maps,
                            struct bytes *ret_file)
{
    struct attention attention = measures_attention(&plot->layers[choice->layer], maps);
    struct measure *measure = NULL;
    int code = measures_run(plot, &attention, METRIC_GROUP_SPECTRUM, &measure);
    if (code != CLI_OK)
        return code;
    const double *values = measure_result(measure)->vector[VECTOR_SINGULAR_VALUES];
    code = values ? draw(plot, choice, values, ret_file) : plot_fail_memory(plot);
    measure_free(&measure);
    return code;
}

int kind_spectrum(struct plot *plot, const struct choice *choice, struct bytes *ret_file)
{
    float *maps = NULL;
    int code = plot_maps_read_heads(plot, choice->layer, &maps);
    if (code == CLI_OK)
        code = measures_check(plot, choice->layer, "the spectrum");
    if (code == CLI_OK)
        code = measure_and_draw(plot, choice, maps, ret_file);
    free(maps);
    return code;
}
